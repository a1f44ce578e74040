//! Owns what a caller inside the namespaces says about a root directory and the programs to run in it.
//! Never mounts anything itself.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use serde::de::DeserializeOwned;

use super::events;
use super::request::{EXECUTABLE, HIDDEN, StepName};
use super::step::Step;
use super::watch::{self, Limits};
use crate::progress::Progress;

/// The directory of an image, and how programs see it. Enter it from inside [`super::Namespaces`] only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Root {
    /// Absolute, or relative to the working directory.
    pub directory: PathBuf,
    /// What a program writes goes to memory, and is gone when it ends; each program starts afresh.
    pub throw_away: bool,
    /// With `throw_away`: further layers below `directory`, topmost first.
    pub below: Vec<PathBuf>,
    /// Files and directories of the host and where they are seen, read-only, in the root (where they are made,
    /// unless they are there or in one of the root's own file systems, such as `/run`).
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Names and texts of scripts that take the place of the image's programs of the same names; they are not
    /// written into the image.
    pub shims: Vec<(String, String)>,
    /// A second sight of the root, where programs may go by chroot(2).
    pub view: Option<Box<View>>,
    /// The host's network and `resolv.conf`; otherwise there is only a loopback device.
    pub network: bool,
    /// `fsync` and its like do nothing; setuid programs gain nothing then.
    pub ignore_syncs: bool,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: u64,
    /// Of programs; silence and output are those of [`Root::run`] and of [`super::Namespaces::attended`].
    pub limits: Limits,
}

impl Root {
    /// For building: writes stay, no network, syncs ignored, epoch 0.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Root {
            directory: directory.into(),
            throw_away: false,
            below: Vec::new(),
            binds: Vec::new(),
            shims: Vec::new(),
            view: None,
            network: false,
            ignore_syncs: true,
            epoch: 0,
            limits: Limits::default(),
        }
    }

    /// Runs a program to its end; its standard input is empty. `output` gets each line of what it writes
    /// to standard output and standard error, in order, without the line feed, and fit to be shown.
    ///
    /// # Errors
    /// If it goes beyond the root's limits, it is ended. If the root cannot be entered, the status is that of hearth itself (2 or 3) and the reason is the last line.
    pub fn run(&self, program: &Program, output: &mut dyn FnMut(&str)) -> Result<ExitStatus> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = self.command(program)?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", program.name()))?;
        // It holds our copies of the pipe's writing end.
        drop(command);
        let followed = watch::follow(
            reader,
            program.name(),
            &self.directory,
            &self.limits,
            output,
        );
        if followed.is_err() {
            // What it has started ends with it.
            child.kill()?;
        }
        let status = child.wait()?;
        followed.map(|()| status)
    }

    /// Runs a [`Step`] in the root: its paths are the image's, and none leads out of it. `throw_away` does not
    /// make sense here.
    ///
    /// # Errors
    /// The step's own.
    pub fn step<I, O>(&self, step: &Step<I, O>, input: &I, progress: &dyn Progress) -> Result<O>
    where
        I: Serialize,
        O: DeserializeOwned,
    {
        let work = RootTask::Step(StepName::new(step.name));
        events::exchange(self.enter(&work)?, step.name, input, progress)
    }

    /// The command that enters the root and runs the program in it; the caller chooses standard input, output
    /// and error.
    pub fn command(&self, program: &Program) -> Result<Command> {
        self.enter(&RootTask::Program(program.clone()))
    }

    fn enter(&self, work: &RootTask) -> Result<Command> {
        let entry = serde_json::to_string(&(self, work))?;
        let mut command = Command::new(EXECUTABLE);
        command.arg0("hearth").args([HIDDEN, "program", &entry]);
        Ok(command)
    }
}

/// A second sight of a root, at [`View::PLACE`] in it: the same file systems, but what the root binds and shims is not seen;
/// other files are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// As [`Root::binds`]; only where the root has a file already.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// As [`Root::shims`].
    pub shims: Vec<(String, String)>,
    /// Directories that are empty in it.
    pub emptied: Vec<PathBuf>,
}

impl View {
    /// Where it is seen in the root.
    pub const PLACE: &str = "/run/hearth/view";
}

/// What is done in a root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum RootTask {
    Program(Program),
    Step(StepName),
}

/// A program of the image, with its arguments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Looked for in the image's `PATH` unless it has a slash.
    pub argv: Vec<String>,
    /// Beyond, or instead of, the fixed environment.
    pub environment: Vec<(String, String)>,
    /// Where it starts, in the image.
    pub directory: PathBuf,
    /// It has a terminal of its own, and standard input is a line (see `pty`) to hearth outside.
    pub terminal: bool,
}

impl Program {
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Program {
            argv: argv.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            directory: Path::new("/").to_owned(),
            terminal: false,
        }
    }

    /// Lines for the image's `/bin/sh`, which stops at the first that fails.
    pub fn shell(script: &str) -> Self {
        Program::new(["/bin/sh", "-e", "-c", script])
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn name(&self) -> &str {
        self.argv.first().map_or("nothing", String::as_str)
    }
}
