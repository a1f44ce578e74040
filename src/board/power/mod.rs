//! Owns the ways to switch a board's power. One file per driver.
//! Never decides when to.

mod command;
mod manual;
mod pdudaemon;
mod tasmota;
mod uhubctl;
mod usbpowercontrol;

use std::process::Command;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe;

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

/// The switch that a lab file describes. `ask` is for boards that a person switches.
pub fn open(power: &recipe::Power, ask: Ask) -> Result<Box<dyn Power>> {
    Ok(match power {
        recipe::Power::Usbpowercontrol { device } => {
            Box::new(usbpowercontrol::UsbPowerControl::open(device)?)
        }
        recipe::Power::Pdudaemon {
            url,
            hostname,
            port,
            alias,
        } => Box::new(pdudaemon::Pdudaemon::new(
            url,
            hostname.as_deref(),
            port.as_deref(),
            alias.as_deref(),
        )?),
        recipe::Power::Tasmota {
            url,
            relay,
            user,
            password_file,
        } => Box::new(tasmota::Tasmota::open(
            url,
            *relay,
            user.as_deref(),
            password_file.as_deref(),
        )?),
        recipe::Power::Uhubctl { location, port } => {
            Box::new(uhubctl::Uhubctl::new(location, *port))
        }
        recipe::Power::Command { on, off, status } => Box::new(command::Commands::new(
            on.clone(),
            off.clone(),
            status.clone(),
        )),
        recipe::Power::Manual {} => Box::new(manual::Manual::new(ask)),
        recipe::Power::Qemu {} => {
            return Err(Fault::input("an emulated board has no power switch of its own: `hearth test` and `hearth boot` start it").into());
        }
    })
}

/// Runs a program to its end.
///
/// # Errors
/// Infrastructure, with what the program said, if it cannot be run or fails.
fn run(command: &mut Command) -> Result<String> {
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
