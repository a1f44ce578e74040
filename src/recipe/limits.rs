//! Owns what a recipe says about how much the programs of its image may take while it is built. Never enforces it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `[limits]`; what is missing is as [`crate::sandbox::Limits`] has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds without a byte of output.
    pub silence: Option<u64>,
    /// Of the output of one program in all.
    pub output: Option<Size>,
    /// Of one file, and of all that is written to the disk.
    pub disk: Option<Size>,
    /// In use by all programs together.
    pub memory: Option<Size>,
    /// Processes and threads of a program and what it starts.
    pub processes: Option<u64>,
}

/// What each limit may be, in seconds, bytes or processes: less, and no image is ever built.
pub const RANGES: [(&str, u64, u64); 5] = [
    ("silence", 1, 30 * 24 * 3600),
    ("output", 4 << 10, 1 << 40),
    ("disk", 1 << 20, 1 << 50),
    ("memory", 64 << 20, 1 << 50),
    ("processes", 16, 1 << 22),
];

impl Limits {
    /// By name, as `RANGES` calls them.
    pub fn get(&self, name: &str) -> Option<u64> {
        match name {
            "silence" => self.silence,
            "output" => self.output.map(u64::from),
            "disk" => self.disk.map(u64::from),
            "memory" => self.memory.map(u64::from),
            "processes" => self.processes,
            _ => None,
        }
    }

    /// Sets what `NAME=VALUE` says, as a command line has it.
    ///
    /// # Errors
    /// One sentence about what is wrong with it.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is no NAME=VALUE"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("`{value}` is no number"))
        };
        match name {
            "silence" => self.silence = Some(number()?),
            "processes" => self.processes = Some(number()?),
            "output" => self.output = Some(Size(parse_size(value)?)),
            "disk" => self.disk = Some(Size(parse_size(value)?)),
            "memory" => self.memory = Some(Size(parse_size(value)?)),
            _ => {
                let known = RANGES.map(|(name, ..)| name).join(", ");
                return Err(format!("there is no limit `{name}`, only {known}"));
            }
        }
        self.check(name)
    }

    /// # Errors
    /// One sentence if the limit of that name is out of its range.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let range = RANGES.iter().find(|(known, ..)| *known == name);
        match (range, self.get(name)) {
            (Some(&(_, least, most)), Some(value)) if !(least..=most).contains(&value) => Err(
                format!("the limit of {name} must be from {least} to {most}, not {value}"),
            ),
            _ => Ok(()),
        }
    }

    /// With those of `given` in place of its own.
    #[must_use]
    pub fn with(&self, given: &Limits) -> Limits {
        Limits {
            silence: given.silence.or(self.silence),
            output: given.output.or(self.output),
            disk: given.disk.or(self.disk),
            memory: given.memory.or(self.memory),
            processes: given.processes.or(self.processes),
        }
    }
}

/// Bytes; written as a number, or as text with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Size(u64);

impl From<Size> for u64 {
    fn from(size: Size) -> u64 {
        size.0
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl serde::de::Visitor<'_> for Visitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"64M\", \"1G\" or 1048576")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
        parse_size(text).map(Size).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| {
            E::custom(format!(
                "`{bytes}` is not a size such as 64M, 1G or 1048576"
            ))
        })
    }
}

/// Reads a size such as `512K`, `64M`, `1GiB` or `1048576`; the units are powers of 1024.
///
/// # Errors
/// One sentence.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 64M, 1G or 1048576");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let shift = match &text[digits..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_sets_what_a_recipe_can() {
        let mut limits = Limits::default();
        for text in [
            "silence=5",
            "output=64K",
            "disk=1G",
            "memory=512MiB",
            "processes=100",
        ] {
            limits.set(text).unwrap();
        }
        let written =
            "silence = 5\noutput = 65536\ndisk = \"1G\"\nmemory = \"512M\"\nprocesses = 100\n";
        assert_eq!(limits, toml::from_str(written).unwrap());
        for wrong in [
            "silence",
            "silence=x",
            "silence=0",
            "disk=-1",
            "memory=1K",
            "processes=1",
            "speed=1",
            "output=99999999999T",
        ] {
            assert!(Limits::default().set(wrong).is_err(), "{wrong}");
        }
    }
}
