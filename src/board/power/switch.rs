//! Owns what every power driver offers, and running the programs that some of them need.
//! Never opens one.

use std::process::Command;

use anyhow::Result;

use crate::error::Fault;

/// What a power switch with lights shows of its board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    Off,
    /// The board booted its master image and checked in.
    Master,
    /// It runs tests.
    Testing,
    /// The last run failed.
    Failed,
}

/// A power switch.
pub trait Power: Send {
    fn on(&mut self) -> Result<()>;
    fn off(&mut self) -> Result<()>;

    /// Whether the board has power; `None` where the switch cannot tell.
    fn is_on(&mut self) -> Result<Option<bool>> {
        Ok(None)
    }

    /// Shows what the board is doing, where the switch has lights for it.
    fn show(&mut self, _light: Light) -> Result<()> {
        Ok(())
    }

    /// Switches a light, numbered from 1, where the switch has any.
    fn led(&mut self, number: u8, _on: bool) -> Result<()> {
        Err(Fault::input(format!("this power switch has no LED {number}")).into())
    }
}

/// Asks a person something; answers whether it is done.
pub type Ask = Box<dyn FnMut(&str) -> Result<bool> + Send>;

/// Runs a program to its end.
///
/// # Errors
/// Infrastructure, with what the program said, if it cannot be run or fails.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| Fault::infrastructure(format!("cannot run {name}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Fault::infrastructure(format!(
            "{name} failed ({}): {}",
            output.status,
            said.trim()
        ))
        .into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
