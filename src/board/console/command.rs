//! A program whose standard input and output are the console, such as `ssh lab picocom …`.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::{Console, settle};
use crate::error::Fault;

/// A console program; it is ended with the console.
pub(super) struct Program {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Program {
    pub(super) fn start(run: &[String]) -> Result<Self> {
        let (program, arguments) = run
            .split_first()
            .ok_or_else(|| Fault::input("the console's command is empty"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Fault::infrastructure(format!(
                    "cannot run the console's command {program}: {error}"
                ))
            })?;
        let (input, output) =
            child.stdin.take().zip(child.stdout.take()).ok_or_else(|| {
                Fault::infrastructure("the console's command has no input or output")
            })?;
        Ok(Program {
            child,
            input,
            output,
        })
    }
}

impl Console for Program {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        let mut ready = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(0),
            Ok(_) => settle(self.output.read(buffer)),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.input.write_all(data)?;
        self.input.flush()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is to be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_console_until_it_ends() {
        let mut console = Program::start(&["cat".into()]).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(
            console.read(&mut buffer, Duration::from_millis(5)).unwrap(),
            0
        );
        console.write(b"hello").unwrap();
        assert_eq!(
            console.read(&mut buffer, Duration::from_secs(5)).unwrap(),
            5
        );
        let mut ended = Program::start(&["true".into()]).unwrap();
        assert!(ended.read(&mut buffer, Duration::from_secs(5)).is_err());
    }
}
