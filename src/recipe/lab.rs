//! Owns the description of a lab and its boards (`lab.toml`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    Qemu,
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
    Qemu,
    Manual,
}

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
                .filter(|part| part.len() == 2)
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

impl LabSettings {
    /// Where the boards find the lab's HTTP API.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.ports.http))
    }
}
