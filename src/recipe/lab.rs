//! Owns the description of a lab and its boards (`lab.toml`), as its author wrote it. Never reads a file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Mac;

/// A lab: where it is, and which boards it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lab {
    pub lab: LabSettings,
    #[serde(default, rename = "board")]
    pub boards: Vec<BoardEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LabSettings {
    pub name: String,
    /// The server's address as the boards see it.
    pub address: Ipv4Addr,
    /// The recipe of boards that name none.
    pub recipe: Option<String>,
    #[serde(default)]
    pub ports: Ports,
    pub dhcp: Option<Dhcp>,
    /// Networks whose hosts may use NFS, TFTP and HTTP, as `192.168.7.0/24`; empty for loopback
    /// and the boards' own network.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether NFS and MOUNT answer over UDP too, as U-Boot's `nfs` command needs it. Requests over UDP can have a forged
    /// source, and answers are far larger.
    #[serde(default)]
    pub nfs_udp: bool,
    /// How long, in seconds, a board stays on that has had nothing to do since it checked in or did its last job.
    #[serde(default = "idle")]
    pub idle: f64,
    /// How much a board may print in one attempt at a job, in bytes; more ends the job.
    #[serde(default = "largest_output")]
    pub largest_output: u64,
}

/// A GB: as much as a serial console brings in a day.
pub(super) fn largest_output() -> u64 {
    1_000_000_000
}

/// Long enough for somebody to log in and say that the board is to stay on.
pub(super) fn idle() -> f64 {
    600.0
}

/// Ports to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Ports {
    pub tftp: u16,
    pub nfs: u16,
    pub mount: u16,
    /// 0 for none; klibc's `nfsmount` finds MOUNT only through it.
    pub portmap: u16,
    pub http: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Ports {
            tftp: 69,
            nfs: 2049,
            mount: 2049,
            portmap: 111,
            http: 8420,
        }
    }
}

/// Asks for a DHCP server that answers the lab's boards only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Dhcp {
    pub interface: String,
    /// The subnet with the prefix length, as `192.168.7.0/24`.
    pub network: String,
    pub router: Option<Ipv4Addr>,
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Seconds.
    pub lease: Option<u32>,
}

/// One board of a lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BoardEntry {
    pub name: String,
    #[serde(rename = "type")]
    pub board_type: String,
    pub mac: Option<Mac>,
    /// A fixed address, for the lab's own DHCP server.
    pub address: Option<Ipv4Addr>,
    pub recipe: Option<String>,
    /// Overrides the board type's.
    pub boot_script: Option<String>,
    pub console: Option<Console>,
    pub power: Option<Power>,
    #[serde(default)]
    pub tags: Vec<String>,
    /// What the board's templates and kernel command line get as `hearth.KEY=VALUE`.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    #[serde(default)]
    pub timeouts: BoardTimeouts,
    #[serde(default)]
    pub retries: BoardRetries,
}

/// How long a board may stay in each state of its boot, in seconds; hearth's own times where left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BoardTimeouts {
    pub power: Option<f64>,
    pub bootloader: Option<f64>,
    pub kernel: Option<f64>,
    pub userspace: Option<f64>,
    pub checked_in: Option<f64>,
    /// All tests together.
    pub running: Option<f64>,
    /// While tests run, without a heartbeat and without console output.
    pub silence: Option<f64>,
    /// From the end of the tests until the board has powered itself off.
    pub shutdown: Option<f64>,
}

impl BoardTimeouts {
    /// Each time that is set, with its key.
    pub fn set(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [
            ("power", self.power),
            ("bootloader", self.bootloader),
            ("kernel", self.kernel),
            ("userspace", self.userspace),
            ("checked-in", self.checked_in),
            ("running", self.running),
            ("silence", self.silence),
            ("shutdown", self.shutdown),
        ]
        .into_iter()
        .filter_map(|(key, time)| Some((key, time?)))
    }
}

/// How often a board that failed in a state is booted again; once where left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BoardRetries {
    pub power: Option<u32>,
    pub bootloader: Option<u32>,
    pub kernel: Option<u32>,
    pub userspace: Option<u32>,
    pub checked_in: Option<u32>,
}

/// How to reach a board's console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Console {
    Serial {
        device: PathBuf,
        speed: Option<u32>,
    },
    /// A raw TCP port, as ser2net offers it.
    Tcp {
        address: String,
    },
    Telnet {
        address: String,
    },
    /// A program whose standard input and output are the console.
    Command {
        run: Vec<String>,
    },
    Qemu {},
}

impl Console {
    /// The driver's name, as in the lab file.
    pub const fn driver(&self) -> &'static str {
        match self {
            Console::Serial { .. } => "serial",
            Console::Tcp { .. } => "tcp",
            Console::Telnet { .. } => "telnet",
            Console::Command { .. } => "command",
            Console::Qemu {} => "qemu",
        }
    }
}

/// The driver and where it is, for people.
impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver())?;
        match self {
            Console::Serial { device, speed } => {
                write!(f, " {}", device.display())?;
                speed.map_or(Ok(()), |speed| write!(f, " at {speed}"))
            }
            Console::Tcp { address } | Console::Telnet { address } => write!(f, " {address}"),
            Console::Command { run } => write!(f, " {}", run.join(" ")),
            Console::Qemu {} => Ok(()),
        }
    }
}

/// How to switch a board's power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Power {
    Usbpowercontrol {
        device: PathBuf,
    },
    Pdudaemon {
        url: String,
        hostname: Option<String>,
        port: Option<String>,
        alias: Option<String>,
    },
    Uhubctl {
        location: String,
        port: u8,
    },
    Command {
        on: Vec<String>,
        off: Vec<String>,
        status: Option<Vec<String>>,
    },
    Qemu {},
    Manual {},
}

impl Power {
    /// The driver's name, as in the lab file.
    pub const fn driver(&self) -> &'static str {
        match self {
            Power::Usbpowercontrol { .. } => "usbpowercontrol",
            Power::Pdudaemon { .. } => "pdudaemon",
            Power::Uhubctl { .. } => "uhubctl",
            Power::Command { .. } => "command",
            Power::Qemu {} => "qemu",
            Power::Manual {} => "manual",
        }
    }
}

/// The driver and where it is, for people.
impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver())?;
        match self {
            Power::Usbpowercontrol { device } => write!(f, " {}", device.display()),
            Power::Pdudaemon { url, .. } => write!(f, " {url}"),
            Power::Uhubctl { location, port } => write!(f, " {location} port {port}"),
            Power::Command { on, .. } => write!(f, " {}", on.join(" ")),
            Power::Qemu {} | Power::Manual {} => Ok(()),
        }
    }
}

impl LabSettings {
    /// Where the boards find the lab's HTTP API.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.ports.http))
    }
}

/// An IPv4 network, written `192.168.7.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(Ipv4Net);

impl Network {
    /// The network of `address` whose first `prefix` bits are fixed, at most 32.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Network {
        Network(Ipv4Net::new_assert(address, prefix.min(32)).trunc())
    }

    /// The address that all hosts of the network listen to.
    pub fn broadcast(self) -> Ipv4Addr {
        self.0.broadcast()
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    /// Whether one host of the network can have the address: not the network's own, and not its broadcast address.
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let is_host = address != self.0.network() && address != self.0.broadcast();
        self.contains(address) && (is_host || self.0.prefix_len() >= 31)
    }

    pub fn mask(self) -> Ipv4Addr {
        self.0.netmask()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net: Ipv4Net = text
            .parse()
            .map_err(|_| format!("`{text}` is not a network such as 192.168.7.0/24"))?;
        if net.trunc() == net {
            Ok(Network(net))
        } else {
            Err(format!("`{text}` has host bits set: write {}", net.trunc()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_hosts() {
        let network: Network = "192.168.7.0/24".parse().unwrap();
        assert!(network.contains(Ipv4Addr::new(192, 168, 7, 200)));
        assert!(!network.contains(Ipv4Addr::new(192, 168, 8, 1)));
        assert!(
            "0.0.0.0/0"
                .parse::<Network>()
                .unwrap()
                .contains(Ipv4Addr::new(8, 8, 8, 8))
        );
        for wrong in ["192.168.7.0", "192.168.7.0/33", "192.168.7.1/24", "a/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
