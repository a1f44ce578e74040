//! Owns access to a board's power and console, emulated or real, and that its power is cut in the end.
//! Never interprets what the console shows.

use anyhow::Result;

use crate::board::console::Console;
use crate::board::power::{Light, Power};
use crate::board::qemu::{Emulator, Spec};

/// How to reach a board.
pub enum BoardAccess {
    /// An emulated board: how QEMU is started, and the command line that goes before QEMU's.
    Emulated { spec: Spec, launcher: Vec<String> },
    /// A real board: its power switch, and what opens its console.
    Real {
        power: Box<dyn Power>,
        console: Box<dyn FnMut() -> Result<Box<dyn Console>>>,
    },
}

/// A board with its power on. Dropping it cuts the power.
pub(super) struct Powered<'a> {
    kind: Kind<'a>,
    console: Box<dyn Console>,
    off: bool,
}

enum Kind<'a> {
    Emulated(Emulator),
    Real(&'a mut dyn Power),
}

impl<'a> Powered<'a> {
    pub(super) fn on(access: &'a mut BoardAccess) -> Result<Self> {
        match access {
            BoardAccess::Emulated { spec, launcher } => {
                let (emulator, console) = Emulator::start(spec, launcher)?;
                Ok(Powered {
                    kind: Kind::Emulated(emulator),
                    console,
                    off: false,
                })
            }
            BoardAccess::Real { power, console } => {
                // Opened before power-on, so that no byte is missed.
                let console = console()?;
                power.off()?;
                power.on()?;
                Ok(Powered {
                    kind: Kind::Real(power.as_mut()),
                    console,
                    off: false,
                })
            }
        }
    }

    pub(super) fn console(&mut self) -> &mut dyn Console {
        self.console.as_mut()
    }

    /// Whether an emulated board powered itself off. Of a real board this is not known: always `false`.
    pub(super) fn is_off(&mut self) -> bool {
        match &mut self.kind {
            Kind::Emulated(emulator) => !emulator.is_on(),
            Kind::Real(_) => false,
        }
    }

    /// Shows on the power switch what the board is doing, where it can.
    pub(super) fn light(&mut self, light: Light) {
        if let Kind::Real(power) = &mut self.kind
            && let Err(error) = power.show(light)
        {
            log::warn!("the power switch's lights do not work: {error:#}");
        }
    }

    pub(super) fn off(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.off, true) {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Emulated(emulator) => {
                emulator.off();
                Ok(())
            }
            Kind::Real(power) => power.off(),
        }
    }
}

impl Drop for Powered<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.off() {
            log::error!("the board could not be switched off: {error:#}");
        }
    }
}
