//! Owns the ways to a board's console: serial line, network, program. One file per driver.
//! Never interprets what passes through.

mod command;
mod serial;
mod tcp;

use std::io;
use std::time::Duration;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe;

/// A board's console, open for reading and writing.
pub trait Console: Send {
    /// Reads what has come, at most `buffer.len()` bytes; 0 if nothing came within `patience`.
    ///
    /// # Errors
    /// If the console is lost: unplugged, closed by the other side, its program ended.
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Sends all of `data` to the board.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;
}

/// Opens the console that a lab file describes.
///
/// # Errors
/// If it cannot be opened (exit code 4), or somebody else uses it.
pub fn open(console: &recipe::Console) -> Result<Box<dyn Console>> {
    match console {
        recipe::Console::Serial { device, speed } => Ok(Box::new(serial::Serial::open(
            device,
            speed.unwrap_or(115_200),
        )?)),
        recipe::Console::Tcp { address } => Ok(Box::new(tcp::Tcp::raw(address)?)),
        recipe::Console::Telnet { address } => Ok(Box::new(tcp::Tcp::telnet(address)?)),
        recipe::Console::Command { run } => Ok(Box::new(command::Program::start(run)?)),
        recipe::Console::Qemu {} => Err(Fault::input(
            "the console of an emulated board opens with the board, not by itself",
        )
        .into()),
    }
}

/// What `read` says when the other side is gone.
fn lost() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the console was closed by its other side",
    )
}

/// Turns "nothing yet" into 0 and an orderly end into an error.
fn settle(result: io::Result<usize>) -> io::Result<usize> {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    match result {
        Ok(0) => Err(lost()),
        Err(error) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => Ok(0),
        other => other,
    }
}
