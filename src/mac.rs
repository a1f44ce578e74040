//! Owns Ethernet addresses: parsing, formatting, and deriving one for boards without.
//! Never knows which board has which.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// An Ethernet address, written `02:00:5e:10:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a MAC address such as 02:00:5e:10:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && !part.starts_with('+'))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl Mac {
    /// Derives an address for a board without one: deterministic in the two names, unicast and
    /// locally administered (IEEE 802, 8.2).
    pub fn derived(lab: &str, board: &str) -> Mac {
        let digest = Sha256::new()
            .chain_update(b"hearth mac 1\0")
            .chain_update(lab)
            .chain_update([0])
            .chain_update(board)
            .finalize();
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&digest[..6]);
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Mac(bytes)
    }

    /// Whether it is valid for one network interface: neither a group address nor all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The format of file names in PXE requests: `02-00-5e-10-00-01`.
    pub fn with_dashes(self) -> String {
        self.to_string().replace(':', "-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_address_is_pinned_and_local() {
        let mac = Mac::derived("desk", "panda01");
        // Written on cards in use: it must never change.
        assert_eq!(mac.to_string(), "e2:4c:fe:47:25:12");
        assert!(mac.is_unicast());
        assert_eq!(mac.0[0] & 2, 2);
        assert_ne!(mac, Mac::derived("desk", "panda02"));
        assert_ne!(Mac::derived("ab", "c"), Mac::derived("a", "bc"));
    }

    #[test]
    fn both_notations_are_read() {
        let mac: Mac = "02-00-5E-10-00-01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:01");
        assert_eq!(mac.with_dashes(), "02-00-5e-10-00-01");
        for wrong in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "02:00:5e:10:00:+1",
            "2:0:5:1:0:1",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
