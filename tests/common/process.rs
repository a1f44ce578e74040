//! Owns processes that a test starts beside itself and that must not outlive it. Never waits for what they do.

use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that does not outlive its test.
pub struct Process(Option<Child>);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process(Some(command.spawn().unwrap()))
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Ends it at once.
    pub fn kill(self) {}

    /// Waits until it ends by itself.
    pub fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a command whose output is wanted when it has ended.
pub fn spawn(command: &mut Command) -> Process {
    Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}
