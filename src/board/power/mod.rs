//! Owns the ways to switch a board's power. One file per driver.
//! Never decides when to.

mod command;
mod manual;
mod pdudaemon;
mod switch;
mod tasmota;
mod uhubctl;
mod usbpowercontrol;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe;
pub use switch::{Ask, Light, Power};

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
