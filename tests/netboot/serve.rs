//! `hearth serve` as a process, in a private network of its own, on the real ports.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::fixture::make_image;
use common::{fail, hearth, oracle, succeed};

const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a build as `hearth build` lays it out; returns the image id. `mark` makes images differ.
pub fn build(directory: &Path, mark: &str) -> String {
    let beside = directory.with_extension("new");
    fs::create_dir_all(beside.join("dtb")).unwrap();
    let tar = make_image(&beside);
    if !mark.is_empty() {
        let mut bytes = fs::read(&tar).unwrap();
        let at = bytes
            .windows(14)
            .position(|part| part == b"for the owner\n")
            .unwrap();
        bytes[at..at + mark.len()].copy_from_slice(mark.as_bytes());
        fs::write(&tar, bytes).unwrap();
    }
    fs::write(beside.join("vmlinuz"), format!("kernel {mark}")).unwrap();
    fs::write(beside.join("dtb/sun8i-h3-nanopi-neo.dtb"), "tree").unwrap();
    let hash = hex::encode(Sha256::digest(fs::read(&tar).unwrap()));
    let id = format!("trixie-armhf-{}", &hash[..12]);
    let size = fs::metadata(&tar).unwrap().len();
    let manifest = json!({
        "hearth": "0.1.0", "recipe": { "name": "trixie-armhf", "sha256": hash },
        "lock": { "sha256": hash }, "arch": "armhf", "epoch": 0, "kernel": null, "image": id,
        "artifacts": { "rootfs.tar": { "sha256": hash, "size": size } },
    });
    fs::write(beside.join("manifest.json"), manifest.to_string()).unwrap();
    if directory.exists() {
        fs::rename(directory, directory.with_extension("old")).unwrap();
    }
    fs::rename(&beside, directory).unwrap();
    let _ = fs::remove_dir_all(directory.with_extension("old"));
    id
}

pub const LAB: &str = "[lab]\nname = 'desk'\naddress = '10.99.0.1'\nrecipe = 'trixie-armhf'\n\
                   [[board]]\nname = 'neo1'\ntype = 'nanopi-neo'\n[[board]]\nname = 'neo2'\ntype = 'nanopi-neo'\n";

/// The lab with DHCP on the loopback interface, open to it and to its own network.
pub fn lab_with_dhcp() -> String {
    let dhcp = "[lab.dhcp]\ninterface = 'lo'\nnetwork = '10.99.0.0/24'\n[[board]]\nname = 'neo1'\n\
                mac = '02:00:5e:10:00:02'\naddress = '10.99.0.21'";
    LAB.replacen("[[board]]\nname = 'neo1'", dhcp, 1).replacen(
        "address = '10.99.0.1'",
        "address = '10.99.0.1'\nallow = ['127.0.0.0/8', '10.99.0.0/24']",
        1,
    )
}

/// A server in a private network, ready.
pub struct Serving {
    child: Running,
    directory: tempfile::TempDir,
}

/// A process that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serving {
    pub fn start(directory: tempfile::TempDir, lab: &str) -> Self {
        Self::start_with(directory, lab, None)
    }

    /// The same; the server may have only so many files open.
    pub fn start_with(directory: tempfile::TempDir, lab: &str, descriptors: Option<u32>) -> Self {
        fs::write(directory.path().join("lab.toml"), lab).unwrap();
        let notify = directory.path().join("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let limit = match descriptors {
            Some(count) => format!("ulimit -n {count} && exec \"$0\" serve"),
            None => "exec \"$0\" serve".to_string(),
        };
        let child = hearth()
            .args(["private-network", "sh", "-c", &limit])
            .arg(env!("CARGO_BIN_EXE_hearth"))
            .current_dir(directory.path())
            .env("NOTIFY_SOCKET", &notify)
            .env("HEARTH_STATE", directory.path().join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .map(Running)
            .unwrap();
        let mut message = [0; 100];
        let length = socket
            .recv(&mut message)
            .expect("the server never became ready");
        assert_eq!(message[..length].trim_ascii_end(), b"READY=1");
        Serving { child, directory }
    }

    /// A command in the server's network.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = oracle("nsenter");
        command
            .arg("--preserve-credentials")
            .arg(format!("--target={}", self.child.0.id()));
        // Root's private network needs no user namespace.
        if !nix::unistd::geteuid().is_root() {
            command.arg("--user");
        }
        command.args(["--net", program]);
        command
    }

    /// A line of its `/proc/…/status` that counts kilobytes.
    pub fn kilobytes(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.0.id());
        let status = fs::read_to_string(path).expect("the server is gone");
        let mut lines = status.lines();
        let found = lines.find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let count = found.unwrap().split_whitespace().next().unwrap();
        count.parse().unwrap()
    }

    /// Seconds of the processor that the server has taken (proc(5): utime and stime, in ticks of 10 ms).
    pub fn processor(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.child.0.id());
        let stat = fs::read_to_string(path).expect("the server is gone");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
            .sum()
    }

    pub fn fetch(&self, url: &str) -> Vec<u8> {
        succeed(self.inside("curl").args(["-fsS", "-m", "60", url])).stdout
    }

    /// Ends it as Ctrl-C would; returns the directory and what it said.
    pub fn stop(mut self) -> (tempfile::TempDir, String) {
        kill(Pid::from_raw(self.child.0.id() as i32), Signal::SIGINT).unwrap();
        let mut said = String::new();
        for line in BufReader::new(self.child.0.stderr.take().unwrap()).lines() {
            said.push_str(&(line.unwrap() + "\n"));
        }
        assert!(self.child.0.wait().unwrap().success(), "{said}");
        (self.directory, said)
    }
}

#[test]
fn a_lab_is_served_on_the_real_ports_and_a_new_image_to_the_next_boot_only() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("out/trixie-armhf");
    let old = build(&place, "");
    let server = Serving::start(directory, LAB);
    let script = |name: &str| {
        let bytes = server.fetch(&format!("tftp://10.99.0.1/boards/{name}/boot.scr.uimg"));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert!(script("neo1").contains(&format!("nfsroot=10.99.0.1:/{old},vers=3")));
    assert!(script("neo2").contains("hearth.board=neo2"));
    let kernel = |id: &str| server.fetch(&format!("tftp://10.99.0.1/images/{id}/vmlinuz"));
    assert_eq!(kernel(&old), b"kernel ");
    // NFS, found through the portmapper.
    let secret = |id: &str| {
        let url = format!("nfs://10.99.0.1/{id}/home/secret?version=3");
        succeed(server.inside("nfs-cat").arg(url)).stdout
    };
    assert_eq!(secret(&old), b"for the owner\n");

    let new = build(&place, "changed");
    assert_ne!(new, old);
    assert!(script("neo1").contains(&new));
    assert_eq!(
        (kernel(&new), kernel(&old)),
        (b"kernel changed".to_vec(), b"kernel ".to_vec())
    );
    assert_eq!(secret(&old), b"for the owner\n");
    assert!(secret(&new).starts_with(b"changed"));

    // After a restart, the replaced image is still there for the boards that run from it.
    let (directory, said) = server.stop();
    assert!(
        said.contains("lab desk at 10.99.0.1: TFTP 69, NFS 2049"),
        "{said}"
    );
    let server = Serving::start(directory, LAB);
    let url = format!("nfs://10.99.0.1/{old}/home/secret?version=3");
    assert_eq!(
        succeed(server.inside("nfs-cat").arg(url)).stdout,
        b"for the owner\n"
    );
    let part = server.fetch(&format!("http://10.99.0.1:8420/images/{old}/vmlinuz"));
    assert_eq!(part, b"kernel ");
    let range = succeed(
        server
            .inside("curl")
            .args(["-fsS", "-m", "60", "-r", "2-3"])
            .arg(format!("http://10.99.0.1:8420/images/{new}/vmlinuz")),
    );
    assert_eq!(range.stdout, b"rn");
    let index: serde_json::Value =
        serde_json::from_slice(&server.fetch("http://10.99.0.1:8420/")).unwrap();
    assert_eq!(index["images"][0]["image"], new.as_str());
    server.stop();
}

#[test]
fn what_cannot_be_served_is_said_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let in_directory = |command: &mut Command| -> Command {
        let mut again = Command::new(command.get_program());
        again
            .args(command.get_args())
            .current_dir(directory.path())
            .env("HEARTH_STATE", directory.path().join("state"));
        again
    };
    fail(
        &mut in_directory(hearth().arg("serve")),
        2,
        "there is no lab.toml here",
    );
    fs::write(directory.path().join("lab.toml"), LAB).unwrap();
    let output = fail(
        &mut in_directory(hearth().arg("serve")),
        3,
        "TFTP (UDP port 69): not an address of this host",
    );
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("no interface of this host has the address")
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let lab = LAB.replace("10.99.0.1", "127.0.0.1").replace(
        "recipe",
        &format!(
            "ports = {{ tftp = 0, nfs = {port}, mount = {port}, portmap = 0, http = 1 }}\nrecipe"
        ),
    );
    let lab = lab.replace(
        "tftp = 0",
        &format!("tftp = {}", port.wrapping_add(1).max(1024)),
    );
    fs::write(directory.path().join("lab.toml"), lab).unwrap();
    let output = fail(
        &mut in_directory(hearth().arg("serve")),
        3,
        &format!("NFS (TCP port {port}): taken"),
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("ss -lnptu"));
}

#[test]
fn sockets_that_systemd_opened_are_used() {
    let directory = tempfile::tempdir().unwrap();
    build(&directory.path().join("out/trixie-armhf"), "");
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = http.local_addr().unwrap().port();
    fcntl(&http, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (tftp, nfs) = (free(), free());
    let ports = format!(
        "ports = {{ tftp = {tftp}, nfs = {nfs}, mount = {nfs}, portmap = 0, http = {port} }}\nrecipe"
    );
    let lab = LAB
        .replace("10.99.0.1", "127.0.0.1")
        .replace("recipe", &ports);
    fs::write(directory.path().join("lab.toml"), lab).unwrap();
    let mut child = hearth()
        .arg("serve")
        .current_dir(directory.path())
        .env("HEARTH_STATE", directory.path().join("state"))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDS_FIRST_FD", http.as_raw_fd().to_string())
        .spawn()
        .map(Running)
        .unwrap();
    // The kernel takes connections as soon as the socket listens; the server answers when it is there.
    let index = succeed(
        oracle("curl")
            .args(["-fsS", "-m", "60"])
            .arg(format!("http://127.0.0.1:{port}/")),
    );
    assert!(String::from_utf8_lossy(&index.stdout).contains("neo1"));
    kill(Pid::from_raw(child.0.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.0.wait().unwrap().success());
}
