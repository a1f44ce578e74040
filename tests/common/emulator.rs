//! A board in QEMU, driven over its serial console: what it says, and what is typed.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::{oracle, succeed};

/// How long a board may take to say what is waited for. Emulation on a busy machine is slow; a healthy
/// board needs seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running emulator. It is killed when this goes out of scope.
pub struct Emulator {
    child: Child,
    keyboard: ChildStdin,
    console: Receiver<Vec<u8>>,
    /// All that the board has said.
    log: Vec<u8>,
    /// How much of `log` has been waited for.
    seen: usize,
}

impl Emulator {
    /// Starts `qemu` (such as `qemu-system-arm`), with its serial console here and without a screen.
    pub fn start(qemu: &str, arguments: &[String]) -> Emulator {
        let mut child = Command::new(oracle(qemu).get_program())
            .args(["-nographic", "-monitor", "none", "-serial", "stdio"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cannot start qemu");
        let keyboard = child.stdin.take().expect("stdin is a pipe");
        let mut output = child.stdout.take().expect("stdout is a pipe");
        let (sender, console) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Emulator {
            child,
            keyboard,
            console,
            log: Vec::new(),
            seen: 0,
        }
    }

    /// Waits until the board has said `text`, and returns what it said before that since the last wait.
    pub fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let unseen = &self.log[self.seen..];
            if let Some(offset) = unseen
                .windows(text.len())
                .position(|at| at == text.as_bytes())
            {
                let before = String::from_utf8_lossy(&unseen[..offset]).into_owned();
                self.seen += offset + text.len();
                return before;
            }
            match self
                .console
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(data) => self.log.extend_from_slice(&data),
                Err(end) => {
                    let log = String::from_utf8_lossy(&self.log);
                    let why = match end {
                        RecvTimeoutError::Timeout => "the board never said",
                        RecvTimeoutError::Disconnected => {
                            "the emulator ended before the board said"
                        }
                    };
                    panic!("{why} {text:?}; it said:\n{log}")
                }
            }
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.keyboard
            .write_all(text.as_bytes())
            .expect("the emulator ended");
        self.keyboard.flush().expect("the emulator ended");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// U-Boot's prompt.
const PROMPT: &str = "=> ";

impl Emulator {
    /// Runs one of U-Boot's commands at its prompt, and returns what it printed.
    pub fn uboot(&mut self, command: &str) -> String {
        self.type_in(&format!("{command}\n"));
        let said = self.until(PROMPT);
        let (_echo, printed) = said.split_once('\n').unwrap_or(("", &said));
        let printed = printed.replace('\r', "");
        printed.strip_suffix('\n').unwrap_or(&printed).to_string()
    }

    /// The value of one of U-Boot's variables.
    pub fn uboot_variable(&mut self, name: &str) -> String {
        let printed = self.uboot(&format!("printenv {name}"));
        printed
            .strip_prefix(&format!("{name}="))
            .unwrap_or_else(|| panic!("{name} is not set: {printed}"))
            .to_string()
    }

    /// Types Ctrl-C until U-Boot's prompt appears.
    pub fn interrupt_uboot(&mut self) {
        self.type_in("\u{3}");
        self.until(PROMPT);
    }
}

/// The arguments that make `qemu-system-arm` a `-M virt` board with Debian's U-Boot.
pub fn virt_arm() -> Vec<String> {
    strings(&[
        "-M",
        "virt",
        "-cpu",
        "cortex-a15",
        "-m",
        "512",
        "-bios",
        firmware("qemu_arm"),
    ])
}

/// The same for `qemu-system-aarch64`.
pub fn virt_arm64() -> Vec<String> {
    strings(&[
        "-M",
        "virt",
        "-cpu",
        "cortex-a53",
        "-m",
        "512",
        "-bios",
        firmware("qemu_arm64"),
    ])
}

fn firmware(board: &str) -> &'static str {
    let path = match board {
        "qemu_arm" => "/usr/lib/u-boot/qemu_arm/u-boot.bin",
        _ => "/usr/lib/u-boot/qemu_arm64/u-boot.bin",
    };
    assert!(
        Path::new(path).is_file(),
        "u-boot-qemu is missing: run `make deps`"
    );
    path
}

/// A network card on QEMU's user network, whose TFTP server serves `tftp`.
pub fn user_network(tftp: &Path) -> Vec<String> {
    vec![
        "-nic".into(),
        format!("user,model=virtio-net-pci,tftp={}", tftp.display()),
    ]
}

/// A network card whose cable leads nowhere.
pub fn dead_network() -> Vec<String> {
    let nowhere = "socket,model=virtio-net-pci,udp=127.0.0.1:9,localaddr=127.0.0.1:0";
    strings(&["-nic", nowhere])
}

/// A virtio disk.
pub fn disk(image: &Path) -> Vec<String> {
    vec![
        "-drive".into(),
        format!("file={},format=raw,if=virtio", image.display()),
    ]
}

/// Makes a disk image with one FAT partition after another (each 16 MiB, MBR, disk id 0x12345678) that hold these
/// files: by the partition, then the name in its root.
pub fn fat_disk(directory: &Path, partitions: &[&[(&str, &[u8])]]) -> PathBuf {
    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 16;
    let image = directory.join("disk.img");
    let count = partitions.len() as u64;
    let file = fs::File::create(&image).unwrap();
    file.set_len((1 + count * SIZE) * MIB).unwrap();
    let table: String = (0..count)
        .map(|n| format!("start={}MiB, size={SIZE}MiB, type=c\n", 1 + n * SIZE))
        .collect();
    let script = directory.join("table");
    fs::write(
        &script,
        format!("label: dos\nlabel-id: 0x12345678\n{table}"),
    )
    .unwrap();
    succeed(
        oracle("sfdisk")
            .arg("-q")
            .arg(&image)
            .stdin(fs::File::open(script).unwrap()),
    );
    for (n, files) in (0..).zip(partitions) {
        let part = format!("{}@@{}", image.display(), (1 + n * SIZE) * MIB);
        let sectors = (SIZE * MIB / 512).to_string();
        succeed(
            oracle("mformat").args(["-i", &part, "-T", &sectors, "-h", "16", "-s", "32", "::"]),
        );
        for (name, data) in *files {
            let file = directory.join("file");
            fs::write(&file, data).unwrap();
            succeed(
                oracle("mcopy")
                    .args(["-i", &part])
                    .arg(&file)
                    .arg(format!("::{name}")),
            );
        }
    }
    image
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}
