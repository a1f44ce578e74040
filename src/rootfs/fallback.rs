//! Owns what is done again, and how, where native tools do not do: by the cause of the failure.
//! Never runs a script.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::error::cause_of;
use crate::progress::Progress;
use crate::sandbox::{Cause, FailedScript, remove};

/// So often scripts are run again by which others have failed; then everything is emulated.
const MOST_DETOURS: usize = 4;

/// Runs something with the tools, if there are any. What fails may need what only the image's own programs do:
///
/// - Maintainer scripts that fail: all is done again, where `run` lets the scripts of the packages that it is given run
///   the image's own programs. Each of these finds the state that it would have found with all programs emulated.
/// - Where that does not help, or another program failed, or the host's files are among the image's: once more, without tools.
/// - Everything else would fail in the same way, and so would a script that said the same with its own programs.
///
/// `run` leaves its files in `work`, which is emptied in between.
///
/// # Errors
/// The last of `run`.
pub fn or_emulated<T>(
    tools: Option<&Path>,
    work: &Path,
    progress: &dyn Progress,
    run: impl Fn(Option<&Path>, &BTreeSet<String>) -> Result<T>,
) -> Result<T> {
    let mut attempt = Attempt {
        tools,
        ..Attempt::default()
    };
    loop {
        let error = match run(attempt.tools, &attempt.emulated) {
            Err(error) => error,
            done => return done,
        };
        let Some(next) = cause_of(&error).and_then(|cause| attempt.next(cause)) else {
            return Err(error);
        };
        // One message a line, since a message is shown as one line.
        for line in format!("{error:#}").lines() {
            log::warn!("{line}");
        }
        log::warn!("{}", next.announcement());
        let entries = fs::read_dir(work)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        remove(&entries, progress)?;
        attempt = next;
    }
}

/// One way of running something.
#[derive(Debug, Default)]
struct Attempt<'a> {
    tools: Option<&'a Path>,
    /// Packages whose scripts run the image's own programs.
    emulated: BTreeSet<String>,
    /// What failed in the attempts before.
    failed: Vec<FailedScript>,
    detours: usize,
}

impl Attempt<'_> {
    /// What may help against that failure, if anything.
    fn next(&self, cause: &Cause) -> Option<Self> {
        self.tools?;
        let Cause::Scripts(scripts) = cause else {
            return Some(Attempt::default());
        };
        let was_emulated = |script: &FailedScript| self.emulated.contains(&script.package);
        let fails_either_way =
            |script: &FailedScript| was_emulated(script) && self.failed.contains(script);
        if scripts.iter().any(fails_either_way) {
            return None;
        }
        if scripts.iter().any(was_emulated) || self.detours == MOST_DETOURS {
            return Some(Attempt::default());
        }
        let names = scripts.iter().map(|script| script.package.clone());
        Some(Attempt {
            tools: self.tools,
            emulated: self.emulated.iter().cloned().chain(names).collect(),
            failed: self.failed.iter().chain(scripts).cloned().collect(),
            detours: self.detours + 1,
        })
    }

    fn announcement(&self) -> String {
        match self.tools {
            None => "trying again without native tools, which takes longer".into(),
            Some(_) => {
                let names: Vec<&str> = self.emulated.iter().map(String::as_str).collect();
                format!("trying again with emulated scripts of {}", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    use crate::error::Fault;
    use crate::progress::NoProgress;

    fn script(package: &str, line: &str) -> FailedScript {
        FailedScript {
            package: package.into(),
            script: "postinst".into(),
            reason: "exit status 2".into(),
            lines: vec![line.into()],
        }
    }

    /// Runs with these failures, one an attempt; tells each attempt's tools and emulated packages, and the error.
    fn attempts(causes: &[Option<Cause>]) -> (Vec<String>, Option<String>) {
        let tried = RefCell::new(Vec::new());
        let work = tempfile::tempdir().unwrap();
        let run = |tools: Option<&Path>, emulated: &BTreeSet<String>| -> Result<()> {
            let number = tried.borrow().len();
            let names: Vec<&str> = emulated.iter().map(String::as_str).collect();
            let kind = if tools.is_some() { "native" } else { "none" };
            tried
                .borrow_mut()
                .push(format!("{kind} {}", names.join(" ")));
            match causes.get(number) {
                None => Ok(()),
                Some(None) => Err(Fault::input(format!("failure {number}")).into()),
                Some(Some(cause)) => Err(Fault::input(format!("failure {number}"))
                    .because(cause.clone())
                    .into()),
            }
        };
        let tools = Some(Path::new("/tools"));
        let done = or_emulated(tools, work.path(), &NoProgress, run);
        (
            tried.into_inner(),
            done.err().map(|error| error.to_string()),
        )
    }

    fn failed<const N: usize>(scripts: [&FailedScript; N]) -> Option<Cause> {
        Some(Cause::Scripts(scripts.map(Clone::clone).into()))
    }

    #[test]
    fn failed_scripts_alone_are_emulated_and_only_what_that_does_not_help_is_wholly() {
        let (a, b) = (script("a", "no module"), script("b", "no file"));
        let all = failed([&a, &b]);
        assert_eq!(
            attempts(&[all]),
            (vec!["native ".into(), "native a b".into()], None)
        );
        // One after the other.
        let tried = attempts(&[failed([&a]), failed([&b])]).0;
        assert_eq!(tried, ["native ", "native a", "native a b"]);
        // Emulated it says something else: perhaps what other scripts have made is at fault.
        let tried = attempts(&[failed([&a]), failed([&script("a", "busy")])]).0;
        assert_eq!(tried, ["native ", "native a", "none "]);
        for cause in [Cause::Program, Cause::HostsFile] {
            assert_eq!(attempts(&[Some(cause)]).0, ["native ", "none "]);
        }
    }

    #[test]
    fn what_fails_either_way_is_not_tried_again() {
        let a = script("a", "exit 7");
        let (tried, error) = attempts(&[failed([&a]), failed([&a])]);
        assert_eq!(tried, ["native ", "native a"]);
        assert_eq!(error.as_deref(), Some("failure 1"));
        let (tried, error) = attempts(&[None]);
        assert_eq!((tried.len(), error.as_deref()), (1, Some("failure 0")));
        let (tried, error) = attempts(&[Some(Cause::Program), Some(Cause::Program)]);
        assert_eq!((tried.len(), error.as_deref()), (2, Some("failure 1")));
    }
}
