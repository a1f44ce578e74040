//! Owns opening all sockets of the server, and reporting those that cannot be opened. Never serves.

use std::io;
use std::net::Ipv4Addr;

use listenfd::ListenFd;
use nix::errno::Errno;
use tokio::net::{TcpListener, UdpSocket};

use crate::error::Fault;
use crate::netboot::dhcp;
use crate::recipe::LabSettings;

/// A program's connections, and its datagrams where it is served over UDP.
pub type Pair = (TcpListener, Option<UdpSocket>);

/// All sockets of a server. MOUNT has its own only if its port differs from that of NFS.
#[derive(Debug)]
pub struct Sockets {
    pub tftp: UdpSocket,
    pub nfs: Pair,
    pub mount: Option<Pair>,
    pub portmap: Option<Pair>,
    pub http: TcpListener,
    pub dhcp: Option<UdpSocket>,
}

impl Sockets {
    /// Opens the lab's sockets, on its address only, so that one host can serve several labs.
    /// Sockets passed by systemd with the same protocol and port are used instead.
    ///
    /// # Errors
    /// Names every port that cannot be opened, and the remedy.
    pub fn open(lab: &LabSettings, inherited: &mut ListenFd) -> Result<Sockets, Fault> {
        let mut opener = Opener::new(lab.address, inherited);
        let ports = lab.ports;
        let tftp = opener.udp("TFTP", ports.tftp);
        let nfs = opener.pair("NFS", ports.nfs, lab.nfs_udp);
        let mount =
            (ports.mount != ports.nfs).then(|| opener.pair("MOUNT", ports.mount, lab.nfs_udp));
        let portmap = (ports.portmap != 0).then(|| opener.pair("portmapper", ports.portmap, true));
        let http = opener.tcp("HTTP", ports.http);
        let dhcp = lab.dhcp.as_ref().map(|dhcp| opener.dhcp(&dhcp.interface));
        // A missing socket has a recorded failure; optional ones may be missing without.
        match (tftp, nfs, http, opener.failures.is_empty()) {
            (Some(tftp), Some(nfs), Some(http), true) => Ok(Sockets {
                tftp,
                nfs,
                mount: mount.flatten(),
                portmap: portmap.flatten(),
                http,
                dhcp: dhcp.flatten(),
            }),
            _ => Err(opener.fault()),
        }
    }
}

struct SocketFailure {
    service: &'static str,
    protocol: &'static str,
    port: u16,
    error: io::Error,
}

struct Opener {
    address: Ipv4Addr,
    /// Sockets passed by systemd that are not taken yet.
    listeners: Vec<std::net::TcpListener>,
    datagrams: Vec<std::net::UdpSocket>,
    failures: Vec<SocketFailure>,
}

impl Opener {
    fn new(address: Ipv4Addr, inherited: &mut ListenFd) -> Self {
        let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
        for index in 0..inherited.len() {
            // An error means that the socket is of another type.
            if let Ok(Some(socket)) = inherited.take_tcp_listener(index) {
                listeners.push(socket);
            } else if let Ok(Some(socket)) = inherited.take_udp_socket(index) {
                datagrams.push(socket);
            }
        }
        Opener {
            address,
            listeners,
            datagrams,
            failures: Vec::new(),
        }
    }

    fn note<T>(
        &mut self,
        service: &'static str,
        protocol: &'static str,
        port: u16,
        opened: io::Result<T>,
    ) -> Option<T> {
        opened
            .map_err(|error| {
                self.failures.push(SocketFailure {
                    service,
                    protocol,
                    port,
                    error,
                });
            })
            .ok()
    }

    fn tcp(&mut self, service: &'static str, port: u16) -> Option<TcpListener> {
        let opened = self.tcp_socket(port);
        self.note(service, "TCP", port, opened)
    }

    fn udp(&mut self, service: &'static str, port: u16) -> Option<UdpSocket> {
        let opened = self.udp_socket(port);
        self.note(service, "UDP", port, opened)
    }

    fn pair(&mut self, service: &'static str, port: u16, with_udp: bool) -> Option<Pair> {
        let tcp = self.tcp(service, port);
        // If it cannot be opened, its failure is noted.
        let udp = with_udp.then(|| self.udp(service, port)).flatten();
        Some((tcp?, udp))
    }

    fn dhcp(&mut self, interface: &str) -> Option<UdpSocket> {
        let opened = dhcp::open(interface).and_then(UdpSocket::from_std);
        self.note("DHCP", "UDP", dhcp::SERVER_PORT, opened)
    }

    fn tcp_socket(&mut self, port: u16) -> io::Result<TcpListener> {
        let has_port = |socket: &std::net::TcpListener| {
            socket.local_addr().is_ok_and(|local| local.port() == port)
        };
        let socket = match self.listeners.iter().position(has_port) {
            Some(index) => self.listeners.swap_remove(index),
            None => std::net::TcpListener::bind((self.address, port))?,
        };
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    }

    fn udp_socket(&mut self, port: u16) -> io::Result<UdpSocket> {
        let has_port = |socket: &std::net::UdpSocket| {
            socket.local_addr().is_ok_and(|local| local.port() == port)
        };
        let socket = match self.datagrams.iter().position(has_port) {
            Some(index) => self.datagrams.swap_remove(index),
            None => std::net::UdpSocket::bind((self.address, port))?,
        };
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    fn fault(&self) -> Fault {
        let failures: Vec<String> = self
            .failures
            .iter()
            .map(|failure| {
                let SocketFailure {
                    service,
                    protocol,
                    port,
                    error,
                } = failure;
                format!("{service} ({protocol} port {port}): {}", cause(error))
            })
            .collect();
        let mut remedies: Vec<String> = Vec::new();
        for failure in &self.failures {
            let remedy = self.remedy(failure);
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        Fault::host(format!(
            "cannot listen on {}: {}",
            self.address,
            failures.join("; ")
        ))
        .remedy(remedies.join("\n      "))
    }

    fn remedy(&self, failure: &SocketFailure) -> String {
        match failure.error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES | Errno::EPERM) => format!(
                "ports below 1024 need permission: `sysctl net.ipv4.ip_unprivileged_port_start={}`, or \
                 `setcap cap_net_bind_service=+ep` on hearth's binary, or other ports in the lab file's [lab.ports]",
                self.lowest_privileged()
            ),
            Some(Errno::EADDRINUSE) => format!(
                "another program has port {}: `ss -lnptu 'sport = :{}'` shows which; stop it, or choose another port in \
                 the lab file's [lab.ports]{}",
                failure.port,
                failure.port,
                if failure.service == "portmapper" {
                    " (0 for none: only klibc's nfsmount needs it)"
                } else {
                    ""
                }
            ),
            Some(Errno::EADDRNOTAVAIL) => format!(
                "no interface of this host has the address {}: correct `address` in the lab file, or give it to one",
                self.address
            ),
            Some(Errno::EMFILE | Errno::ENFILE) => {
                "let more files be open: `ulimit -n 1024`, or LimitNOFILE= of the service".into()
            }
            Some(Errno::ENODEV) => "correct `interface` in the lab file's [lab.dhcp]".into(),
            _ => "choose another port in the lab file's [lab.ports]".into(),
        }
    }

    fn lowest_privileged(&self) -> u16 {
        let denied = self.failures.iter().filter(|failure| {
            matches!(
                failure.error.raw_os_error().map(Errno::from_raw),
                Some(Errno::EACCES | Errno::EPERM)
            )
        });
        denied.map(|failure| failure.port).min().unwrap_or(0)
    }
}

fn cause(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => "not permitted".into(),
        Some(Errno::EADDRINUSE) => "taken".into(),
        Some(Errno::EADDRNOTAVAIL) => "not an address of this host".into(),
        Some(Errno::ENODEV) => "no such interface".into(),
        Some(Errno::EMFILE | Errno::ENFILE) => "too many files are open".into(),
        _ => error.to_string(),
    }
}
