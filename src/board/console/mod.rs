//! Owns the ways to a board's console: serial line, network, program. One file per driver.
//! Never interprets what passes through.

mod command;
mod reopen;
mod serial;
mod tcp;

use std::io;
use std::time::Duration;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe;
use reopen::{Pace, Reopened};

/// A board's console, open for reading and writing.
pub trait Console: Send {
    /// Reads what has come, at most `buffer.len()` bytes; 0 if nothing came within `patience`.
    ///
    /// # Errors
    /// If the console is lost for good. One that is opened again reads as silent while it is [`Console::gone`].
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Sends all of `data` to the board.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;

    /// Why nothing can be read at present, as a sentence that names the console: it was lost and is tried again.
    fn gone(&self) -> Option<&str> {
        None
    }

    /// What was missed while the console was gone, told once, before what [`Console::read`] gave last.
    fn missed(&mut self) -> Option<String> {
        None
    }
}

/// A device that comes back is there at once.
const DEVICE: Pace = Pace {
    first: Duration::from_millis(50),
    longest: Duration::from_millis(200),
};
/// Servers and programs get longer pauses between attempts.
const OTHERS: Pace = Pace {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(2),
};

/// Opens the console that a lab file describes. When it is lost, it is opened again with the same settings: a serial
/// device by its name, which may mean another node by then, a connection, a program.
///
/// # Errors
/// If it cannot be opened (exit code 4), or another program uses it.
pub fn open(console: &recipe::Console) -> Result<Box<dyn Console>> {
    let console = console.clone();
    let (name, pace) = match &console {
        recipe::Console::Serial { device, .. } => (device.display().to_string(), DEVICE),
        recipe::Console::Tcp { address } | recipe::Console::Telnet { address } => {
            (address.clone(), OTHERS)
        }
        recipe::Console::Command { run } => {
            let program = run.first().map_or("", String::as_str);
            (format!("the program {program}"), OTHERS)
        }
        recipe::Console::Qemu {} => return open_once(&console),
    };
    let again = Box::new(move || open_once(&console));
    Ok(Box::new(Reopened::open(name, pace, again)?))
}

/// As [`open`], but a console that is lost stays lost: an emulator's device may be another program's after its end.
///
/// # Errors
/// As [`open`].
pub fn open_once(console: &recipe::Console) -> Result<Box<dyn Console>> {
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
