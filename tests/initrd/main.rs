//! Initrds against cpio, lsinitramfs, modprobe and Linux itself in QEMU.
//!
//! The boots need an image: that of `hearth build`, from its cache or the mirror.

mod boot;
mod contents;
mod disk;
mod extract;
mod hooks;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::emulator::{self, Emulator, Machine};
use common::{hearth, lasting, repository, succeed};

/// A directory of the test run that lasts until the next.
fn work(name: &str) -> PathBuf {
    lasting(&format!("initrd/{name}"))
}

/// The directory of a built image of an architecture, in which root has no password.
fn built(arch: &'static str) -> PathBuf {
    static ARMHF: OnceLock<PathBuf> = OnceLock::new();
    static ARM64: OnceLock<PathBuf> = OnceLock::new();
    let cell = if arch == "armhf" { &ARMHF } else { &ARM64 };
    cell.get_or_init(|| {
        let directory = work(arch);
        let recipe = recipe(arch, &directory);
        // Where `hearth serve` in that directory looks for it.
        let out = directory.join("out").join(recipe.file_stem().unwrap());
        succeed(hearth().arg("build").arg(&recipe).arg("-o").arg(&out));
        out
    })
    .clone()
}

/// A recipe as those that hearth ships, but with a root that anybody may be.
fn recipe(arch: &str, directory: &Path) -> PathBuf {
    let shipped = repository().join(format!("recipes/trixie-{arch}.toml"));
    let mut text = fs::read_to_string(shipped).unwrap();
    text.push_str("\n[[user]]\nname = \"root\"\npassword-hash = \"\"\n");
    let path = directory.join(format!("initrd-{arch}.toml"));
    fs::write(&path, text).unwrap();
    path
}

/// Builds the initrd of the built image for one board type; returns its path.
fn initrd(arch: &'static str, board_type: &str, name: &str) -> PathBuf {
    let directory = work(arch);
    let out = directory.join(name);
    let root = built(arch).join("rootfs.tar");
    succeed(&mut native(
        board_type,
        &root,
        &recipe(arch, &directory),
        &out,
    ));
    out
}

/// The command that builds a recipe's native initrd of an image's tar for one board type.
fn native(board_type: &str, root: &Path, recipe: &Path, out: &Path) -> Command {
    let mut command = hearth();
    command
        .args(["initrd", "--board", board_type, "--root"])
        .arg(root)
        .arg("-o")
        .arg(out)
        .arg(recipe);
    command
}

/// What `hearth initrd show` says of an initrd.
fn show(initrd: &Path) -> serde_json::Value {
    let shown = succeed(hearth().args(["initrd", "show", "--json"]).arg(initrd));
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// The distribution's initrd of the built image, for all board types; made once, since it takes minutes.
fn distribution_initrd(arch: &'static str) -> PathBuf {
    static ARMHF: OnceLock<PathBuf> = OnceLock::new();
    static ARM64: OnceLock<PathBuf> = OnceLock::new();
    let cell = if arch == "armhf" { &ARMHF } else { &ARM64 };
    cell.get_or_init(|| {
        let out = work(arch).join("distribution.img");
        succeed(
            hearth()
                .args(["initrd", "--builder", "chroot", "-o"])
                .arg(&out)
                .arg(recipe(arch, &work(arch))),
        );
        out
    })
    .clone()
}

/// A board whose kernel the emulator starts directly, without a bootloader.
struct Board {
    machine: Machine,
    arch: &'static str,
    network: &'static str,
    console: &'static str,
    device_tree: Option<&'static str>,
}

const VIRT_ARM: Board = Board {
    machine: emulator::VIRT_ARM_LOW,
    arch: "armhf",
    network: "user,model=virtio-net-pci",
    console: "ttyAMA0",
    device_tree: None,
};
const VIRT_ARM64: Board = Board {
    machine: emulator::VIRT_ARM64,
    arch: "arm64",
    ..VIRT_ARM
};
const NANOPI_NEO: Board = Board {
    machine: emulator::NANOPI_NEO,
    arch: "armhf",
    network: "user",
    console: "ttyS0,115200",
    device_tree: Some("sun8i-h3-nanopi-neo.dtb"),
};

impl Board {
    /// Boots the built image's kernel with these arguments and further devices of QEMU's.
    fn boot(&self, initrd: &Path, arguments: &str, devices: &[&str], name: &str) -> Emulator {
        let image = built(self.arch);
        let mut command = self.machine.command();
        command
            .args(["-nic", self.network])
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!("console={} {arguments}", self.console));
        if let Some(tree) = self.device_tree {
            command.arg("-dtb").arg(image.join("dtb").join(tree));
        }
        Emulator::start(command.args(devices), &format!("initrd/{name}"))
    }
}

/// An emulated board has the machine to itself.
fn alone() -> MutexGuard<'static, ()> {
    static EMULATOR: Mutex<()> = Mutex::new(());
    EMULATOR.lock().unwrap_or_else(PoisonError::into_inner)
}
