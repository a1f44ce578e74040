//! A person who switches the power when asked.

use anyhow::Result;

use super::switch::{Ask, Power};
use crate::error::Fault;

pub(super) struct Manual {
    ask: Ask,
}

impl Manual {
    pub(super) fn new(ask: Ask) -> Self {
        Manual { ask }
    }

    fn request(&mut self, what: &str) -> Result<()> {
        if (self.ask)(what)? {
            Ok(())
        } else {
            Err(Fault::infrastructure("nobody switched the board's power")
                .remedy("run it on a terminal, or give the board a power switch in the lab file")
                .into())
        }
    }
}

impl Power for Manual {
    fn on(&mut self) -> Result<()> {
        self.request("Switch the board on")
    }

    fn off(&mut self) -> Result<()> {
        self.request("Switch the board off")
    }
}
