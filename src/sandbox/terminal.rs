//! Owns the modes of the operator's terminal, and who is in the foreground of a program's own. Never reads or writes either.
//!
//! See termios(3), tcsetpgrp(3), credentials(7).

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, setsid, tcsetpgrp};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

use super::request::{EXECUTABLE, HIDDEN};

/// Whether the program is to be used by hand, rather than being a part of a pipeline.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Puts the process group that `program` leads into the foreground of standard input, and lets it run on. A shell with job
/// control wants such a group.
pub fn give_to(program: Pid) -> Result<()> {
    // The kernel stops who does this from the background, unless the signal is blocked.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    stop.thread_block()?;
    let done = tcsetpgrp(io::stdin(), program);
    stop.thread_unblock()?;
    done?;
    // It may have stopped for not being there.
    Ok(killpg(program, Signal::SIGCONT)?)
}

/// The operator's terminal, whose keys all go to the program until this is dropped, whatever ends hearth: a second process,
/// in a session of its own, puts the modes back if hearth itself does not get to it.
pub struct Raw {
    before: Termios,
    raw: Termios,
    /// Open until hearth ends.
    guarded: Option<UnixStream>,
    guard: Child,
}

impl Raw {
    /// # Errors
    /// If standard input is no terminal.
    pub fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let (mut guarded, theirs) = UnixStream::pair()?;
        let guard = Command::new(EXECUTABLE)
            .arg0("hearth")
            .args([HIDDEN, "terminal", "-"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(io::stdin().as_fd().try_clone_to_owned()?)
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run hearth again")?;
        guarded
            .read_exact(&mut [0])
            .context("cannot guard the terminal's settings")?;
        let mut terminal = Raw {
            raw: raw(&before),
            before,
            guarded: Some(guarded),
            guard,
        };
        terminal.resume()?;
        Ok(terminal)
    }

    /// The modes and the size of the operator's terminal, for another one.
    pub fn copy_to(&self, terminal: impl AsFd) -> Result<()> {
        tcsetattr(&terminal, SetArg::TCSANOW, &self.before)?;
        self.copy_size_to(terminal)
    }

    pub fn copy_size_to(&self, terminal: impl AsFd) -> Result<()> {
        Ok(tcsetwinsize(terminal, tcgetwinsize(io::stdin())?)?)
    }

    /// As it was before, for the operator's shell.
    pub fn suspend(&mut self) {
        // A terminal that hung up needs nothing. What the program asked of it may still be answered: not to the shell.
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }

    pub fn resume(&mut self) -> Result<()> {
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.raw).context("cannot set the terminal")
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.suspend();
        drop(self.guarded.take());
        let _ = self.guard.wait();
    }
}

fn raw(before: &Termios) -> Termios {
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    raw
}

/// The second process of [`Raw`]: waits until hearth has ended, and puts back the modes of the terminal, which is its
/// standard output, if they are still those that hearth has set.
pub fn guard() -> Result<()> {
    // Signals of the terminal and of the job are not for this one, nor is it stopped for setting modes in the background.
    setsid()?;
    let before = tcgetattr(io::stdout())?;
    let mut hearth = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    hearth.write_all(b"!")?;
    let _ = hearth.read(&mut [0]);
    if tcgetattr(io::stdout())? == raw(&before) {
        tcsetattr(io::stdout(), SetArg::TCSAFLUSH, &before)?;
    }
    Ok(())
}
