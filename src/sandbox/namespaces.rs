//! Owns the way into the namespaces from outside. Never runs anything in them itself.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events;
use super::inside::{EXECUTABLE, Entry, HIDDEN, Job, StepName};
use super::root::{Program, Root};
use super::step::Step;
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

    /// Runs a [`Step`], and waits for it.
    ///
    /// # Errors
    /// The step's own; [`crate::error::Class::Host`] where the host has no user namespaces for the caller, no
    /// subordinate ids or no qemu-user.
    pub fn step<I, O>(&self, step: &Step<I, O>, input: &I, progress: &dyn Progress) -> Result<O>
    where
        I: Serialize,
        O: DeserializeOwned,
    {
        let command = self.command(Job::Step(StepName::of(step)), Some(std::process::id()))?;
        events::exchange(command, step, input, progress)
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
