//! Owns which hosts may use the servers. Never resolves names: networks are numbers.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An IPv4 network, written `192.168.7.0/24`; a bare address is a network of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: Ipv4Addr,
    prefix: u32,
}

impl Network {
    pub fn new(address: Ipv4Addr, prefix: u32) -> Option<Self> {
        (prefix <= 32).then_some(Network { address, prefix })
    }

    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        let mask = self.mask().to_bits();
        address.to_bits() & mask == self.address.to_bits() & mask
    }

    /// The address that reaches all hosts of the network.
    pub fn broadcast(self) -> Ipv4Addr {
        self.address | !self.mask()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a network such as 192.168.7.0/24");
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().map_err(|_| wrong())?;
        Network::new(address, prefix).ok_or_else(wrong)
    }
}

/// The networks whose hosts may use the servers; others are refused, and logged once a minute each.
#[derive(Debug)]
pub struct Access {
    networks: Vec<Network>,
    told: Mutex<HashMap<IpAddr, Instant>>,
}

const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Strangers that are remembered; past that many they are refused without a word.
const MAX_TOLD: usize = 1024;

impl Access {
    pub fn new(networks: Vec<Network>) -> Self {
        Access {
            networks,
            told: Mutex::default(),
        }
    }

    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Whether `peer` may use the service; a refusal is logged.
    pub fn allows(&self, peer: IpAddr, service: &str) -> bool {
        let allowed = match peer.to_canonical() {
            IpAddr::V4(address) => self.networks.iter().any(|n| n.contains(address)),
            IpAddr::V6(_) => false,
        };
        if !allowed && self.is_news(peer) {
            log::warn!("{service}: refused {peer}, which is in none of the allowed networks");
        }
        allowed
    }

    fn is_news(&self, peer: IpAddr) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| at.elapsed() < TELL_AGAIN);
        if told.len() >= MAX_TOLD || told.contains_key(&peer) {
            return false;
        }
        told.insert(peer, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_hosts_only() {
        let access = Access::new(vec![
            "192.168.7.0/24".parse().unwrap(),
            "10.0.0.1".parse().unwrap(),
        ]);
        let asks = |address: &str| access.allows(address.parse().unwrap(), "test");
        assert!(asks("192.168.7.255") && asks("10.0.0.1") && asks("::ffff:10.0.0.1"));
        assert!(!asks("192.168.8.0") && !asks("10.0.0.2") && !asks("::1"));
        let all: Network = "1.2.3.4/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "x/8".parse::<Network>().is_err());
    }
}
