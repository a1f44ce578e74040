//! Owns the description of a lab and its boards (`lab.toml`), as its author wrote it. Never reads a
//! file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use ureq::http::Uri;

use super::own::Own;
use crate::mac::Mac;

/// A lab: its settings and its boards.
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
    /// The recipe of boards without one.
    pub recipe: Option<String>,
    #[serde(default)]
    pub ports: Ports,
    pub dhcp: Option<Dhcp>,
    /// Networks whose hosts may use NFS, TFTP and HTTP, as `192.168.7.0/24`; empty for loopback
    /// and the boards' own network.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether NFS and MOUNT answer over UDP too, as U-Boot's `nfs` command needs it. Requests over
    /// UDP can have a forged source, and answers are far larger.
    #[serde(default)]
    pub nfs_udp: bool,
    /// Time in seconds after which an idle board powers itself off, from its check-in or its last
    /// job.
    #[serde(default = "idle")]
    pub idle: f64,
    /// Limit on the console output of one attempt at a job, in bytes; more ends the job.
    #[serde(default = "largest_output")]
    pub largest_output: u64,
}

/// A GB: about a day of output of a serial console.
pub(super) fn largest_output() -> u64 {
    1_000_000_000
}

/// Enough time to log in and keep the board on.
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

/// Enables a DHCP server that answers only the lab's boards.
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
    /// For the board's templates and kernel command line, as `hearth.KEY=VALUE`.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    #[serde(default)]
    pub timeouts: BoardTimeouts,
    #[serde(default)]
    pub retries: BoardRetries,
    /// What the board boots instead of parts of its image; paths are relative to the lab file.
    #[serde(default)]
    pub own: Own,
}

/// Time-outs for each state of the boot, in seconds; hearth's defaults if left out.
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
    /// The keys and values of all time-outs that are set.
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

/// How often a board that failed in a state is booted again; once by default.
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

/// The driver and its address or device.
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
#[serde(
    tag = "driver",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
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
    /// A relay with the firmware Tasmota.
    Tasmota {
        /// `http://HOST` or `http://HOST:PORT`.
        url: String,
        /// From 1; the first relay by default.
        relay: Option<u8>,
        /// `admin` by default; requires `password_file`.
        user: Option<String>,
        /// An absolute path: the file's first line is the device's web password.
        password_file: Option<PathBuf>,
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
            Power::Tasmota { .. } => "tasmota",
            Power::Uhubctl { .. } => "uhubctl",
            Power::Command { .. } => "command",
            Power::Qemu {} => "qemu",
            Power::Manual {} => "manual",
        }
    }

    /// Validates what the types of the keys do not.
    ///
    /// # Errors
    /// The invalid key, and a sentence about it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let Power::Tasmota {
            url,
            relay,
            user,
            password_file,
        } = self
        else {
            return Ok(());
        };
        if !is_server(url) {
            let wrong = "the address of a Tasmota device is `http://HOST` or `http://HOST:PORT`, \
                         without a password or a path";
            return Err(("url", wrong.into()));
        }
        if let Some(relay) = relay
            && !TASMOTA_RELAYS.contains(relay)
        {
            return Err(("relay", "Tasmota's relays have the numbers 1 to 32".into()));
        }
        if user.is_some() && password_file.is_none() {
            return Err(("user", "a `user` needs a `password-file`".into()));
        }
        match password_file {
            Some(path) if !path.is_absolute() => {
                Err(("password-file", "give an absolute path".into()))
            }
            _ => Ok(()),
        }
    }
}

/// Relays of one device: `MAX_RELAYS_SET` of Tasmota 14.
const TASMOTA_RELAYS: RangeInclusive<u8> = 1..=32;

/// Whether a URL consists of scheme and authority alone.
fn is_server(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri
                .authority()
                .is_some_and(|place| !place.as_str().contains('@'))
            && uri.path() == "/"
            && uri.query().is_none()
    })
}

/// The driver and its address or device, without secrets.
impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver())?;
        match self {
            Power::Usbpowercontrol { device } => write!(f, " {}", device.display()),
            Power::Pdudaemon { url, .. } => write!(f, " {url}"),
            Power::Tasmota { url, relay, .. } => {
                write!(f, " {url}")?;
                relay.map_or(Ok(()), |relay| write!(f, " relay {relay}"))
            }
            Power::Uhubctl { location, port } => write!(f, " {location} port {port}"),
            Power::Command { on, .. } => write!(f, " {}", on.join(" ")),
            Power::Qemu {} | Power::Manual {} => Ok(()),
        }
    }
}

impl LabSettings {
    /// The address of the lab's HTTP API, as the boards see it.
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

    /// The broadcast address.
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
    fn a_tasmota_devices_keys_are_checked() {
        let check = |keys: &str| {
            let power: Power = toml::from_str(&format!("driver = 'tasmota'\n{keys}")).unwrap();
            power.check().map_err(|(key, _)| key)
        };
        for url in ["http://plug", "http://plug/", "http://10.0.0.1:8080"] {
            assert_eq!(check(&format!("url = '{url}'")), Ok(()), "{url}");
        }
        for url in [
            "plug",
            "plug/cm",
            "https://plug",
            "http://a:b@plug",
            "http://plug/cm",
            "http://plug?x",
            "http://",
        ] {
            assert_eq!(check(&format!("url = '{url}'")), Err("url"), "{url}");
        }
        let plug = "url = 'http://plug'";
        for (more, expected) in [
            ("relay = 32", Ok(())),
            ("relay = 0", Err("relay")),
            ("relay = 33", Err("relay")),
            ("user = 'a'", Err("user")),
            ("password-file = 'a'", Err("password-file")),
            ("password-file = '/a'\nuser = 'a'", Ok(())),
        ] {
            assert_eq!(check(&format!("{plug}\n{more}")), expected, "{more}");
        }
    }

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
