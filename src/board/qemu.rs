//! Owns emulated boards: a QEMU process whose console is a pty and whose power is the process itself.
//! Never decides what network the board is on: it is given QEMU's arguments for it.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::console::{self, Console};
use crate::error::Fault;
use crate::recipe::{self, Arch, EmulatedCard, EmulatedNetwork, Emulation};

/// How long QEMU may take to answer on its control socket.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before QEMU is looked at again.
const PAUSE: Duration = Duration::from_millis(20);

/// What an emulated board is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub arch: Arch,
    pub emulation: Emulation,
    /// The bootloader as `-bios`, for machines that do not read it from their card.
    pub firmware: Option<PathBuf>,
    /// The raw image of the card. The board writes to it.
    pub card: Option<PathBuf>,
    /// `-netdev` and its value's like: the network without the device.
    pub network: Vec<String>,
    /// The MAC of the network device, where the machine lets one choose.
    pub mac: Option<recipe::Mac>,
}

/// A running emulator. Dropping it ends the process.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    control: Control,
    /// Holds the control socket.
    _directory: TempDir,
}

impl Emulator {
    /// Starts the board and gives it with its console; nothing that it prints is lost.
    ///
    /// `launcher` is put before QEMU's command line, such as hearth's own program that ends its
    /// child when hearth dies.
    pub fn start(spec: &Spec, launcher: &[String]) -> Result<(Self, Box<dyn Console>)> {
        program(spec.arch)?;
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let socket = directory.path().join("qmp");
        let errors = directory.path().join("stderr");
        let mut command = command(spec, launcher, &socket);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors)?)
            // Ctrl-C is for hearth, which then switches the board off.
            .process_group(0)
            .spawn()
            .map_err(|error| Fault::host(format!("cannot start QEMU: {error}")))?;
        match Control::connect(&socket, &mut child).and_then(|mut control| {
            let pty = control.pty()?;
            let console = console::open_once(&recipe::Console::Serial {
                device: pty,
                speed: None,
            })?;
            control.execute("cont", json!({}))?;
            Ok((control, console))
        }) {
            Ok((control, console)) => Ok((
                Emulator {
                    child,
                    control,
                    _directory: directory,
                },
                console,
            )),
            Err(error) => {
                // If it has ended, or is about to, that is the reason, and it says why.
                sleep(PAUSE);
                let ended = child.try_wait().is_ok_and(|status| status.is_some());
                end(&mut child);
                if !ended {
                    return Err(error);
                }
                let said = fs::read_to_string(&errors).unwrap_or_default();
                Err(Fault::infrastructure(format!("QEMU ended at once: {}", said.trim())).into())
            }
        }
    }

    /// Whether the board still runs; it does not once it powered itself off.
    pub fn is_on(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the board powered itself off; `false` if it did not within `patience`.
    pub fn wait_off(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.is_on() && Instant::now() < end {
            sleep(Duration::from_millis(50));
        }
        !self.is_on()
    }

    /// Cuts the power.
    pub fn off(&mut self) {
        // The answer may not come any more; what counts is that the process ends.
        let _ = self.control.execute("quit", json!({}));
        if !self.wait_off(Duration::from_secs(5)) {
            end(&mut self.child);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The emulator for boards of an architecture.
///
/// # Errors
/// If it is not installed, with the package to install.
pub fn program(arch: Arch) -> Result<PathBuf> {
    let name = format!("qemu-system-{}", arch.qemu());
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(&name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Fault::host(format!(
                "{name} is not installed, which emulates {arch} boards"
            ))
            .remedy("install the package qemu-system-arm")
            .into()
        })
}

fn command(spec: &Spec, launcher: &[String], socket: &Path) -> Command {
    let qemu = format!("qemu-system-{}", spec.arch.qemu());
    let mut words = launcher.iter().cloned().chain([qemu]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let emulation = &spec.emulation;
    command.args([
        "-M",
        &emulation.machine,
        "-m",
        &emulation.memory.to_string(),
    ]);
    command.args([
        "-smp",
        &emulation.cpus.to_string(),
        "-nodefaults",
        "-display",
        "none",
        "-S",
    ]);
    if let Some(cpu) = &emulation.cpu {
        command.args(["-cpu", cpu]);
    }
    command.args(&emulation.arguments);
    if let Some(firmware) = &spec.firmware {
        command.arg("-bios").arg(firmware);
    }
    // A reset is the board's end or a surprise; either way the state machine is to see it.
    command.args(["-chardev", "pty,id=console", "-serial", "chardev:console"]);
    command
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()));
    if let Some(card) = &spec.card {
        let drive = format!(
            "format=raw,file={}",
            card.display().to_string().replace(',', ",,")
        );
        if emulation.card == EmulatedCard::Virtio {
            command.args([
                "-drive",
                &format!("{drive},if=none,id=card"),
                "-device",
                "virtio-blk-pci,drive=card",
            ]);
        } else {
            command.args(["-drive", &format!("{drive},if=sd")]);
        }
    }
    network(&mut command, spec);
    command
}

fn network(command: &mut Command, spec: &Spec) {
    let mac = spec
        .mac
        .map(|mac| format!(",mac={mac}"))
        .unwrap_or_default();
    command.args(&spec.network);
    match spec.emulation.network {
        // The machine's own controller takes its network by the legacy option.
        EmulatedNetwork::Onboard => {
            let mac = mac.replace("mac=", "macaddr=");
            command.args(["-net", &format!("nic,netdev=net{mac}")]);
        }
        EmulatedNetwork::VirtioNetPci => {
            // Without the ROM to boot from the network, which is in a package of its own: the bootloader does that.
            let device = format!("virtio-net-pci,romfile=,netdev=net{mac}");
            command.args(["-device", &device]);
        }
    }
}

/// QEMU's control socket. Protocol: QEMU's `docs/interop/qmp-spec`.
#[derive(Debug)]
struct Control {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Control {
    fn connect(socket: &Path, child: &mut Child) -> Result<Self> {
        let end = Instant::now() + CONTROL_TIMEOUT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if child.try_wait()?.is_some() || Instant::now() > end => {
                    return Err(
                        Fault::infrastructure(format!("QEMU does not answer: {error}")).into(),
                    );
                }
                Err(_) => sleep(PAUSE),
            }
        };
        stream.set_read_timeout(Some(CONTROL_TIMEOUT))?;
        let mut control = Control {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
        };
        control.message()?;
        control.execute("qmp_capabilities", json!({}))?;
        Ok(control)
    }

    fn execute(&mut self, name: &str, arguments: Value) -> Result<Value> {
        writeln!(
            self.writer,
            "{}",
            json!({ "execute": name, "arguments": arguments })
        )?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                return Err(Fault::infrastructure(format!("QEMU refused {name}: {error}")).into());
            }
            // Events come in between.
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let failed = |what: String| Fault::infrastructure(format!("QEMU's control socket {what}"));
        self.reader
            .read_line(&mut line)
            .map_err(|error| failed(format!("failed: {error}")))?;
        serde_json::from_str(&line).map_err(|error| failed(format!("was closed: {error}")).into())
    }

    /// The device of the console's pty.
    fn pty(&mut self) -> Result<PathBuf> {
        let devices = self.execute("query-chardev", json!({}))?;
        devices
            .as_array()
            .into_iter()
            .flatten()
            .find(|device| device["label"] == "console")
            .and_then(|device| device["filename"].as_str()?.strip_prefix("pty:"))
            .map(PathBuf::from)
            .ok_or_else(|| Fault::infrastructure("QEMU has no pty for the console").into())
    }
}
