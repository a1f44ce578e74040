//! Owns which hosts may use the servers, and which datagrams have a source that no answer may go to.
//! Never resolves names: networks are numbers.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;

use crate::recipe::Network;

/// The networks whose hosts may use the servers. Other hosts are refused, each logged at most once
/// a minute.
#[derive(Debug)]
pub struct Access {
    networks: Vec<Network>,
    /// The broadcast addresses of this host's interfaces.
    broadcasts: Vec<Ipv4Addr>,
    told: Mutex<HashMap<IpAddr, Instant>>,
    boards: Option<Boards>,
}

/// Says whether a host is a board of the lab.
struct Boards(Box<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl fmt::Debug for Boards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Boards")
    }
}

const TELL_AGAIN: Duration = Duration::from_secs(60);
/// The most refused hosts that are remembered; further ones are refused without logging.
const MAX_TOLD: usize = 1024;
/// UDP ports of services that answer whatever comes (echo, daytime, quotd, chargen, time), TFTP's and the portmapper's: an
/// answer there could be answered again, without end. No client has such a port.
const SERVICE_PORTS: [u16; 8] = [0, 7, 13, 17, 19, 37, 69, 111];

impl Access {
    pub fn new(networks: Vec<Network>) -> Self {
        Access {
            networks,
            broadcasts: broadcasts(),
            told: Mutex::default(),
            boards: None,
        }
    }

    /// Knows boards of the lab by this, for whom a share of the places is kept.
    #[must_use]
    pub fn with_boards(self, is_board: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Access {
            boards: Some(Boards(Box::new(is_board))),
            ..self
        }
    }

    /// Whether a host is a board of the lab.
    pub fn is_board(&self, host: IpAddr) -> bool {
        let host = host.to_canonical();
        self.boards.as_ref().is_some_and(|Boards(is)| is(host))
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

    /// Whether a datagram from `peer` to the server's socket at `own` may be answered: it comes from an allowed host, and
    /// its source is the address of one host and the port of a client. What is not answered for its source is forged.
    pub fn answers(&self, peer: SocketAddr, own: SocketAddr, service: &str) -> bool {
        let port = peer.port();
        if SERVICE_PORTS.contains(&port) || port == own.port() || !self.is_host(peer.ip()) {
            return false;
        }
        self.allows(peer.ip(), service)
    }

    /// Whether an address can be that of one host.
    pub fn is_host(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address.to_canonical() else {
            return false;
        };
        let mut known = self.networks.iter().filter(|n| n.contains(address));
        let is_edge = known.clone().count() > 0 && !known.any(|n| n.has_host(address));
        // 0.0.0.0/8 is "this network", 240.0.0.0/4 is reserved, and its last address is the limited broadcast (RFC 6890).
        let is_special = matches!(address.octets()[0], 0 | 224..);
        !is_special && !is_edge && !self.broadcasts.contains(&address)
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

/// The broadcast addresses of this host's interfaces; loopback's is that of its network.
fn broadcasts() -> Vec<Ipv4Addr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let broadcast = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask?.as_sockaddr_in()?.ip();
        let network = Network::of(address, mask.to_bits().leading_ones() as u8);
        (!network.has_host(network.broadcast())).then(|| network.broadcast())
    };
    interfaces.filter_map(broadcast).collect()
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

    #[test]
    fn sources_that_are_no_client_s_are_not_answered() {
        let networks = ["192.168.7.0/24", "10.0.0.1/32", "224.0.0.0/3", "0.0.0.0/8"];
        let networks = networks.map(|network| network.parse().unwrap());
        let access = Access::new(networks.to_vec());
        let own = "192.168.7.1:6969".parse().unwrap();
        let answers = |peer: &str| access.answers(peer.parse().unwrap(), own, "test");
        for client in ["192.168.7.2:1000", "192.168.7.1:1024", "10.0.0.1:68"] {
            assert!(answers(client), "{client}");
        }
        for forged in [
            "192.168.7.255:1000",
            "192.168.7.0:1000",
            "224.0.0.1:1000",
            "255.255.255.255:1000",
            "0.0.0.0:1000",
            "0.1.2.3:1000",
            "127.255.255.255:1000",
            "192.168.7.1:6969",
            "192.168.7.2:0",
            "192.168.7.2:7",
            "192.168.7.2:69",
            "192.168.7.2:111",
            "10.0.0.2:1000",
        ] {
            assert!(!answers(forged), "{forged}");
        }
    }
}
