//! Floods of requests whose sources are forged: what their victims get is less than three times what they cost. And what
//! is not there to be abused: NFS over UDP.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hearth::board::network::SERVER;
use hearth::netboot::net::access::Access;
use hearth::netboot::nfs::handle;
use hearth::netboot::nfs::portmap::Portmap;
use hearth::netboot::rpc::service::Service;
use tokio::runtime::Runtime;

use crate::fixture::NfsServer;
use crate::rpc::{NFS, arguments, call, root_handle};
use crate::serve::{LAB, Serving, build};
use crate::tftp::TftpServer;
use common::{oracle, succeed};

/// What the victims of forged requests get: sockets that never answer.
struct Victims {
    sockets: Vec<UdpSocket>,
    sent: usize,
    got: usize,
}

impl Victims {
    fn at(addresses: impl Iterator<Item = Ipv4Addr>) -> Self {
        let open = |address| {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Victims {
            sockets: addresses.map(open).collect(),
            sent: 0,
            got: 0,
        }
    }

    fn send(&mut self, victim: usize, message: &[u8], to: SocketAddr) {
        let socket = &self.sockets[victim % self.sockets.len()];
        self.sent += socket.send_to(message, to).unwrap();
        if victim % 16 == 15 {
            // No more at once than the server's socket has room for.
            std::thread::sleep(Duration::from_millis(2));
            self.take();
        }
    }

    fn take(&mut self) {
        let mut packet = vec![0; 65536];
        for socket in &self.sockets {
            while let Ok(length) = socket.recv(&mut packet) {
                self.got += length;
            }
        }
    }

    /// Bytes got for each byte sent, when all has come.
    fn ratio(&mut self) -> f64 {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            self.take();
        }
        let ratio = self.got as f64 / self.sent as f64;
        println!("{} bytes sent, {} got: {ratio:.2}", self.sent, self.got);
        ratio
    }
}

/// Requests of all kinds, the smallest that there are among them.
const REQUESTS: [&[u8]; 12] = [
    b"\0\x01kernel\0octet\0",
    b"\0\x01kernel\0octet\0blksize\x0065464\0windowsize\x0064\0timeout\x001\0",
    b"\0\x01kernel\0octet\0blksize\x008\0",
    b"\0\x01kernel\0octet\0tsize\x000\0",
    b"\0\x01kernel\0netascii\0",
    b"\0\x01kernel\0octet\0unknown\x000\0",
    b"\0\x01none\0octet\0",
    b"\0\x01text\0mail\0",
    b"\0\x01\0octet\0",
    b"\0\x01",
    b"\0\x02",
    b"\0\x01../x\0octet\0",
];

#[test]
fn one_victim_of_forged_tftp_requests_gets_little() {
    for request in REQUESTS {
        let server = TftpServer::start();
        // From one port, and from many.
        let one = Ipv4Addr::new(127, 0, 0, 9);
        let mut victims = Victims::at([one; 20].into_iter());
        for number in 0..1000 {
            victims.send(number, request, server.address);
        }
        let ratio = victims.ratio();
        assert!(
            ratio < 3.0,
            "{:?}: {ratio}",
            String::from_utf8_lossy(request)
        );
        // Neither that host nor another is locked out: tftp-hpa asks without options.
        let to = tempfile::NamedTempFile::new().unwrap();
        let port = server.address.port().to_string();
        succeed(
            oracle("tftp")
                .args(["-m", "binary", "127.0.0.1", &port, "-c", "get", "kernel"])
                .arg(to.path()),
        );
        assert_eq!(to.as_file().metadata().unwrap().len(), 1_000_003);
    }
}

#[test]
fn many_victims_of_forged_tftp_requests_get_little() {
    let server = TftpServer::start();
    let addresses = (0..500u32).map(|n| Ipv4Addr::from(0x7f01_0001 + n));
    let mut victims = Victims::at(addresses);
    for number in 0..2000 {
        victims.send(number, REQUESTS[0], server.address);
    }
    let ratio = victims.ratio();
    assert!(ratio < 3.0, "{ratio}");
}

/// Boards without options that all begin at once, each with an address of its own, or all with one.
#[test]
fn real_clients_without_options_are_served_at_once() {
    let server = TftpServer::start();
    for of_one in [true, false] {
        let address = |n: u32| Ipv4Addr::from(0x7f02_0001 + if of_one { 0 } else { n });
        let sockets: Vec<UdpSocket> = (0..200)
            .map(|n| {
                let socket = UdpSocket::bind((address(n), 0)).unwrap();
                let wait = Some(Duration::from_secs(20));
                socket.set_read_timeout(wait).unwrap();
                socket.send_to(REQUESTS[0], server.address).unwrap();
                socket
            })
            .collect();
        let mut packet = [0; 600];
        for socket in &sockets {
            let (_, from) = socket.recv_from(&mut packet).expect("a first block");
            assert_eq!(packet[..4], [0, 3, 0, 1]);
            socket.send_to(&[0, 4, 0, 1], from).unwrap();
            socket.send_to(b"\0\x05\0\0enough\0", from).unwrap();
        }
    }
}

/// How many of 12 requests of `socket`, of a port each, get a first block that is answered by an ERROR of this code.
fn stopped(server: SocketAddr, code: u8, of_one: Ipv4Addr) -> usize {
    let fetch = || {
        let socket = UdpSocket::bind((of_one, 0)).unwrap();
        let wait = Some(Duration::from_millis(700));
        socket.set_read_timeout(wait).unwrap();
        socket.send_to(REQUESTS[0], server).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 600]).ok()?;
        socket.send_to(&[0, 5, 0, code, b'!', 0], from).ok()
    };
    (0..12).filter_map(|_| fetch()).count()
}

/// Boot ROMs stop a transfer that they began only to see whether there is a file. What a host answers that did not ask is no
/// proof.
#[test]
fn clients_that_stop_are_served_at_once_and_unexpected_packets_prove_nothing() {
    let server = TftpServer::start();
    for (code, host) in [(0, 1), (3, 2), (8, 3)] {
        let stopped = stopped(server.address, code, Ipv4Addr::new(127, 3, 0, host));
        assert_eq!(stopped, 12, "ERROR {code}");
    }
    for (code, host) in [(4, 4), (5, 5)] {
        let stopped = stopped(server.address, code, Ipv4Addr::new(127, 3, 0, host));
        assert!(stopped < 9, "ERROR {code}: {stopped}");
    }
}

#[test]
fn no_answer_of_the_portmapper_is_larger_than_its_call() {
    let runtime = Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let address = socket.local_addr().unwrap();
        let service = Service {
            name: "portmap",
            programs: Arc::new([Arc::new(Portmap::new(2049, 2049, 111)) as _]),
            access: Arc::new(Access::new(vec!["127.0.0.0/24".parse().unwrap()])),
        };
        tokio::spawn(service.serve_udp(socket));
        address
    });
    let mut victims = Victims::at([Ipv4Addr::LOCALHOST].into_iter());
    let mut number = 0;
    for program in [100_000, 100_003] {
        for version in [2, 3] {
            for procedure in 0..7 {
                let whole = call(1, (program, version), procedure, 0, 0, &[0; 16]);
                for length in [8, 16, 24, 39, 40, 44, whole.len()] {
                    let got = victims.got;
                    let sent = whole[..length.min(whole.len())].to_vec();
                    victims.send(15 + 16 * number, &sent, address);
                    number += 1;
                    assert!(victims.got - got <= 2 * sent.len(), "{procedure}: {length}");
                }
            }
        }
    }
    // Hosts that are not allowed get nothing at all.
    let mut others = Victims::at([Ipv4Addr::new(127, 0, 1, 1)].into_iter());
    others.send(0, &call(1, (100_000, 2), 0, 0, 0, &[]), address);
    assert!(victims.ratio() < 1.0);
    assert_eq!(others.ratio(), 0.0);
}

/// Where NFS over UDP is asked for, a forged call gets little more than what U-Boot reads at once.
#[test]
fn no_answer_over_udp_is_far_larger_than_its_call() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let large = server.image().find(b"usr/bin/large").unwrap().number;
    let export = server.exports.by_id("test-image").unwrap();
    let file = handle(&export, large).to_vec();
    let directory = root_handle(&server);
    let name: &[u8] = b"/test-image";
    for (program, version, procedure, arguments) in [
        (
            100_003u32,
            3u32,
            6u32,
            arguments(&[&file], &[0, 0, u32::MAX]),
        ),
        (
            100_003,
            3,
            16,
            arguments(&[&directory], &[0, 0, 0, 0, u32::MAX]),
        ),
        (
            100_003,
            3,
            17,
            arguments(&[&directory], &[0, 0, 0, 0, u32::MAX, u32::MAX]),
        ),
        (100_005, 3, 1, arguments(&[name], &[])),
        (100_005, 3, 5, vec![]),
    ] {
        let words = [1, 0, 2, program, version, procedure, 0, 0, 0, 0];
        let mut message: Vec<u8> = words
            .iter()
            .flat_map(|word: &u32| word.to_be_bytes())
            .collect();
        message.extend(arguments);
        let mut victims = Victims::at([Ipv4Addr::LOCALHOST].into_iter());
        victims.send(0, &message, server.address);
        let ratio = victims.ratio();
        assert!(
            ratio > 0.0 && ratio < 15.0,
            "{program}, {procedure}: {ratio}"
        );
    }
}

/// Names what [`client`] is to do.
const ROLE: &str = "HEARTH_FORGED_ROLE";

fn play(server: &Serving, role: &str) {
    let this = env::current_exe().unwrap();
    let mut command = server.inside(this.to_str().unwrap());
    command.args(["--exact", "forged::client", "--ignored", "--nocapture"]);
    succeed(command.env(ROLE, role));
}

#[test]
fn nfs_over_udp_is_there_only_where_it_is_asked_for() {
    let with = LAB.replacen("[lab]", "[lab]\nnfs-udp = true", 1);
    for (lab, role) in [(LAB, "no UDP"), (&with, "UDP")] {
        let directory = tempfile::tempdir().unwrap();
        build(&directory.path().join("out/trixie-armhf"), "");
        let server = Serving::start(directory, lab);
        play(&server, role);
        server.stop();
    }
}

#[test]
#[ignore = "a part of the other test, which it starts in the server's network"]
fn client() {
    let is_on = env::var(ROLE).expect("run by the other tests only") == "UDP";
    let ask = |port: u16, message: &[u8]| {
        let socket = UdpSocket::bind((SERVER, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        socket.connect((IpAddr::from(SERVER), port)).unwrap();
        socket.send(message).unwrap();
        let mut reply = vec![0; 65536];
        let length = socket.recv(&mut reply).ok()?;
        reply.truncate(length);
        Some(reply)
    };
    assert_eq!(ask(2049, &call(1, NFS, 0, 0, 0, &[])).is_some(), is_on);
    // GETPORT of NFS 3 and MOUNT 3 over UDP (17) and TCP (6).
    for (program, protocol, port) in [
        (100_003u32, 17u32, if is_on { 2049 } else { 0 }),
        (100_005, 17, if is_on { 2049 } else { 0 }),
        (100_003, 6, 2049),
    ] {
        let words = [program, 3, protocol, 0];
        let arguments: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let reply = ask(111, &call(1, (100_000, 2), 3, 0, 0, &arguments)).expect("the portmapper");
        assert_eq!(reply[reply.len() - 4..], u32::to_be_bytes(port));
    }
}
