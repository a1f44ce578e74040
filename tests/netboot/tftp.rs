//! TFTP: tftp-hpa and curl as clients that nobody here wrote, and packets made by hand.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use hearth::netboot::net::access::Access;
use hearth::netboot::tftp::{Content, Files, Tftp};
use tokio::runtime::Runtime;

use crate::fixture::pattern;
use common::{oracle, run, succeed};

/// What the test's server has.
struct Shelf {
    directory: tempfile::TempDir,
}

impl Files for Shelf {
    fn open(&self, path: &str, _: IpAddr) -> Result<Option<Content>> {
        if path == "text" {
            return Ok(Some(Content::Bytes(b"made up on the spot\n".to_vec())));
        }
        match File::open(self.directory.path().join(path)) {
            Ok(file) => Ok(Some(Content::of(file)?)),
            Err(_) => Ok(None),
        }
    }
}

pub struct TftpServer {
    pub address: SocketAddr,
    directory: std::path::PathBuf,
    _runtime: Runtime,
}

impl TftpServer {
    pub fn start() -> Self {
        let shelf = Shelf {
            directory: tempfile::tempdir().unwrap(),
        };
        let directory = shelf.directory.path().to_path_buf();
        for (name, size) in [("empty", 0), ("block", 512), ("kernel", 1_000_003)] {
            std::fs::write(directory.join(name), pattern(size)).unwrap();
        }
        let runtime = Runtime::new().unwrap();
        let address = runtime.block_on(async {
            let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .unwrap();
            let address = socket.local_addr().unwrap();
            let server = Tftp {
                files: Arc::new(shelf),
                access: Arc::new(Access::new(vec!["127.0.0.0/8".parse().unwrap()])),
            };
            tokio::spawn(server.serve(socket));
            address
        });
        TftpServer {
            address,
            directory,
            _runtime: runtime,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("tftp://127.0.0.1:{}/{path}", self.address.port())
    }
}

#[test]
fn curl_and_tftp_hpa_fetch_files_with_and_without_options() {
    let server = TftpServer::start();
    for (name, size) in [("empty", 0), ("block", 512), ("kernel", 1_000_003)] {
        for options in [
            &["--tftp-no-options"][..],
            &["--tftp-blksize", "1468"],
            &["--tftp-blksize", "65464"],
        ] {
            // curl 7.88 loses its peer when an empty file comes with options: see `fetch` for that.
            if size == 0 && options.len() > 1 {
                continue;
            }
            let got = succeed(
                oracle("curl")
                    .args(["-sS", "-m", "120"])
                    .args(options)
                    .arg(server.url(name)),
            );
            assert!(got.stdout == pattern(size), "curl {options:?}: {name}");
        }
        let to = server.directory.join("got");
        succeed(
            oracle("tftp")
                .args([
                    "-m",
                    "binary",
                    "127.0.0.1",
                    &server.address.port().to_string(),
                ])
                .args(["-c", "get", name])
                .arg(&to),
        );
        assert!(std::fs::read(&to).unwrap() == pattern(size), "tftp: {name}");
    }
    let text = succeed(
        oracle("curl")
            .args(["-sS", "-m", "60"])
            .arg(server.url("text")),
    );
    assert_eq!(text.stdout, b"made up on the spot\n");
}

#[test]
fn what_is_not_there_or_leads_out_is_refused() {
    let server = TftpServer::start();
    let missing = run(oracle("curl")
        .args(["-sS", "-m", "60"])
        .arg(server.url("nothing")));
    // curl: 68 is TFTP's "file not found".
    assert_eq!(missing.status.code(), Some(68));
    for (request, code) in [
        (&b"\0\x01../../etc/passwd\0octet\0"[..], 2),
        (b"\0\x01a/../../etc/passwd\0octet\0", 2),
        (b"\0\x02text\0octet\0", 2),
        (b"\0\x01text\0mail\0", 4),
        (b"\0\x01text", 4),
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket.send_to(request, server.address).unwrap();
        let mut reply = [0; 600];
        let (length, _) = socket.recv_from(&mut reply).unwrap();
        assert!(length > 4, "{request:?}");
        assert_eq!(reply[..4], [0, 5, 0, code], "{request:?}");
    }
}

/// A client of RFC 7440 that loses the packets for which `lose` says so; returns what it got.
fn fetch(server: SocketAddr, name: &str, options: &str, lose: impl Fn(u64) -> bool) -> Vec<u8> {
    let window: u64 = option(options, "windowsize").unwrap_or(1);
    let block: usize = option(options, "blksize").unwrap_or(512) as usize;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let request = format!("\0\x01{name}\0octet\0{}", options.replace(['=', ' '], "\0"));
    let request = if options.is_empty() {
        request
    } else {
        request + "\0"
    };
    socket.send_to(request.as_bytes(), server).unwrap();
    let (mut got, mut next, mut packets, mut quiet) = (Vec::new(), 1u64, 0, 0);
    let mut packet = vec![0; 65536];
    let mut peer = None;
    loop {
        let (length, from) = match socket.recv_from(&mut packet) {
            Ok(received) => received,
            Err(_) => {
                quiet += 1;
                assert!(
                    quiet < 120,
                    "{name}: the server fell silent at block {next}"
                );
                if let Some(peer) = peer {
                    acknowledge(&socket, peer, next - 1);
                } else {
                    socket.send_to(request.as_bytes(), server).unwrap();
                }
                continue;
            }
        };
        if *peer.get_or_insert(from) != from {
            continue;
        }
        packets += 1;
        if lose(packets) {
            continue;
        }
        match packet[1] {
            6 => acknowledge(&socket, from, 0),
            3 if u16::from_be_bytes([packet[2], packet[3]]) == next as u16 => {
                got.extend_from_slice(&packet[4..length]);
                next += 1;
                let last = length - 4 < block;
                if last || (next - 1) % window == 0 {
                    acknowledge(&socket, from, next - 1);
                }
                if last {
                    return got;
                }
            }
            3 => acknowledge(&socket, from, next - 1),
            _ => panic!("{name}: {:?}", String::from_utf8_lossy(&packet[4..length])),
        }
    }
}

fn acknowledge(socket: &UdpSocket, peer: SocketAddr, block: u64) {
    let [high, low] = (block as u16).to_be_bytes();
    socket.send_to(&[0, 4, high, low], peer).unwrap();
}

fn option(options: &str, name: &str) -> Option<u64> {
    let (_, rest) = options.split_once(&format!("{name}="))?;
    rest.split(' ').next()?.parse().ok()
}

#[test]
fn windows_and_lost_packets_come_out_right() {
    let server = TftpServer::start();
    let expected = pattern(1_000_003);
    for options in [
        "",
        "blksize=1468",
        "windowsize=8 blksize=1468",
        "windowsize=64 blksize=1024",
    ] {
        assert!(
            fetch(server.address, "kernel", options, |_| false) == expected,
            "{options}"
        );
    }
    for options in ["blksize=8192", "windowsize=16 blksize=8192"] {
        let got = fetch(server.address, "kernel", options, |packet| packet % 37 == 5);
        assert!(got == expected, "{options} with losses");
    }
}

#[test]
fn block_numbers_roll_over_past_32_mib() {
    let server = TftpServer::start();
    let size = 34 << 20;
    let data = pattern(size);
    std::fs::write(server.directory.join("initrd"), &data).unwrap();
    let got = fetch(server.address, "initrd", "windowsize=32", |_| false);
    assert!(got == data);
    let curl = succeed(
        oracle("curl")
            .args(["-sS", "-m", "300", "--tftp-no-options"])
            .arg(server.url("initrd")),
    );
    assert!(curl.stdout == data);
}

#[test]
fn two_hundred_transfers_at_once_all_arrive() {
    let server = TftpServer::start();
    let address = server.address;
    let expected = Arc::new(pattern(1_000_003));
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let expected = expected.clone();
            thread::spawn(move || {
                fetch(address, "kernel", "windowsize=4 blksize=8192", |_| false) == *expected
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
}

#[test]
fn a_client_that_vanishes_is_forgotten() {
    let server = TftpServer::start();
    for _ in 0..50 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .send_to(b"\0\x01kernel\0octet\0timeout\x001\0", server.address)
            .unwrap();
    }
    let got = fetch(server.address, "kernel", "blksize=1468", |_| false);
    assert_eq!(got.len(), 1_000_003);
}

/// A client's socket at a free port, with a short wait.
fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let wait = Some(Duration::from_millis(700));
    socket.set_read_timeout(wait).unwrap();
    socket
}

/// The next packet and its sender; `None` if none comes within the wait.
fn next(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut packet = vec![0; 65536];
    let (length, from) = socket.recv_from(&mut packet).ok()?;
    packet.truncate(length);
    Some((packet, from))
}

/// RFC 1350 lets only requests be answered at the server's port. An answer to an error made two servers send each other
/// errors for ever.
#[test]
fn only_requests_are_answered() {
    let server = TftpServer::start();
    for packet in [
        &b"\0\x05\0\0spoofed\0"[..],
        b"\0\x03\0\x01data",
        b"\0\x04\0\x01",
        b"\0\x06blksize\x00512\0",
        b"\0\x09",
        b"x",
        b"",
    ] {
        let socket = client();
        socket.send_to(packet, server.address).unwrap();
        assert_eq!(next(&socket), None, "{packet:?}");
    }
}

/// A request with a forged source costs its victim one packet, whatever it asks for.
#[test]
fn the_first_packet_is_sent_once_until_it_is_acknowledged() {
    let server = TftpServer::start();
    for options in ["", "timeout\x001\0windowsize\x0064\0blksize\x001468\0"] {
        let socket = client();
        let request = format!("\0\x01kernel\0octet\0{options}");
        socket.send_to(request.as_bytes(), server.address).unwrap();
        next(&socket).unwrap();
        let wait = Some(Duration::from_secs(6));
        socket.set_read_timeout(wait).unwrap();
        assert_eq!(next(&socket), None, "{options:?}");
    }
}

/// As dnsmasq does it: a board that was reset asks from the same port again.
#[test]
fn a_new_request_from_the_same_port_ends_the_old_transfer() {
    let server = TftpServer::start();
    let socket = client();
    let request = b"\0\x01kernel\0octet\0";
    socket.send_to(request, server.address).unwrap();
    let (first, old) = next(&socket).unwrap();
    // The first packet was lost: the same comes from the same port.
    socket.send_to(request, server.address).unwrap();
    assert_eq!(next(&socket), Some((first.clone(), old)));
    acknowledge(&socket, old, 1);
    let (second, _) = next(&socket).unwrap();
    assert_eq!(second[..4], [0, 3, 0, 2]);
    thread::sleep(Duration::from_millis(300));
    socket.send_to(request, server.address).unwrap();
    let (again, new) = next(&socket).unwrap();
    assert!(again == first && new != old);
    let wait = Some(Duration::from_secs(3));
    socket.set_read_timeout(wait).unwrap();
    assert_eq!(next(&socket), None, "the old transfer goes on");
}

#[test]
fn requests_as_boot_roms_write_them_are_taken() {
    let server = TftpServer::start();
    for (request, answer) in [
        (&b"\0\x01kernel\0OcTeT\0\0\0\0\0"[..], &b"\0\x03\0\x01"[..]),
        (b"\0\x01\\kernel\0octet\0", b"\0\x03\0\x01"),
        (b"\0\x01kernel\0netascii\0", b"\0\x03\0\x01"),
        (
            b"\0\x01kernel\0octet\0blksize\0 1468\0",
            b"\0\x06blksize\x001468\0",
        ),
        (
            b"\0\x01kernel\0octet\0BLKSIZE\x001468 \0\0\0",
            b"\0\x06blksize\x001468\0",
        ),
        (
            b"\0\x01kernel\0octet\0\"blksize\"\0\"1468\"\0",
            b"\0\x06blksize\x001468\0",
        ),
        (
            b"\0\x01kernel\0octet\0tsize\0garbage\0",
            b"\0\x06tsize\x001000003\0",
        ),
        (b"\0\x01kernel\0octet\0blksize\x004\0", b"\0\x03\0\x01"),
        (b"\0\x01kernel\0octet\0multicast\0\0", b"\0\x03\0\x01"),
        (
            b"\0\x01kernel\0octet\0blksize\x00512\0blksize\0",
            b"\0\x06blksize\x00512\0",
        ),
    ] {
        let socket = client();
        socket.send_to(request, server.address).unwrap();
        let (packet, _) = next(&socket).unwrap();
        let shown = String::from_utf8_lossy(request);
        assert!(packet.starts_with(answer), "{shown:?}: {packet:?}");
    }
    let text = succeed(
        oracle("tftp")
            .args([
                "-m",
                "ascii",
                "127.0.0.1",
                &server.address.port().to_string(),
            ])
            .args(["-c", "get", "text"])
            .arg(server.directory.join("got")),
    );
    drop(text);
    let got = std::fs::read(server.directory.join("got")).unwrap();
    assert_eq!(got, b"made up on the spot\n");
}
