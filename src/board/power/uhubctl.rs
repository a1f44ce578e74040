//! uhubctl: a USB hub that switches the power of its ports.

use std::process::Command;

use anyhow::Result;

use super::switch::{Power, run};

pub(super) struct Uhubctl {
    location: String,
    port: String,
}

impl Uhubctl {
    pub(super) fn new(location: &str, port: u8) -> Self {
        Uhubctl {
            location: location.to_string(),
            port: port.to_string(),
        }
    }

    fn call(&self, action: Option<&str>) -> Result<String> {
        let mut command = Command::new("uhubctl");
        command.args(["-l", &self.location, "-p", &self.port]);
        if let Some(action) = action {
            command.args(["-a", action]);
        }
        run(&mut command)
    }
}

impl Power for Uhubctl {
    fn on(&mut self) -> Result<()> {
        self.call(Some("on")).map(drop)
    }

    fn off(&mut self) -> Result<()> {
        self.call(Some("off")).map(drop)
    }

    fn is_on(&mut self) -> Result<Option<bool>> {
        Ok(port_power(&self.call(None)?, &self.port))
    }
}

/// Finds `  Port 2: 0100 power` in what uhubctl prints.
fn port_power(status: &str, port: &str) -> Option<bool> {
    let line = status.lines().find_map(|line| {
        line.trim()
            .strip_prefix("Port ")?
            .strip_prefix(port)?
            .strip_prefix(": ")
    })?;
    Some(line.split_whitespace().any(|word| word == "power"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_in_uhubctls_status() {
        let status = "Current status for hub 1-1 [2109:2817 USB2.0 Hub, USB 2.10, 4 ports, ppps]\n  Port 1: 0000 off\n  Port 2: 0103 power enable connect\n";
        assert_eq!(port_power(status, "1"), Some(false));
        assert_eq!(port_power(status, "2"), Some(true));
        assert_eq!(port_power(status, "3"), None);
    }
}
