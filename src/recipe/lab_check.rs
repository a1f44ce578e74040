//! Owns what a lab file must fulfil beyond the types of its values.
//! Never fills in defaults.

use std::collections::{BTreeMap, HashMap};

use super::board_type::BoardType;
use super::lab::{BoardEntry, Console, Lab, LabSettings, Login, Network, Power};
use super::names::{bad_name, is_host_name, is_value_key};
use crate::data::Source;
use crate::diagnostic::{Diagnostic, Step, at, suggestion};
use crate::mac::Mac;

/// Validates what the types of the values do not.
pub(super) struct Checker<'a> {
    pub source: &'a Source,
    pub types: &'a BTreeMap<String, BoardType>,
}

type Checked = Result<(), Box<Diagnostic>>;

impl Checker<'_> {
    /// # Errors
    /// The first mistake, with its place.
    pub fn check(&self, lab: &Lab) -> Checked {
        self.settings(&lab.lab)?;
        for (index, board) in lab.boards.iter().enumerate() {
            self.board(index, board, &lab.lab)?;
        }
        self.duplicates(lab)
    }

    fn settings(&self, lab: &LabSettings) -> Checked {
        if !is_host_name(&lab.name) {
            return Err(self.lab(&["name"], bad_name("lab", &lab.name)));
        }
        if lab.address.is_unspecified() || lab.address.is_broadcast() || lab.address.is_multicast()
        {
            return Err(self.lab(&["address"], "boards cannot reach this address"));
        }
        for (index, network) in lab.allow.iter().enumerate() {
            if let Err(wrong) = network.parse::<Network>() {
                let path = [Step::Key("lab"), Step::Key("allow"), Step::Index(index)];
                return Err(self.at(&path, wrong));
            }
        }
        // The comparison is false for NaN as well.
        if !(lab.idle >= 0.0 && lab.idle.is_finite()) {
            return Err(self.lab(&["idle"], "a time is a number of seconds, 0 or above"));
        }
        if !(lab.health.every >= 0.0 && lab.health.every.is_finite()) {
            return Err(self.lab(
                &["health", "every"],
                "a time is a number of seconds, 0 or above",
            ));
        }
        if lab.emulated == Some(0) {
            return Err(self.lab(&["emulated"], "at least one emulated board must fit"));
        }
        for name in lab.health.types.keys() {
            if !self.types.contains_key(name) {
                let message = format!("there is no board type `{name}`");
                return Err(self.lab(&["health", "types", name], message));
            }
        }
        let ports = lab.ports;
        for (name, port) in [
            ("tftp", ports.tftp),
            ("nfs", ports.nfs),
            ("mount", ports.mount),
            ("http", ports.http),
        ] {
            if port == 0 {
                return Err(self.lab(&["ports", name], "a board cannot ask for port 0"));
            }
        }
        if let Some(dhcp) = &lab.dhcp {
            let network: Network = dhcp
                .network
                .parse()
                .map_err(|wrong: String| self.lab(&["dhcp", "network"], wrong))?;
            if !network.contains(lab.address) {
                return Err(self.lab(
                    &["dhcp", "network"],
                    format!("the lab's address, {}, is not in this network", lab.address),
                ));
            }
        }
        Ok(())
    }

    fn board(&self, index: usize, board: &BoardEntry, lab: &LabSettings) -> Checked {
        let wrong = |key, message: String| Err(self.in_board(index, key, message));
        if !is_host_name(&board.name) {
            return wrong("name", bad_name("board", &board.name));
        }
        let Some(board_type) = self.types.get(&board.board_type) else {
            let known: Vec<&str> = self.types.keys().map(String::as_str).collect();
            let message = format!("there is no board type `{}`", board.board_type);
            return Err(self
                .in_board(index, "type", message)
                .help(suggestion(&board.board_type, &known)));
        };
        if let Some(mac) = board.mac
            && !mac.is_unicast()
        {
            return wrong("mac", format!("{mac} is no single board's address"));
        }
        if let Some(address) = board.address
            && let Some(dhcp) = &lab.dhcp
            && let Ok(network) = dhcp.network.parse::<Network>()
            && !network.contains(address)
        {
            return wrong("address", format!("{address} is not in {}", dhcp.network));
        }
        if board_type.emulation.is_none() {
            let what = format!("QEMU cannot emulate a {}", board.board_type);
            if board.console == Some(Console::Qemu {}) {
                return wrong("console", what);
            }
            if board.power == Some(Power::Qemu {}) {
                return wrong("power", what);
            }
        }
        for (table, checked) in [
            ("power", board.power.as_ref().map(Power::check)),
            ("login", board.login.as_ref().map(Login::check)),
        ] {
            if let Some(Err((key, message))) = checked {
                let path = [
                    Step::Key("board"),
                    Step::Index(index),
                    Step::Key(table),
                    Step::Key(key),
                ];
                return Err(self.at(&path, message));
            }
        }
        for (key, time) in board.timeouts.set() {
            if !time.is_finite() || time <= 0.0 {
                let path = [
                    Step::Key("board"),
                    Step::Index(index),
                    Step::Key("timeouts"),
                    Step::Key(key),
                ];
                return Err(self.at(&path, "a time-out is a number of seconds above 0"));
            }
        }
        self.values(index, board)
    }

    fn values(&self, index: usize, board: &BoardEntry) -> Checked {
        for (key, value) in &board.values {
            let path = [
                Step::Key("board"),
                Step::Index(index),
                Step::Key("values"),
                Step::Key(key),
            ];
            if !is_value_key(key) {
                return Err(self.at(
                    &path,
                    format!(
                        "`{key}` cannot be a kernel argument: use letters, digits, `_`, `-` and `.`"
                    ),
                ));
            }
            if let Some(bad) = value
                .chars()
                .find(|c| c.is_control() || matches!(c, '\'' | '"' | '\\'))
            {
                return Err(self.at(
                    &path,
                    format!(
                        "{bad:?} cannot be passed through U-Boot and the kernel's command line"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn duplicates(&self, lab: &Lab) -> Checked {
        let mut names = HashMap::new();
        let mut macs = HashMap::new();
        let mut addresses = HashMap::new();
        for (index, board) in lab.boards.iter().enumerate() {
            if names.insert(&board.name, index).is_some() {
                let message = format!("two boards are named `{}`", board.name);
                return Err(self.in_board(index, "name", message));
            }
            let mac = mac_of(board, &lab.lab);
            if let Some(other) = macs.insert(mac, &board.name) {
                let message = format!("boards `{other}` and `{}` have one MAC, {mac}", board.name);
                return Err(self.in_board(index, "mac", message));
            }
            if let Some(address) = board.address
                && let Some(other) = addresses.insert(address, &board.name)
            {
                let message = format!("boards `{other}` and `{}` have one address", board.name);
                return Err(self.in_board(index, "address", message));
            }
        }
        Ok(())
    }

    fn lab(&self, keys: &[&str], message: impl Into<String>) -> Box<Diagnostic> {
        let path: Vec<Step<'_>> = ["lab"]
            .iter()
            .chain(keys)
            .map(|key| Step::Key(key))
            .collect();
        self.at(&path, message)
    }

    fn in_board(&self, index: usize, key: &str, message: impl Into<String>) -> Box<Diagnostic> {
        let path = [Step::Key("board"), Step::Index(index), Step::Key(key)];
        self.at(&path, message)
    }

    fn at(&self, path: &[Step<'_>], message: impl Into<String>) -> Box<Diagnostic> {
        at(&self.source.path, &self.source.text, path, message)
    }
}

/// The board's MAC: its own, or derived from the names of lab and board.
pub(super) fn mac_of(entry: &BoardEntry, lab: &LabSettings) -> Mac {
    entry
        .mac
        .unwrap_or_else(|| Mac::derived(&lab.name, &entry.name))
}
