//! Measures what `hearth serve` costs and how fast it is: the processor's time for DHCP requests and for boards that wait
//! for a job, what forged requests bring their victims, and the throughput of TFTP, HTTP and NFS.
//!
//! `HEARTH_BENCH_BEFORE` may name another hearth: it is measured in the same run and in turns, and ratios are printed.
//! Needs libnfs-utils. Takes three minutes for each hearth.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hearth::board::network;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream as AsyncStream;

const ROUNDS: usize = 7;
const LARGE: usize = 100_000_000;
const KERNEL: usize = 25_000_000;
/// DHCP requests a second, and for how long.
const DHCP_RATE: u32 = 890;
const DHCP_TIME: Duration = Duration::from_secs(10);
/// Boards that wait for a job, and for how long that is measured: each asks again after a minute.
const BOARDS: usize = 500;
const IDLE_TIME: Duration = Duration::from_secs(65);
const FORGED: usize = 5000;

fn main() {
    network::enter(network::SERVER).expect("a private network");
    let place = tempfile::tempdir().expect("a directory");
    let image = make_build(place.path());
    let mut hearths = vec![("now", PathBuf::from(env!("CARGO_BIN_EXE_hearth")))];
    if let Some(path) = env::var_os("HEARTH_BENCH_BEFORE") {
        hearths.push(("before", path.into()));
    }
    for (name, hearth) in &hearths {
        let server = Server::start(hearth, place.path(), network::SERVER, true);
        println!("{name}: {}", dhcp(&server));
        println!("{name}: {}", idle_boards(&server, &image));
        println!("{name}: {}", forged(&server, &image));
    }
    let addresses = [network::SERVER, Ipv4Addr::new(127, 0, 0, 1)];
    let servers: Vec<(&str, Server)> = hearths
        .iter()
        .zip(addresses)
        .map(|((name, hearth), address)| {
            (*name, Server::start(hearth, place.path(), address, false))
        })
        .collect();
    let kernel = format!("images/{image}/vmlinuz");
    let nfs = |address: Ipv4Addr, path: &str| {
        format!("nfs://{address}/{image}{path}?version=3&nfsport=2049&mountport=2049")
    };
    let tftp = |options: &'static str| {
        let kernel = kernel.clone();
        move |address: Ipv4Addr| fetch(address, &kernel, options)
    };
    compare(
        "TFTP, 25 MB, blksize 1468",
        &servers,
        tftp("blksize\x001468\0"),
    );
    compare(
        "TFTP, 25 MB, blksize 512",
        &servers,
        tftp("blksize\x00512\0"),
    );
    compare(
        "TFTP, 25 MB, blksize 1468, windowsize 16",
        &servers,
        tftp("blksize\x001468\0windowsize\x0016\0"),
    );
    compare(
        "TFTP, 20 at once, 25 MB, blksize 1468",
        &servers,
        |address| {
            let kernel = &kernel;
            std::thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(move || fetch(address, kernel, "blksize\x001468\0"));
                }
            });
        },
    );
    compare("HTTP, 25 MB, 8 times", &servers, |address| {
        for _ in 0..8 {
            get(address, &format!("/{kernel}"));
        }
    });
    compare("NFS, read of 100 MB", &servers, |address| {
        run(Command::new("nfs-cat").arg(nfs(address, "/large")));
    });
    compare("NFS, walk of 20,000 files", &servers, |address| {
        run(Command::new("nfs-ls").arg("-R").arg(nfs(address, "/")));
    });
}

/// A server that ends with the measurement.
struct Server {
    child: Child,
    address: Ipv4Addr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(hearth: &Path, place: &Path, address: Ipv4Addr, dhcp: bool) -> Self {
        let mut lab = format!("[lab]\nname = 'bench'\naddress = '{address}'\nrecipe = 'bench'\n");
        lab += "allow = ['127.0.0.0/8', '10.99.0.0/24']\n";
        if dhcp {
            lab += "dhcp = { interface = 'lo', network = '10.99.0.0/16' }\n";
        }
        for number in 0..BOARDS {
            lab += &format!(
                "[[board]]\nname = 'b{number}'\ntype = 'nanopi-neo'\nmac = '{}'\naddress = '{}'\n",
                mac(number),
                Ipv4Addr::from(0x0a63_0100 + number as u32)
            );
        }
        let file = place.join(format!("lab-{address}.toml"));
        fs::write(&file, lab).expect("the lab file");
        let state = place.join(format!("state-{address}"));
        let _ = fs::remove_dir_all(&state);
        let child = Command::new(hearth)
            .args(["-q", "serve", "--lab"])
            .arg(&file)
            .current_dir(place)
            .env("HEARTH_STATE", state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("hearth");
        let server = Server { child, address };
        while TcpStream::connect((address, 8420)).is_err() {
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(300));
        server
    }

    /// Seconds of the processor that it has taken (proc(5), in ticks of 10 ms).
    fn processor(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("hearth");
        let (_, fields) = stat.rsplit_once(") ").expect("proc(5)");
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .filter_map(|ticks| ticks.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    }
}

fn mac(number: usize) -> String {
    format!("02:00:5e:20:{:02x}:{:02x}", number / 256, number % 256)
}

/// Requests of all boards in turn, each at its time.
fn dhcp(server: &Server) -> String {
    let socket = UdpSocket::bind((server.address, 0)).expect("a socket");
    let (before, begun) = (server.processor(), Instant::now());
    let count = DHCP_RATE * DHCP_TIME.as_secs() as u32;
    for number in 0..count {
        let board = number as usize % BOARDS;
        let mut packet = vec![1, 1, 6, 0];
        packet.resize(28, 0);
        packet.extend([2, 0, 0x5e, 0x20, (board / 256) as u8, (board % 256) as u8]);
        packet.resize(236, 0);
        packet.extend([99, 130, 83, 99, 53, 1, 1, 255]);
        packet.resize(300, 0);
        socket
            .send_to(&packet, (server.address, 67))
            .expect("a request");
        sleep((Duration::from_secs(1) * (number + 1) / DHCP_RATE).saturating_sub(begun.elapsed()));
    }
    let (took, wall) = (server.processor() - before, begun.elapsed().as_secs_f64());
    format!(
        "DHCP: {:.0} us of the processor a request, {:.1} % of a core at {:.0}/s",
        took / f64::from(count) * 1e6,
        100.0 * took / wall,
        f64::from(count) / wall
    )
}

/// What boards that have checked in and wait cost.
fn idle_boards(server: &Server, image: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let address = SocketAddr::from((server.address, 8420));
    let (took, wall, polls) = runtime.block_on(async {
        let polls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for number in 0..BOARDS {
            let claim = json!({
                "board": format!("b{number}"), "mac": mac(number), "boot": format!("boot-{number}"),
                "image": image, "secret": format!("secret-{number}"),
            });
            let claim = claim.to_string();
            let request = format!(
                "POST /api/v1/checkin HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{claim}",
                claim.len()
            );
            let answer = ask(address, &request).await;
            let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
            let value: Value = serde_json::from_str(body).expect("JSON");
            assert!(value["problem"].is_null(), "{value}");
            let request = format!(
                "GET /api/v1/job?wait=60 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
                value["token"].as_str().expect("a token")
            );
            let polls = polls.clone();
            tokio::spawn(async move {
                loop {
                    polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let answer = ask(address, &request).await;
                    if !answer.starts_with("HTTP/1.1 204") {
                        println!("a board got {}", answer.lines().next().unwrap_or_default());
                        return;
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, begun) = (server.processor(), Instant::now());
        tokio::time::sleep(IDLE_TIME).await;
        (
            server.processor() - before,
            begun.elapsed().as_secs_f64(),
            polls.load(std::sync::atomic::Ordering::Relaxed),
        )
    });
    format!(
        "{BOARDS} boards that wait: {:.2} % of a core ({polls} requests)",
        100.0 * took / wall
    )
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = AsyncStream::connect(address).await.expect("a connection");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Bytes that victims get for each byte of forged TFTP requests, with and without options.
fn forged(server: &Server, image: &str) -> String {
    let ratio = |options: &str| {
        let request = format!("\0\x01images/{image}/vmlinuz\0octet\0{options}");
        let sockets: Vec<UdpSocket> = (0..50)
            .map(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).expect("a socket");
                socket.set_nonblocking(true).expect("a socket");
                socket
            })
            .collect();
        let (mut sent, mut got) = (0, 0);
        let mut packet = vec![0; 65536];
        for number in 0..FORGED + 60 {
            if let Some(socket) = sockets.get(number % 60)
                && number < FORGED
            {
                sent += socket
                    .send_to(request.as_bytes(), (server.address, 69))
                    .expect("a request");
            }
            if number % 60 == 59 {
                sleep(Duration::from_millis(if number < FORGED {
                    5
                } else {
                    7000
                }));
                for socket in &sockets {
                    while let Ok(length) = socket.recv(&mut packet) {
                        got += length;
                    }
                }
            }
        }
        got as f64 / f64::from(sent as u32)
    };
    let (plain, large) = (ratio(""), ratio("blksize\x001468\0windowsize\x0064\0"));
    format!("{FORGED} forged TFTP requests: {plain:.2} bytes for each, {large:.2} with options")
}

/// A TFTP client that acknowledges each window.
fn fetch(server: Ipv4Addr, path: &str, options: &str) {
    let number = |name: &str, default: u64| {
        let mut words = options.split('\0').skip_while(|&word| word != name).skip(1);
        words
            .next()
            .map_or(default, |value| value.parse().expect("a number"))
    };
    let (block, window) = (number("blksize", 512) as usize, number("windowsize", 1));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a socket");
    let request = format!("\0\x01{path}\0octet\0{options}");
    socket
        .send_to(request.as_bytes(), (server, 69))
        .expect("a request");
    let mut packet = vec![0; 65536];
    let (length, peer) = socket.recv_from(&mut packet).expect("an answer");
    assert_eq!(
        packet[1],
        6,
        "{:?}",
        String::from_utf8_lossy(&packet[..length])
    );
    socket.connect(peer).expect("a socket");
    socket.send(&[0, 4, 0, 0]).expect("an acknowledgement");
    let mut next = 1u64;
    loop {
        let got = socket.recv(&mut packet).ok();
        let is_next = got.is_some() && packet[2..4] == (next as u16).to_be_bytes();
        let is_last = is_next && got.is_some_and(|length| length < 4 + block);
        next += u64::from(is_next);
        if !is_next || is_last || (next - 1).is_multiple_of(window) {
            let [high, low] = ((next - 1) as u16).to_be_bytes();
            socket.send(&[0, 4, high, low]).expect("an acknowledgement");
        }
        if is_last {
            return;
        }
    }
}

fn get(server: Ipv4Addr, path: &str) {
    let mut stream = TcpStream::connect((server, 8420)).expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let (mut got, mut data) = (0, vec![0; 1 << 18]);
    while let Ok(length) = stream.read(&mut data) {
        if length == 0 {
            break;
        }
        got += length;
    }
    assert!(got > KERNEL, "{got} bytes");
}

/// In turns, so that what else the machine does meets all alike; medians, and the best of each.
fn compare(what: &str, servers: &[(&str, Server)], take: impl Fn(Ipv4Addr)) {
    let mut times = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        for ((_, server), times) in servers.iter().zip(&mut times) {
            let begun = Instant::now();
            take(server.address);
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let mut text = format!("{what}:");
    for ((name, _), times) in servers.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        text += &format!(" {name} {:.3} s (best {:.3}),", times[ROUNDS / 2], times[0]);
    }
    if let [now, before] = times.as_slice() {
        text += &format!(
            " throughput {:.2} of before (best {:.2})",
            before[ROUNDS / 2] / now[ROUNDS / 2],
            before[0] / now[0]
        );
    }
    println!("{}", text.trim_end_matches(','));
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().expect("a client");
    assert!(status.success(), "{command:?}");
}

/// A build with a large file, many small ones, and a kernel; returns its image id.
fn make_build(place: &Path) -> String {
    let tree = place.join("tree");
    for directory in 0..200 {
        let directory = tree.join(format!("directory-{directory}"));
        fs::create_dir_all(&directory).expect("a directory");
        for file in 0..100 {
            fs::write(directory.join(format!("file-{file}")), "x").expect("a file");
        }
    }
    fs::write(tree.join("large"), vec![7; LARGE]).expect("a large file");
    let build = place.join("out/bench");
    fs::create_dir_all(&build).expect("the build");
    let tar = build.join("rootfs.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&tar)
        .arg("."));
    fs::write(build.join("vmlinuz"), vec![7; KERNEL]).expect("a kernel");
    let bytes = fs::read(&tar).expect("the tar");
    let hash = hex::encode(Sha256::digest(&bytes));
    let id = format!("bench-{}", &hash[..12]);
    let manifest = json!({
        "hearth": "0", "recipe": { "name": "bench", "sha256": hash }, "lock": { "sha256": hash },
        "arch": "armhf", "epoch": 0, "kernel": null, "image": id,
        "artifacts": { "rootfs.tar": { "sha256": hash, "size": bytes.len() } },
    });
    fs::write(build.join("manifest.json"), manifest.to_string()).expect("the manifest");
    id
}
