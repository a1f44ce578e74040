//! Owns which hosts may use the servers. Never resolves names: networks are numeric.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::recipe::Network;

/// The networks whose hosts may use the servers. Other hosts are refused, each logged at most once
/// a minute.
#[derive(Debug)]
pub struct Access {
    networks: Vec<Network>,
    told: Mutex<HashMap<IpAddr, Instant>>,
}

const TELL_AGAIN: Duration = Duration::from_secs(60);
/// The most refused hosts that are remembered; further ones are refused without logging.
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

    /// Whether `peer` may use the service; logs a refusal.
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
            "10.0.0.1/32".parse().unwrap(),
        ]);
        let asks = |address: &str| access.allows(address.parse().unwrap(), "test");
        assert!(asks("192.168.7.255") && asks("10.0.0.1") && asks("::ffff:10.0.0.1"));
        assert!(!asks("192.168.8.0") && !asks("10.0.0.2") && !asks("::1"));
    }
}
