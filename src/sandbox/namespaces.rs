//! Owns the way into the namespaces from outside. Never runs anything in them itself.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::inside::{ChildRequest, ChildTask, passed_on};
use super::request::{EXECUTABLE, HIDDEN, StepName};
use super::root::{Program, Root};
use super::step::Step;
use super::{events, relay, terminal};
use crate::arch::Arch;
use crate::progress::Progress;

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

    /// Runs a [`Step`] and waits for it.
    ///
    /// # Errors
    /// The step's own; [`crate::error::Class::Host`] where the host has no user namespaces for the caller, no
    /// subordinate ids or no qemu-user.
    pub fn step<I, O>(&self, step: &Step<I, O>, input: &I, progress: &dyn Progress) -> Result<O>
    where
        I: Serialize,
        O: DeserializeOwned,
    {
        let command = self.command(ChildTask::Step(StepName::new(step.name)))?;
        events::exchange(command, step.name, input, progress)
    }

    /// Runs a program of an image for a person: if standard input, output and error are all terminals, it has one of its
    /// own, which is shown on theirs; else it has what of these is no terminal, and what it writes for one is passed on.
    /// Gives its exit code, as shells do.
    ///
    /// # Errors
    /// If it goes beyond the root's limits.
    pub fn attended(&self, root: Root, mut program: Program) -> Result<ExitCode> {
        program.terminal = terminal::is_interactive();
        let (name, limits) = (program.name().to_owned(), root.limits.clone());
        let on_a_terminal = program.terminal;
        let command = self.command(ChildTask::Program(Box::new((root, program))))?;
        let status = if on_a_terminal {
            relay::on_a_terminal(command, &name, &limits)?
        } else {
            relay::in_a_pipeline(command, &name, &limits)?
        };
        Ok(passed_on(status))
    }

    fn command(&self, job: ChildTask) -> Result<Command> {
        let entry = ChildRequest {
            parent: std::process::id(),
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
