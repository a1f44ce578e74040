//! Owns boards in QEMU: the machines that tests emulate, and a running one whose console a test reads and types on.
//! Never plays a board by a script: that is `scripted`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{oracle, repository, succeed};

/// How long an emulated board may take for one step of Linux, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The same for U-Boot, which needs seconds where nothing is wrong.
const UBOOT_PATIENCE: Duration = Duration::from_secs(180);

/// U-Boot's prompt.
const PROMPT: &str = "=> ";

/// The console on standard input and output, no screen, and an end where a board would reset.
const CONSOLE: [&str; 7] = [
    "-display",
    "none",
    "-serial",
    "stdio",
    "-monitor",
    "none",
    "-no-reboot",
];

/// A model of board, as QEMU names it.
pub struct Machine {
    program: &'static str,
    arguments: &'static [&'static str],
    /// Debian's U-Boot for it, of the package u-boot-qemu.
    uboot: Option<&'static str>,
}

pub const VIRT_ARM: Machine = Machine {
    program: "qemu-system-arm",
    arguments: &["-M", "virt", "-cpu", "cortex-a15", "-m", "512"],
    uboot: Some("/usr/lib/u-boot/qemu_arm/u-boot.bin"),
};

/// For a kernel without LPAE, which cannot reach a PCI bus above 4 GiB.
pub const VIRT_ARM_LOW: Machine = Machine {
    arguments: &["-M", "virt,highmem=off", "-cpu", "cortex-a15", "-m", "512"],
    uboot: None,
    ..VIRT_ARM
};

pub const VIRT_ARM64: Machine = Machine {
    program: "qemu-system-aarch64",
    arguments: &["-M", "virt", "-cpu", "cortex-a53", "-m", "512"],
    uboot: Some("/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
};

/// QEMU has no NanoPi NEO; this board has the same processor.
pub const NANOPI_NEO: Machine = Machine {
    program: "qemu-system-arm",
    arguments: &["-M", "orangepi-pc", "-m", "1024"],
    uboot: None,
};

impl Machine {
    /// The emulator with all that does not depend on the test.
    pub fn command(&self) -> Command {
        let mut command = oracle(self.program);
        command.args(self.arguments).args(CONSOLE);
        command
    }

    /// Starts Debian's U-Boot with these devices.
    pub fn start_uboot(&self, devices: &[Vec<String>]) -> Emulator {
        let uboot = self.uboot.expect("Debian has no U-Boot for this machine");
        assert!(
            Path::new(uboot).is_file(),
            "u-boot-qemu is missing: run `make deps`"
        );
        let mut command = self.command();
        command.args(["-bios", uboot]).args(devices.concat());
        Emulator::start_bootloader(&mut command)
    }
}

/// A running emulator, killed when dropped.
pub struct Emulator {
    child: Child,
    keyboard: ChildStdin,
    console: Arc<(Mutex<Console>, Condvar)>,
    /// How far the test has read.
    seen: usize,
    patience: Duration,
}

/// What the board has said so far.
#[derive(Default)]
struct Console {
    bytes: Vec<u8>,
    closed: bool,
}

impl Emulator {
    /// Starts a [`Machine::command`]. The console is logged to `target/test-artifacts/NAME.log`.
    pub fn start(command: &mut Command, name: &str) -> Self {
        let path = repository().join(format!("target/test-artifacts/{name}.log"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let log = File::create(path).unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let keyboard = child.stdin.take().unwrap();
        let output = child.stdout.take().unwrap();
        let console = Arc::new((Mutex::new(Console::default()), Condvar::new()));
        let shared = console.clone();
        thread::spawn(move || follow(output, log, &shared));
        Emulator {
            child,
            keyboard,
            console,
            seen: 0,
            patience: PATIENCE,
        }
    }

    /// The same for a test that goes no further than the bootloader; the log has the test's name.
    pub fn start_bootloader(command: &mut Command) -> Self {
        let test = thread::current().name().unwrap_or("main").to_string();
        let mut emulator = Emulator::start(command, &format!("bootloader/{test}"));
        emulator.patience = UBOOT_PATIENCE;
        emulator
    }

    /// Waits until the board says `text`; returns what it said before that, since the last wait.
    pub fn expect(&mut self, text: &str) -> String {
        let patience = self.patience;
        self.wait_for(text, patience)
            .unwrap_or_else(|| panic!("no {text:?} within {patience:?}:\n{}", self.tail()))
    }

    /// Types a line until the board answers with `text`: a getty that has just started may drop what comes too early.
    pub fn insist(&mut self, line: &str, text: &str) {
        let begun = Instant::now();
        let mut pause = Duration::from_secs(10);
        while begun.elapsed() < self.patience {
            self.type_in(&format!("{line}\n"));
            if self.wait_for(text, pause).is_some() {
                return;
            }
            pause *= 2;
        }
        panic!("no {text:?} after {line:?}:\n{}", self.tail());
    }

    fn wait_for(&mut self, text: &str, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut console = self.console.0.lock().unwrap();
        loop {
            let unseen = &console.bytes[self.seen..];
            let found = unseen
                .windows(text.len())
                .position(|at| at == text.as_bytes());
            if let Some(offset) = found {
                self.seen += offset + text.len();
                return Some(String::from_utf8_lossy(&unseen[..offset]).into_owned());
            }
            assert!(
                !console.closed,
                "the emulator ended before {text:?}:\n{}",
                tail(&console.bytes)
            );
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            console = self.console.1.wait_timeout(console, left).unwrap().0;
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.keyboard
            .write_all(text.as_bytes())
            .expect("the emulator ended");
        self.keyboard.flush().expect("the emulator ended");
    }

    /// Waits until the emulator ends by itself.
    pub fn expect_end(&mut self) {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "the emulator: {status}");
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the emulator did not end within {:?}",
                self.patience
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// All that the board has said.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.console.0.lock().unwrap().bytes).into_owned()
    }

    fn tail(&self) -> String {
        tail(&self.console.0.lock().unwrap().bytes)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps what the board says, until the emulator ends.
fn follow(mut output: impl Read, mut log: File, shared: &(Mutex<Console>, Condvar)) {
    let mut buffer = [0; 4096];
    loop {
        let length = output.read(&mut buffer).unwrap_or(0);
        log.write_all(&buffer[..length]).unwrap();
        let mut console = shared.0.lock().unwrap();
        console.bytes.extend_from_slice(&buffer[..length]);
        console.closed = length == 0;
        shared.1.notify_all();
        if length == 0 {
            return;
        }
    }
}

/// The last of what a console has said.
fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(3000)..]).into_owned()
}

impl Emulator {
    /// Runs one of U-Boot's commands at its prompt, and returns what it printed.
    pub fn uboot(&mut self, command: &str) -> String {
        self.type_in(&format!("{command}\n"));
        let said = self.expect(PROMPT);
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
        self.expect(PROMPT);
    }
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

pub fn no_network() -> Vec<String> {
    strings(&["-nic", "none"])
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
