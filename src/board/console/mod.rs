//! Owns the ways to a board's console: serial line, network, program. One file per driver.
//! Never interprets what passes through.

mod command;
mod line;
mod reopen;
mod serial;
mod tcp;

use std::time::Duration;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe;
pub use line::Console;
use reopen::{Pace, Reopened};

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
