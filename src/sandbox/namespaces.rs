//! Owns the way into the namespaces from outside. Never runs anything in them itself.

use std::io::{BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events;
use super::inside::{EXECUTABLE, Entry, HIDDEN, Job};
use super::root::{Program, Root};
use crate::progress::Progress;
use crate::recipe::Arch;

/// A user namespace with all ids that an image uses, and private mount, pid, ipc and uts namespaces, in which hearth runs
/// itself once more.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    arch: Option<Arch>,
}

impl Namespaces {
    /// For hearth's own code only.
    pub fn new() -> Self {
        Namespaces::default()
    }

    /// Such that programs of the architecture run as well, with qemu-user where the host is another.
    #[must_use]
    pub fn running(arch: Arch) -> Self {
        Namespaces { arch: Some(arch) }
    }

    /// Runs a [`super::Step`] by its name, and waits for it.
    ///
    /// # Errors
    /// The step's own; [`crate::error::Class::Host`] where the host has no user namespaces for the caller, no
    /// subordinate ids or no qemu-user.
    pub fn step<I, O>(&self, name: &str, input: &I, progress: &dyn Progress) -> Result<O>
    where
        I: Serialize,
        O: DeserializeOwned,
    {
        let job = Job::Step {
            name: name.to_owned(),
            log: log::max_level().to_string(),
        };
        let input = serde_json::to_vec(input)?;
        let mut child = self
            .command(job, Some(std::process::id()))?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run hearth again")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that failed early does not read it, and says why in its answer.
            let _ = stdin.write_all(&input);
        }
        let answer = match child.stdout.take() {
            Some(stdout) => events::receive(BufReader::new(stdout), progress),
            None => Err(anyhow::anyhow!("the sandbox has no standard output")),
        };
        child.wait()?;
        serde_json::from_value(answer?).with_context(|| format!("the answer of step {name}"))
    }

    /// Becomes a program of an image: same terminal, same standard input and output; its exit code becomes
    /// hearth's. Returns only if that fails.
    pub fn become_program(&self, root: Root, program: Program) -> anyhow::Error {
        match self.command(Job::Program { root, program }, None) {
            Ok(mut command) => {
                anyhow::Error::new(command.exec()).context("cannot run hearth again")
            }
            Err(error) => error,
        }
    }

    fn command(&self, job: Job, parent: Option<u32>) -> Result<Command> {
        let entry = Entry {
            parent,
            arch: self.arch,
            job,
        };
        let mut command = Command::new(EXECUTABLE);
        command
            .arg0("hearth")
            .args([HIDDEN, "outer", &serde_json::to_string(&entry)?]);
        Ok(command)
    }
}
