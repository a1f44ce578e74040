//! Owns how long a board may stay in each state of its boot, and how often a failed boot is tried again.
//! Never reads a clock.

use super::boot_state::BootState;
use crate::recipe::{BoardRetries, BoardTimeouts};

/// How long a board may stay in each state, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    pub power: f64,
    pub bootloader: f64,
    pub kernel: f64,
    pub userspace: f64,
    pub checked_in: f64,
    /// For all tests together.
    pub running: f64,
    /// Without a sign of life while tests run: neither heartbeat nor console.
    pub silence: f64,
    /// From the end of the tests until the board has powered itself off.
    pub shutdown: f64,
    /// For the lines that follow a crash's first one.
    pub aftermath: f64,
    /// For an answer of the shell on the board's console, however often it is asked.
    pub answer: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            power: 60.0,
            bootloader: 300.0,
            kernel: 420.0,
            userspace: 420.0,
            checked_in: 120.0,
            running: 3600.0,
            silence: 240.0,
            shutdown: 120.0,
            aftermath: 3.0,
            answer: 60.0,
        }
    }
}

impl Timeouts {
    /// For boards that a busy host emulates: with a tenth of a processor they still come up.
    pub fn emulated() -> Self {
        Timeouts {
            power: 120.0,
            bootloader: 900.0,
            kernel: 900.0,
            userspace: 1200.0,
            checked_in: 300.0,
            silence: 600.0,
            shutdown: 300.0,
            answer: 300.0,
            ..Timeouts::default()
        }
    }

    /// These, with what a lab file sets for a board.
    #[must_use]
    pub fn with(self, lab: &BoardTimeouts) -> Self {
        Timeouts {
            power: lab.power.unwrap_or(self.power),
            bootloader: lab.bootloader.unwrap_or(self.bootloader),
            kernel: lab.kernel.unwrap_or(self.kernel),
            userspace: lab.userspace.unwrap_or(self.userspace),
            checked_in: lab.checked_in.unwrap_or(self.checked_in),
            running: lab.running.unwrap_or(self.running),
            silence: lab.silence.unwrap_or(self.silence),
            shutdown: lab.shutdown.unwrap_or(self.shutdown),
            aftermath: self.aftermath,
            answer: lab.answer.unwrap_or(self.answer),
        }
    }
}

/// How often a board may be booted again after it failed in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    pub power: u32,
    pub bootloader: u32,
    pub kernel: u32,
    pub userspace: u32,
    pub checked_in: u32,
}

impl Retries {
    /// The same for every state.
    pub const fn all(count: u32) -> Self {
        Retries {
            power: count,
            bootloader: count,
            kernel: count,
            userspace: count,
            checked_in: count,
        }
    }

    /// These, with what a lab file sets for a board.
    #[must_use]
    pub fn with(self, lab: &BoardRetries) -> Self {
        Retries {
            power: lab.power.unwrap_or(self.power),
            bootloader: lab.bootloader.unwrap_or(self.bootloader),
            kernel: lab.kernel.unwrap_or(self.kernel),
            userspace: lab.userspace.unwrap_or(self.userspace),
            checked_in: lab.checked_in.unwrap_or(self.checked_in),
        }
    }

    /// Uses one up, if there is one left for a failure in this state. Tests that have begun are never run again.
    pub fn take(&mut self, state: BootState) -> bool {
        let left = match state {
            BootState::Off | BootState::Power => &mut self.power,
            BootState::Bootloader => &mut self.bootloader,
            BootState::Kernel => &mut self.kernel,
            BootState::Userspace => &mut self.userspace,
            BootState::CheckedIn => &mut self.checked_in,
            BootState::Running | BootState::Done => return false,
        };
        let any = *left > 0;
        *left = left.saturating_sub(1);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_own_retries_and_tests_have_none() {
        let mut left = Retries::all(1).with(&BoardRetries {
            kernel: Some(2),
            ..BoardRetries::default()
        });
        assert!(left.take(BootState::Power) && !left.take(BootState::Power));
        assert!(
            left.take(BootState::Kernel)
                && left.take(BootState::Kernel)
                && !left.take(BootState::Kernel)
        );
        assert!(!left.take(BootState::Running));
    }
}
