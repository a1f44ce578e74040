//! usbpowercontrol, the LAVA@Home board: a serial port that takes one ASCII digit. Bit 0 is the
//! power, bits 1 to 3 are LEDs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::switch::{Light, Power};
use crate::dirs;
use crate::error::Fault;

const POWER: u8 = 1;
const LEDS: std::ops::RangeInclusive<u8> = 1..=3;

/// The device cannot be asked for its state, so that the last digit is remembered in the state directory.
pub(super) struct UsbPowerControl {
    device: PathBuf,
    memory: PathBuf,
}

impl UsbPowerControl {
    pub(super) fn open(device: &Path) -> Result<Self> {
        if !device.exists() {
            return Err(Fault::infrastructure(format!(
                "the power switch {} is not there",
                device.display()
            ))
            .remedy("is it plugged in?")
            .into());
        }
        let name = device.to_string_lossy().replace('/', "_");
        let directory = dirs::state().join("power");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(UsbPowerControl {
            device: device.to_path_buf(),
            memory: directory.join(name),
        })
    }

    fn state(&self) -> u8 {
        fs::read_to_string(&self.memory)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
            & 0xf
    }

    fn set(&self, state: u8) -> Result<()> {
        let failed = || format!("cannot write to the power switch {}", self.device.display());
        // ':' to '?' follow the digits in ASCII and keep bits 1 to 3 right above 9.
        let digit = b'0' + state;
        fs::OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NOCTTY)
            .open(&self.device)
            .and_then(|mut device| device.write_all(&[digit]))
            .with_context(failed)
            .map_err(|error| Fault::infrastructure(format!("{error:#}")))?;
        fs::write(&self.memory, state.to_string())
            .with_context(|| format!("cannot write {}", self.memory.display()))
    }
}

impl Power for UsbPowerControl {
    fn on(&mut self) -> Result<()> {
        self.set(self.state() | POWER)
    }

    fn off(&mut self) -> Result<()> {
        self.set(self.state() & !POWER)
    }

    fn is_on(&mut self) -> Result<Option<bool>> {
        Ok(self.memory.exists().then(|| self.state() & POWER != 0))
    }

    /// LED 1: master; LED 2: testing; LED 3: failed.
    fn show(&mut self, light: Light) -> Result<()> {
        let leds = match light {
            Light::Off => 0,
            Light::Master => 0b0010,
            Light::Testing => 0b0110,
            Light::Failed => 0b1000,
        };
        self.set(self.state() & POWER | leds)
    }

    fn led(&mut self, number: u8, on: bool) -> Result<()> {
        if !LEDS.contains(&number) {
            return Err(Fault::input(format!(
                "there is no LED {number}: usbpowercontrol has 1 to 3"
            ))
            .into());
        }
        let bit = 1 << number;
        self.set(if on {
            self.state() | bit
        } else {
            self.state() & !bit
        })
    }
}
