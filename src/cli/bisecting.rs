//! Owns the exit codes of `hearth test --bisect` where no judgement comes to be: a mistake in the arguments, a panic. Of
//! their own these would mean "bad" to `git bisect run`.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use hearth::job::StopReason;

/// Whether the arguments ask for `hearth test --bisect`, as far as they can be understood.
fn is_wanted(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> bool {
    let arguments: Vec<String> = arguments
        .into_iter()
        .map(|argument| argument.as_ref().to_string_lossy().into_owned())
        .collect();
    let command = arguments.iter().find(|word| !word.starts_with('-'));
    let asks = |word: &String| word == "--bisect" || word.starts_with("--bisect=");
    command.is_some_and(|command| command == "test") && arguments.iter().any(asks)
}

/// Prints what is wrong with the arguments, or the help that they ask for, and gives the exit code.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() && is_wanted(std::env::args_os().skip(1)) {
        return ExitCode::from(StopReason::Mistake.exit_code());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(u8::MAX))
}

/// Runs the command; a panic ends a bisection.
pub fn guarded(run: impl FnOnce() -> ExitCode) -> ExitCode {
    if !is_wanted(std::env::args_os().skip(1)) {
        return run();
    }
    // The message is printed already; nothing of the command is used any more.
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| ExitCode::from(StopReason::Bug.exit_code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bisecting_test_has_other_exit_codes() {
        assert!(is_wanted(["test", "neo1", "--bisect"]));
        assert!(is_wanted(["-q", "test", "--bisect=boot", "--nonsense"]));
        assert!(!is_wanted(["test", "neo1", "bisect"]));
        assert!(!is_wanted(["bisect", "git", "test", "--bisect"]));
    }
}
