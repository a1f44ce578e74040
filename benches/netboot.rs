//! Measures the NFS server against nfs-ganesha with libnfs as the client of both, and TFTP against dnsmasq with curl, in
//! one run and one private network; prints ratios of throughput (hearth's over the peer's). Then what 200 clients at once
//! take, and a `hearth provision` that finds its work done.
//!
//! Needs root (nfs-ganesha opens files by handle), nfs-ganesha-vfs, rpcbind, libnfs-utils, dnsmasq-base and curl.
//! `HEARTH_BENCH_TAR` may name the tar of a real image; without it a tree of 20,000 files is made up.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hearth::board::network;
use serde_json::json;
use sha2::{Digest, Sha256};

const ROUNDS: usize = 5;
const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const LARGE: usize = 100_000_000;
/// What makes the image one of 500 MB; nobody reads it.
const FILLER: u64 = 400_000_000;
const KERNEL: usize = 25_000_000;
const INITRD: usize = 2_500_000;
const CROWD: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that ends with the measurement.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    network::enter(network::SERVER).expect("a private network");
    let place = tempfile::tempdir().expect("a directory");
    let tree = make_tree(place.path());
    let image = make_build(place.path(), &tree);
    let servers = start(place.path(), &tree);
    let ganesha = |path: &str| url(PEER, &format!("{}{path}", tree.display()), 2049, 20048);
    let hearth = |path: &str| url(network::SERVER, &format!("/{image}{path}"), 3049, 3049);
    wait_for(&ganesha("/"));
    for (what, program, path) in [
        ("NFS, read of 100 MB", &["nfs-cat"][..], "/large"),
        ("NFS, walk of the whole image", &["nfs-ls", "-R"], "/"),
    ] {
        let run = |url: String| time(Command::new(program[0]).args(&program[1..]).arg(url));
        compare(
            what,
            "nfs-ganesha",
            || run(hearth(path)),
            || run(ganesha(path)),
        );
    }
    let fetch = |url: String| {
        time(
            Command::new("curl")
                .args(["-fsS", "--tftp-blksize", "1468"])
                .arg(url),
        )
    };
    let ours = format!("tftp://{}/images/{image}/vmlinuz", network::SERVER);
    let theirs = format!("tftp://{PEER}/vmlinuz");
    compare(
        "TFTP, 25 MB at blksize 1468",
        "dnsmasq",
        || fetch(ours.clone()),
        || fetch(theirs.clone()),
    );
    let initrd = format!("tftp://{}/images/{image}/initrd.img", network::SERVER);
    crowd(
        "NFS walks of the whole image",
        &["nfs-ls", "-R", &hearth("/")],
    );
    crowd(
        "TFTP transfers of 2.5 MB",
        &["curl", "-fsS", "--tftp-blksize", "1468", &initrd],
    );
    println!("hearth serve: {} MiB at most", peak_memory(&servers[0]));
    let provision = || {
        time(
            Command::new(env!("CARGO_BIN_EXE_hearth"))
                .args(["-q", "provision", "bench", "--to", "nfs"])
                .current_dir(place.path()),
        )
    };
    println!(
        "hearth provision: {:.2} s, and {:.3} s where it is done already",
        provision(),
        provision()
    );
}

/// Runs a client many times at once.
fn crowd(what: &str, client: &[&str]) {
    let begun = Instant::now();
    let clients: Vec<Child> = (0..CROWD)
        .map(|_| {
            let mut command = Command::new(client[0]);
            let quiet = command.args(&client[1..]).stdout(Stdio::null());
            quiet.spawn().expect("a client")
        })
        .collect();
    let ended = clients
        .into_iter()
        .map(|mut client| client.wait().expect("a client"));
    let failed = ended.filter(|status| !status.success()).count();
    let seconds = begun.elapsed().as_secs_f64();
    println!("{CROWD} {what} at once: {failed} failed, {seconds:.1} s");
}

/// In MiB.
fn peak_memory(server: &Server) -> u64 {
    let status = format!("/proc/{}/status", server.0.id());
    let status = fs::read_to_string(status).expect("the server's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("the server's memory") >> 10
}

/// In turns, so that what else the machine does meets both alike; medians.
fn compare(what: &str, peer: &str, ours: impl Fn() -> f64, theirs: impl Fn() -> f64) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(ours());
        times[1].push(theirs());
    }
    let [ours, theirs] = times.map(|mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    });
    let ratio = theirs / ours;
    println!("{what}: hearth {ours:.3} s, {peer} {theirs:.3} s, throughput ratio {ratio:.2}");
}

fn time(command: &mut Command) -> f64 {
    let begun = Instant::now();
    let status = command.stdout(Stdio::null()).status().expect("a client");
    assert!(status.success(), "{command:?}");
    begun.elapsed().as_secs_f64()
}

fn url(server: Ipv4Addr, path: &str, nfs: u16, mount: u16) -> String {
    format!("nfs://{server}{path}?version=3&nfsport={nfs}&mountport={mount}")
}

fn make_tree(place: &Path) -> PathBuf {
    let tree = place.join("tree");
    fs::create_dir(&tree).expect("the tree");
    match env::var_os("HEARTH_BENCH_TAR") {
        Some(tar) => run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&tree)),
        None => {
            for directory in 0..200 {
                let directory = tree.join(format!("directory-{directory}"));
                fs::create_dir(&directory).expect("a directory");
                for file in 0..100 {
                    fs::write(directory.join(format!("file-{file}")), "x").expect("a file");
                }
            }
        }
    }
    fs::write(tree.join("large"), vec![7; LARGE]).expect("a large file");
    let filler = fs::File::create(tree.join("filler")).expect("a larger file");
    filler.set_len(FILLER).expect("a larger file");
    tree
}

/// The same tree as a build; returns its image id.
fn make_build(place: &Path, tree: &Path) -> String {
    let build = place.join("out/bench");
    fs::create_dir_all(&build).expect("the build");
    let tar = build.join("rootfs.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(tree)
        .arg("-cf")
        .arg(&tar)
        .arg("."));
    fs::write(build.join("vmlinuz"), vec![7; KERNEL]).expect("a kernel");
    fs::write(build.join("initrd.img"), vec![7; INITRD]).expect("an initrd");
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

fn start(place: &Path, tree: &Path) -> Vec<Server> {
    let lab = format!(
        "[lab]\nname = 'bench'\naddress = '{}'\nports = {{ nfs = 3049, mount = 3049, portmap = 0 }}\n",
        network::SERVER
    );
    fs::write(place.join("lab.toml"), lab).expect("the lab file");
    let ganesha = format!(
        "NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = 2049; MNT_Port = 20048; Bind_addr = {PEER};\n\
         Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         EXPORT {{ Export_Id = 1; Path = {0}; Pseudo = /tree; Protocols = 3; Transports = TCP;\n\
         Access_Type = RO; Squash = No_Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}\n",
        tree.display()
    );
    let configuration = place.join("ganesha.conf");
    fs::write(&configuration, ganesha).expect("ganesha's configuration");
    fs::create_dir_all("/var/run/ganesha").expect("ganesha's directory");
    let begun = Instant::now();
    let mut servers = vec![spawn(
        Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(["-q", "serve"])
            .current_dir(place)
            .env("HEARTH_STATE", place.join("state")),
    )];
    while TcpStream::connect((network::SERVER, 8420)).is_err() {
        assert!(begun.elapsed() < PATIENCE, "hearth serve does not answer");
        sleep(Duration::from_millis(5));
    }
    println!(
        "hearth serve: ready after {:.3} s",
        begun.elapsed().as_secs_f64()
    );
    servers.push(spawn(Command::new("/usr/sbin/rpcbind").args(["-w", "-f"])));
    sleep(Duration::from_secs(1));
    servers.push(spawn(
        Command::new("ganesha.nfsd")
            .arg("-F")
            .arg("-f")
            .arg(&configuration)
            .arg("-L")
            .arg(place.join("ganesha.log"))
            .arg("-p")
            .arg(place.join("ganesha.pid")),
    ));
    servers.push(spawn(
        Command::new("/usr/sbin/dnsmasq")
            .args([
                "-C",
                "/dev/null",
                "--no-daemon",
                "--port=0",
                "--enable-tftp",
                "--user=root",
            ])
            .arg(format!("--tftp-root={}", place.join("out/bench").display()))
            .arg(format!("--listen-address={PEER}"))
            .arg("--bind-interfaces"),
    ));
    servers
}

fn spawn(command: &mut Command) -> Server {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    Server(
        quiet
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}")),
    )
}

fn run(command: &mut Command) {
    assert!(
        command.status().expect("a program").success(),
        "{command:?}"
    );
}

/// Waits until a server answers its clients: ganesha takes its time.
fn wait_for(url: &str) {
    let begun = Instant::now();
    let answers = || {
        let mut command = Command::new("nfs-ls");
        let quiet = command.arg(url).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    while !answers() {
        assert!(begun.elapsed() < PATIENCE, "{url} does not answer");
        sleep(Duration::from_millis(200));
    }
}
