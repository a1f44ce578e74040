//! What `hearth serve` does when there is little to be had: few descriptors, clients that take all connections and say
//! half of what they want, many DHCP requests.

use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hearth::board::network::SERVER;
use hearth::recipe::LoadedLab;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use tokio::net::TcpSocket;

use crate::serve::{LAB, Serving, build, lab_with_dhcp};
use common::succeed;

/// Names what [`client`] is to do.
const ROLE: &str = "HEARTH_LOAD_ROLE";
const HTTP: u16 = 8420;
const NFS: u16 = 2049;

fn start(descriptors: Option<u32>) -> (Serving, String) {
    let directory = tempfile::tempdir().unwrap();
    let id = build(&directory.path().join("out/trixie-armhf"), "");
    (
        Serving::start_with(directory, &lab_with_dhcp(), descriptors),
        id,
    )
}

/// Runs [`client`] in the server's network.
fn play(server: &Serving, role: &str) {
    let this = env::current_exe().unwrap();
    let mut command = server.inside(this.to_str().unwrap());
    command.args(["--exact", "load::client", "--ignored", "--nocapture"]);
    succeed(command.env(ROLE, role));
}

fn is_served(server: &Serving, image: &str) {
    let kernel = format!("10.99.0.1:8420/images/{image}/vmlinuz");
    assert_eq!(server.fetch(&format!("http://{kernel}")), b"kernel ");
    let url = format!("nfs://10.99.0.1/{image}/home/secret?version=3");
    let secret = succeed(server.inside("nfs-cat").arg(url)).stdout;
    assert_eq!(secret, b"for the owner\n");
    let script = server.fetch("tftp://10.99.0.1/boards/neo1/boot.scr.uimg");
    assert!(String::from_utf8_lossy(&script).contains(image));
}

#[test]
fn with_few_descriptors_it_carries_on_and_says_so() {
    let (server, image) = start(Some(64));
    is_served(&server, &image);
    let before = server.processor();
    play(&server, "many connections");
    is_served(&server, &image);
    let took = server.processor() - before;
    println!("{took:.2} s of the processor");
    assert!(took < 2.0, "it spins: {took:.2} s of the processor");
    let (_, said) = server.stop();
    assert!(said.contains("only 64 files may be open"), "{said}");
}

#[test]
fn half_requests_cost_others_nothing_and_come_to_an_end() {
    let (server, image) = start(None);
    play(&server, "half requests");
    is_served(&server, &image);
    server.stop();
}

/// What a request costs is compared with reading the lab file, which is what it cost before.
#[test]
fn a_dhcp_request_costs_a_fraction_of_reading_the_lab() {
    let (server, _) = start(None);
    let before = server.processor();
    play(&server, "dhcp");
    let request = (server.processor() - before) / f64::from(DHCP_REQUESTS);
    let lab = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(lab.path(), LAB).unwrap();
    let own = own_processor();
    for _ in 0..20 {
        LoadedLab::load(lab.path()).unwrap();
    }
    let reading = (own_processor() - own) / 20.0;
    println!(
        "{:.1} us a request, {:.1} us to read the lab",
        request * 1e6,
        reading * 1e6
    );
    assert!(
        request < reading / 3.0,
        "{request} s, and {reading} s to read the lab"
    );
    server.stop();
}

const DHCP_REQUESTS: u32 = 2000;

/// Seconds of the processor that this process has taken.
fn own_processor() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[test]
#[ignore = "a part of the other tests, which they start in the server's network"]
fn client() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    match env::var(ROLE)
        .expect("run by the other tests only")
        .as_str()
    {
        "many connections" => many_connections(),
        "half requests" => half_requests(),
        _ => dhcp(),
    }
}

/// A connection from an address of this network's, on which something is said.
fn open(from: Ipv4Addr, port: u16, says: &[u8]) -> Option<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let connecting = socket.connect(SocketAddr::from((SERVER, port)));
        tokio::time::timeout(Duration::from_secs(5), connecting).await
    });
    let mut stream = stream.ok()?.ok()?.into_std().ok()?;
    stream.set_nonblocking(false).unwrap();
    let _ = stream.write_all(says);
    Some(stream)
}

/// More than there are descriptors, to all ports, held for a while.
fn many_connections() {
    let from = Ipv4Addr::new(127, 0, 0, 2);
    let mut held = Vec::new();
    for port in [HTTP, NFS, 111] {
        held.extend((0..100).map(|_| open(from, port, b"GET / HTTP/1.1\r\n")));
    }
    // TFTP transfers that are begun and left.
    let sockets: Vec<UdpSocket> = (0..100)
        .map(|_| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            let request = b"\0\x01boards/neo1/boot.scr.uimg\0octet\0blksize\x00512\0";
            socket.send_to(request, (SERVER, 69)).unwrap();
            socket
        })
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    // Others are served meanwhile.
    let begun = Instant::now();
    assert!(
        get_list().starts_with(b"HTTP/1.0 200"),
        "{:?}",
        begun.elapsed()
    );
    drop((held, sockets));
}

/// What another client gets at `/` within 20 s.
fn get_list() -> Vec<u8> {
    let mut stream = open(SERVER, HTTP, b"GET / HTTP/1.0\r\n\r\n").expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    answer
}

/// Two hosts that take every place there is, with what has no end.
fn half_requests() {
    let body = b"POST /api/v1/checkin HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{";
    let mut held = Vec::new();
    for from in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)] {
        for _ in 0..300 {
            held.extend(open(from, HTTP, b"GET / HTTP/1.1\r\nHost: a\r\nX"));
            held.extend(open(from, HTTP, body));
            held.extend(open(from, NFS, &[0x80, 0, 0, 100, 0]));
            held.extend(open(from, NFS, b""));
        }
    }
    let begun = Instant::now();
    assert!(get_list().starts_with(b"HTTP/1.0 200"));
    println!("served after {:?}", begun.elapsed());
    // A half head is not waited for.
    let mut half = open(SERVER, HTTP, b"GET / HTTP/1.1\r\nHost: a\r\nX").expect("a connection");
    half.set_read_timeout(Some(Duration::from_secs(25)))
        .unwrap();
    half.read_to_end(&mut Vec::new()).expect("an end");
}

/// Requests of one board, in turn with their answers.
fn dhcp() {
    let mut packet = vec![1, 1, 6, 0];
    packet.resize(28, 0);
    packet.extend([2, 0, 0x5e, 0x10, 0, 2]);
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99, 53, 1, 8, 255]);
    packet.resize(300, 0);
    // INFORM is answered at the client's address.
    packet[12..16].copy_from_slice(&SERVER.octets());
    packet[15] = 21;
    let socket = UdpSocket::bind((SERVER, 0)).unwrap();
    for _ in 0..DHCP_REQUESTS {
        socket.send_to(&packet, (SERVER, 67)).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(Duration::from_millis(200));
}
