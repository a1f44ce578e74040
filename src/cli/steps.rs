//! Owns the processes that `hearth bisect` runs for each step, `hearth test` and the user's build: they end when it does,
//! and a signal reaches them first.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, FromArgMatches};
use hearth::error::Fault;
use hearth::job::{Criterion, Judgement, StopReason, report};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use super::common::Common;
use super::test;

/// How long to wait before a process is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// `hearth test` as the user wants it for each step.
pub struct TestCommand {
    /// What the user gave behind `hearth test`.
    words: Vec<OsString>,
    pub arguments: test::Arguments,
}

impl TestCommand {
    /// Understands the words, with those that a step adds: a mistake is told before anything is built.
    ///
    /// # Errors
    /// Never; a mistake ends the program, as any other in the arguments does.
    pub fn understand(words: &[OsString], with_image: bool) -> Self {
        let image = with_image.then_some(Path::new("image"));
        TestCommand {
            words: words.to_vec(),
            arguments: parsed(&of_step(words, image, Path::new("report"))),
        }
    }

    /// Runs it for one step.
    ///
    /// # Errors
    /// If hearth cannot be started.
    pub fn run(
        &self,
        image: Option<&Path>,
        directory: &Path,
        criterion: &Criterion,
        signals: &Signals,
    ) -> Result<Judgement> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("test")
            .args(of_step(&self.words, image, directory))
            // The table of results is in the report.
            .stdout(Stdio::null());
        let status = signals.run(&mut command)?;
        let code = status.code().unwrap_or(128);
        if let Some(reason) = StopReason::of_exit_code(code) {
            let why = format!("hearth test ended with {status}");
            return Ok(Judgement::Stop(why, reason));
        }
        // The report knows why.
        let told = report::load(directory).ok();
        let told = told.map(|report| criterion.judge(&report));
        Ok(match told {
            Some(told) if i32::from(told.exit_code()) == code => told,
            _ if code == 0 => Judgement::Good,
            _ if code == 1 => Judgement::Bad("the test failed".into()),
            _ => Judgement::Untestable("board, network or host failed".into()),
        })
    }

    /// The words as bytes, for the bisection's subject.
    pub fn bytes(&self) -> impl Iterator<Item = Vec<u8>> {
        let words = self.words.iter();
        words.map(|word| word.as_encoded_bytes().to_vec())
    }
}

/// The words behind `hearth test` for one step.
fn of_step(given: &[OsString], image: Option<&Path>, directory: &Path) -> Vec<OsString> {
    let mut words = given.to_vec();
    let has_mode = words.iter().any(|word| {
        let word = word.to_string_lossy();
        word == "--bisect" || word.starts_with("--bisect=")
    });
    if !has_mode {
        words.push("--bisect".into());
    }
    if let Some(image) = image {
        words.extend(["--image".into(), image.into()]);
    }
    words.extend(["--output".into(), directory.into()]);
    words.extend(["--parent".into(), std::process::id().to_string().into()]);
    words
}

/// The arguments of `hearth test` with these words behind it.
fn parsed(words: &[OsString]) -> test::Arguments {
    let command = clap::Command::new("hearth test").no_binary_name(true);
    let command = Common::augment_args(test::Arguments::augment_args(command));
    let matches = command.try_get_matches_from(words);
    match matches.and_then(|matches| test::Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    }
}

/// Signals that end this process at once, unless a step's process runs: that one is ended first, and cleans up.
pub struct Signals {
    /// Whether a signal ends this process.
    idle: Arc<AtomicBool>,
    arrived: Arc<AtomicBool>,
}

impl Signals {
    /// # Errors
    /// If the signals cannot be caught.
    pub fn catch() -> Result<Self> {
        let signals = Signals {
            idle: Arc::new(AtomicBool::new(true)),
            arrived: Arc::new(AtomicBool::new(false)),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            flag::register_conditional_default(signal, Arc::clone(&signals.idle))?;
            flag::register(signal, Arc::clone(&signals.arrived))?;
        }
        Ok(signals)
    }

    /// Runs a process to its end; a signal for this one is passed on to it.
    ///
    /// # Errors
    /// If it cannot be started, or a signal came.
    pub fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        self.idle.store(false, Ordering::SeqCst);
        let name = command.get_program().to_string_lossy().into_owned();
        let ended = command
            .spawn()
            .with_context(|| format!("cannot run {name}"))
            .and_then(|child| self.wait(child));
        self.idle.store(true, Ordering::SeqCst);
        let status = ended?;
        if self.arrived.load(Ordering::SeqCst) {
            return Err(
                Fault::infrastructure("the bisection was stopped by a signal")
                    .remedy("the same command goes on where this one was")
                    .into(),
            );
        }
        Ok(status)
    }

    fn wait(&self, mut child: Child) -> Result<ExitStatus> {
        let mut is_told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.arrived.load(Ordering::SeqCst) && !is_told {
                is_told = true;
                // It may have ended at this moment.
                let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            }
            sleep(PAUSE);
        }
    }
}
