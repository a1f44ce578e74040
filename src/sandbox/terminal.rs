//! Owns who is in the foreground of the caller's terminal while a program of the image has it. Never reads or writes it.
//!
//! A shell with job control wants a process group that it can name, to return the terminal to when it ends: the
//! caller's group is outside its pid namespace. See tcsetpgrp(3), credentials(7).

use std::io::{self, IsTerminal};

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgrp, tcsetpgrp};

/// Whether the program is to be used by hand, rather than being a part of a pipeline.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Puts the process group that `program` leads into the foreground.
pub fn give_to(program: Pid) -> Result<()> {
    in_foreground(program)?;
    // It may have stopped for not being there.
    Ok(killpg(program, Signal::SIGCONT)?)
}

/// Puts the caller's process group back into the foreground.
pub fn take_back() {
    // A terminal that hung up needs nothing.
    let _ = in_foreground(getpgrp());
}

fn in_foreground(group: Pid) -> nix::Result<()> {
    // The kernel stops who does this from the background, unless the signal is blocked.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    stop.thread_block()?;
    let done = tcsetpgrp(io::stdin(), group);
    stop.thread_unblock()?;
    done
}
