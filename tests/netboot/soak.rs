//! `hearth serve` under malformed, truncated, endless and oversized input of all four protocols, and under many
//! clients at once: it stays up, and its memory flat.

use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hearth::board::network::SERVER;
use nfs3_types::nfs3::ftype3;

use crate::image::{list, mount};
use crate::serve::{Serving, build, lab_with_dhcp};
use common::succeed;

/// Names what [`client`] is to do, and where.
const ROLE: &str = "HEARTH_SOAK_ROLE";
const EXPORT: &str = "HEARTH_SOAK_EXPORT";
/// How much the server's memory may vary, in kilobytes, and what it may have at most.
const FLAT: u64 = 12 << 10;
const MOST: u64 = 100 << 10;
/// The ports of a lab: TFTP, portmapper, NFS, DHCP; portmapper and NFS; HTTP.
const DATAGRAMS: [u16; 4] = [69, 111, 2049, 67];
const RPC: [u16; 2] = [111, 2049];
const HTTP: u16 = 8420;

fn start() -> (Serving, String) {
    let directory = tempfile::tempdir().unwrap();
    let id = build(&directory.path().join("out/trixie-armhf"), "");
    (Serving::start(directory, &lab_with_dhcp()), id)
}

/// Runs [`client`] in the server's network.
fn play(server: &Serving, role: &str, image: &str) {
    let this = env::current_exe().unwrap();
    let mut command = server.inside(this.to_str().unwrap());
    command.args(["--exact", "soak::client", "--ignored", "--nocapture"]);
    succeed(command.env(ROLE, role).env(EXPORT, format!("/{image}")));
}

#[test]
fn whatever_comes_the_server_stays_up_and_its_memory_flat() {
    let (server, image) = start();
    // Until the allocator has what the most at once takes; it keeps that.
    for seed in 1..4 {
        play(&server, &format!("abuse {seed}"), &image);
    }
    let before = server.kilobytes("VmRSS");
    for seed in 4..7 {
        play(&server, &format!("abuse {seed}"), &image);
        let script = server.fetch("tftp://10.99.0.1/boards/neo1/boot.scr.uimg");
        assert!(String::from_utf8_lossy(&script).contains(&image));
        let kernel = server.fetch(&format!("http://10.99.0.1:8420/images/{image}/vmlinuz"));
        assert_eq!(kernel, b"kernel ");
        let url = format!("nfs://10.99.0.1/{image}/home/secret?version=3");
        let secret = succeed(server.inside("nfs-cat").arg(url)).stdout;
        assert_eq!(secret, b"for the owner\n");
    }
    let after = server.kilobytes("VmRSS");
    let most = server.kilobytes("VmHWM");
    println!("memory: {before} KB before, {after} KB after, {most} KB at most");
    assert!(after <= before + FLAT, "{before} KB became {after} KB");
    assert!(most < MOST, "{most} KB");
    server.stop();
}

#[test]
fn two_hundred_clients_at_once_fit_in_a_hundred_megabytes() {
    let (server, image) = start();
    play(&server, "walk", &image);
    let most = server.kilobytes("VmHWM");
    println!("memory: {most} KB at most");
    assert!(most < MOST, "{most} KB");
    server.stop();
}

#[test]
#[ignore = "a part of the other tests, which they start in the server's network"]
fn client() {
    let role = env::var(ROLE).expect("run by the other tests only");
    match role.split_once(' ') {
        Some(("abuse", seed)) => abuse(Random(seed.parse().unwrap())),
        _ => walk_and_load(&env::var(EXPORT).unwrap()),
    }
}

/// The numbers of a linear congruential generator: the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        let product = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = product.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// A message with some bytes changed, and its end cut off or grown.
    fn spoilt(&mut self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(message.len());
            message[at] = self.below(256) as u8;
        }
        match self.below(3) {
            0 => message.truncate(self.below(message.len() + 1)),
            1 => {
                let length = self.below(60_000);
                message.extend(self.bytes(length));
            }
            _ => {}
        }
        message
    }
}

fn abuse(mut random: Random) {
    let socket = UdpSocket::bind((SERVER, 0)).unwrap();
    for port in DATAGRAMS {
        for _ in 0..300 {
            let most = [600, 600, 600, 60_000][random.below(4)];
            let length = random.below(most);
            let message = match random.below(2) {
                0 => random.bytes(length),
                _ => random.spoilt(&right(port)),
            };
            // What the server has no room for is lost.
            let _ = socket.send_to(&message, (SERVER, port));
        }
    }
    // Transfers of clients that are gone at once.
    for _ in 0..100 {
        let socket = UdpSocket::bind((SERVER, 0)).unwrap();
        socket.send_to(&right(69), (SERVER, 69)).unwrap();
    }
    for port in RPC {
        for _ in 0..50 {
            let message = random.spoilt(&right(port));
            let mark = (0x8000_0000 | message.len() as u32).to_be_bytes();
            talk(port, &[&mark, &message[..]].concat());
            let length = random.below(5000);
            talk(port, &random.bytes(length));
        }
        endless(port, b"", &[&[0, 0, 4, 0][..], &[0; 1024]].concat());
    }
    for _ in 0..100 {
        talk(HTTP, &random.spoilt(&right(HTTP)));
    }
    endless(
        HTTP,
        b"GET / HTTP/1.1\r\n",
        b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
    );
    endless(HTTP, b"GET /", &[b'a'; 1000]);
    let post = b"POST /api/v1/checkin HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let chunked = [&post[..], b"Transfer-Encoding: chunked\r\n\r\n"].concat();
    endless(HTTP, &chunked, b"8\r\n[[[[[[[[\r\n");
    let sized = [&post[..], b"Content-Length: 999999999999\r\n\r\n"].concat();
    endless(HTTP, &sized, &[b'['; 1000]);
    // Many that begin and wait.
    let waiting: Vec<TcpStream> = [111, 2049, HTTP]
        .into_iter()
        .flat_map(|port| (0..200).map(move |_| port))
        .map(|port| {
            let mut stream = connect(port);
            let head = right(port);
            let _ = stream.write_all(&head[..head.len() / 2]);
            stream
        })
        .collect();
    drop(waiting);
}

/// A message as it should be.
fn right(port: u16) -> Vec<u8> {
    match port {
        69 => {
            b"\0\x01boards/neo1/boot.scr.uimg\0octet\0blksize\x001468\0timeout\x001\0tsize\x000\0"
                .to_vec()
        }
        67 => {
            let mut packet = vec![1, 1, 6, 0];
            packet.resize(28, 0);
            packet.extend([2, 0, 0x5e, 0x10, 0, 2]);
            packet.resize(236, 0);
            packet.extend([99, 130, 83, 99, 53, 1, 1, 61, 3, 1, 2, 3, 255]);
            packet
        }
        HTTP => {
            b"GET /boards/neo1/boot.scr HTTP/1.1\r\nHost: a\r\nRange: bytes=5-17\r\n\r\n".to_vec()
        }
        port => {
            let (program, version) = if port == 111 {
                (100_000, 2)
            } else {
                (100_003, 3)
            };
            let words = [9, 0, 2, program, version, 1, 0, 0, 0, 0, 4, 1, 2, 3];
            words
                .iter()
                .flat_map(|word: &u32| word.to_be_bytes())
                .collect()
        }
    }
}

fn connect(port: u16) -> TcpStream {
    let address = SocketAddr::from((SERVER, port));
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(60)).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    stream
}

/// Says something, and hears the answer to its end.
fn talk(port: u16, message: &[u8]) {
    let mut stream = connect(port);
    let _ = stream.write_all(message);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Goes on until the server has had enough.
fn endless(port: u16, head: &[u8], piece: &[u8]) {
    let mut stream = connect(port);
    stream.write_all(head).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let begun = Instant::now();
    let some = piece.repeat(65_536_usize.div_ceil(piece.len()));
    let mut answer = [0; 4096];
    while stream.write_all(&some).is_ok() {
        // An answer, or an end, is enough too.
        if stream.read(&mut answer).is_ok() {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "port {port} takes everything"
        );
    }
}

/// 200 clients that list the whole image, while as many load a file.
fn walk_and_load(export: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let loading = std::thread::spawn(load);
    runtime.block_on(async {
        let export = export.to_string();
        let walkers: Vec<_> = (0..200)
            .map(|_| tokio::spawn(walk(export.clone())))
            .collect();
        for walker in walkers {
            assert!(walker.await.unwrap() > 5000);
        }
    });
    loading.join().unwrap();
}

async fn walk(export: String) -> usize {
    let mut client = mount(SocketAddr::from((SERVER, 2049)), &export).await;
    let mut left = vec![(b"".to_vec(), client.root_nfs_fh3())];
    let mut seen = 0;
    while let Some((path, directory)) = left.pop() {
        for (path, handle, attributes) in list(&mut client, &path, &directory).await {
            seen += 1;
            if attributes.type_ == ftype3::NF3DIR {
                left.push((path, handle));
            }
        }
    }
    seen
}

/// 200 transfers that are under way at the same time.
fn load() {
    let sockets: Vec<UdpSocket> = (0..200)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            socket
                .send_to(b"\0\x01boards/neo1/boot.scr.uimg\0octet\0", (SERVER, 69))
                .unwrap();
            socket
        })
        .collect();
    let mut packet = [0; 600];
    for block in 1u16.. {
        let mut ended = false;
        for socket in &sockets {
            let [high, low] = block.to_be_bytes();
            let (length, from) = loop {
                let (length, from) = socket.recv_from(&mut packet).unwrap();
                // A block that was acknowledged comes again if the others took long.
                if packet[..4] == [0, 3, high, low] {
                    break (length, from);
                }
            };
            ended = length < 516;
            socket.send_to(&[0, 4, high, low], from).unwrap();
        }
        if ended {
            return;
        }
    }
}
