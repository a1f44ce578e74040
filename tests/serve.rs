//! `hearth serve` with emulated boards: from their cards over TFTP and NFS to a login, as a lab's boards boot.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::emulator::{Emulator, VIRT_ARM};
use common::{hearth, lasting, oracle, repository, succeed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

const UBOOT: &str = "/usr/lib/u-boot/qemu_arm/u-boot.bin";

/// A network that lasts as long as this.
struct Network(Child);

impl Network {
    fn start() -> Self {
        let mut child = hearth()
            .args([
                "private-network",
                "sh",
                "-c",
                "echo ready; exec sleep 86400",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Network(child)
    }

    /// A command that will run in it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = oracle("nsenter");
        command.args(["--net", "--target", &self.0.id().to_string()]);
        if !getuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `hearth serve`, ended as Ctrl-C ends it.
struct Serve(Child);

impl Serve {
    fn start(network: &Network, directory: &Path) -> Self {
        let mut child = network
            .command(env!("CARGO_BIN_EXE_hearth"))
            .arg("serve")
            .current_dir(directory)
            .env("HEARTH_STATE", directory.join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| {
            eprintln!("serve: {line}");
            line.starts_with("image ")
        });
        assert!(ready, "it ended before it served an image");
        // So that it never waits for somebody to read.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("serve: {line}");
            }
        });
        Serve(child)
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A lab with boards of one type, built and with their cards written.
fn lab(name: &str, boards: &[&str]) -> PathBuf {
    let directory = lasting(&format!("serve/{name}"));
    fs::create_dir_all(directory.join("recipes")).unwrap();
    let shipped = repository().join("recipes/trixie-armhf.toml");
    let mut recipe = fs::read_to_string(shipped).unwrap();
    // A root that anybody may be.
    recipe.push_str("\n[[user]]\nname = \"root\"\npassword-hash = \"\"\n");
    fs::write(directory.join("recipes/open.toml"), recipe).unwrap();
    let board = |name: &str| {
        format!(
            "[[board]]\nname = \"{name}\"\ntype = \"qemu-virt-arm\"\n\
             console = {{ driver = \"qemu\" }}\npower = {{ driver = \"qemu\" }}\n"
        )
    };
    let entries: String = boards.iter().map(|name| board(name)).collect();
    let lab = format!(
        "[lab]\nname = \"{name}\"\naddress = \"10.99.0.1\"\nrecipe = \"open\"\nidle = 7200\n{entries}"
    );
    fs::write(directory.join("lab.toml"), lab).unwrap();
    let run = |arguments: &[&str]| succeed(hearth().args(arguments).current_dir(&directory));
    run(&["build", "open"]);
    for board in boards {
        run(&["media", board, "-o", &format!("{board}.img")]);
    }
    directory
}

/// The MAC that the lab gives a board.
fn mac(directory: &Path, board: &str) -> String {
    let shown = succeed(
        hearth()
            .args(["boards", "show", board, "--json"])
            .current_dir(directory),
    );
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown["mac"].as_str().unwrap().to_string()
}

fn boot(network: &Network, directory: &Path, number: u8, board: &str) -> Emulator {
    let net = format!("10.99.{number}");
    let mut qemu = VIRT_ARM.command();
    qemu.args(["-bios", UBOOT])
        .args(["-drive", &format!("if=virtio,format=raw,file={board}.img")])
        .args([
            "-netdev",
            &format!(
                "user,id=net,ipv6=off,net={net}.0/24,host={net}.2,dns={net}.3,dhcpstart={net}.15,hostname={board}"
            ),
        ])
        .args(["-device", &format!("virtio-net-pci,romfile=,netdev=net,mac={}", mac(directory, board))]);
    let mut inside = network.command(qemu.get_program());
    inside.args(qemu.get_args()).current_dir(directory);
    Emulator::start(&mut inside, &format!("serve/{board}"))
}

/// Logs in to a board when it has come up, and makes sure that it has its own name and MAC.
fn log_in(directory: &Path, name: &str, board: &mut Emulator) {
    board.expect(&format!("{name} login:"));
    board.insist("root", &format!("root@{name}:"));
    // Written so that the echo of the line does not look like its answer.
    board.insist(
        "echo mac:$(cat /sys/class/net/e*/address):$(hostname):end",
        &format!("mac:{}:{name}:end", mac(directory, name)),
    );
}

#[test]
fn two_boards_boot_from_one_image_and_carry_on_when_the_server_is_restarted() {
    let directory = lab("two", &["left", "right"]);
    let network = Network::start();
    let serve = Serve::start(&network, &directory);
    let mut boards = [("left", 1), ("right", 2)]
        .map(|(name, number)| (name, boot(&network, &directory, number, name)));
    for (name, board) in &mut boards {
        log_in(&directory, name, board);
    }
    serve.stop();
    // What was not read yet has to come from the server that is away.
    let read = "echo 3 >/proc/sys/vm/drop_caches; echo read:$(cat /usr/share/zoneinfo/tzdata.zi | wc -l):end &";
    for (_, board) in &mut boards {
        board.insist(read, "[1]");
    }
    thread::sleep(Duration::from_secs(10));
    for (name, board) in &boards {
        assert!(!board.text().contains("read:4"), "{name} had it in memory");
    }
    let _serve = Serve::start(&network, &directory);
    for (_, board) in &mut boards {
        board.expect("read:4");
        board.insist("poweroff", "Power down");
        board.expect_end();
    }
}

/// For `make test-long`.
mod long {
    use super::*;

    #[test]
    fn eight_boards_boot_at_once() {
        let names = ["b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"];
        let directory = lab("eight", &names);
        let network = Network::start();
        let serve = Serve::start(&network, &directory);
        let mut boards: Vec<(&str, Emulator)> = (1..)
            .zip(names)
            .map(|(number, name)| (name, boot(&network, &directory, number, name)))
            .collect();
        for (name, board) in &mut boards {
            log_in(&directory, name, board);
        }
        for (_, board) in &mut boards {
            board.insist("poweroff", "Power down");
            board.expect_end();
        }
        serve.stop();
    }
}
