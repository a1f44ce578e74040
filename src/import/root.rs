//! Owns what a root file system tells of itself: its architecture, by its programs, and its init.
//! Never runs one of them.

use crate::arch::Arch;
use crate::image::index::{Found, Image, Kind, Number};

/// Programs that nearly every root has, in the order in which they are asked.
const PROGRAMS: [&str; 8] = [
    "sbin/init",
    "bin/sh",
    "bin/busybox",
    "usr/bin/env",
    "bin/ls",
    "lib/systemd/systemd",
    "usr/lib/systemd/systemd",
    "init",
];
/// How many other files are looked at.
const MOST_FILES: usize = 100_000;

/// Values of `e_ident` and `e_machine` (gabi, chapter 4), and of `e_flags` (ELF for the Arm Architecture, section 5.2).
const CLASS_64: u8 = 2;
const MACHINE_ARM: u16 = 40;
const MACHINE_AARCH64: u16 = 183;
const MACHINE_RISCV: u16 = 243;
const SOFT_FLOAT: u32 = 0x200;
const HARD_FLOAT: u32 = 0x400;

/// What the ELF header of a program says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Machine {
    Known(Arch),
    /// 32-bit ARM, of either calling convention.
    Arm,
    Other(&'static str),
}

/// The architecture of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Architecture {
    Known(Arch),
    /// One that hearth has no boards of, by name.
    Foreign(String),
    /// It has no ELF program.
    None,
}

/// The architecture of a root's programs.
pub fn architecture(image: &Image) -> Architecture {
    let mut arm = false;
    let mut foreign = None;
    let mut judge = |machine: Option<Machine>| match machine {
        Some(Machine::Known(arch)) => Some(arch),
        Some(Machine::Arm) => {
            arm = true;
            None
        }
        Some(Machine::Other(name)) => {
            foreign.get_or_insert(name);
            None
        }
        None => None,
    };
    for path in PROGRAMS {
        let machine = image
            .follow(path)
            .and_then(|found| machine(image, found.number));
        if let Some(arch) = judge(machine) {
            return Architecture::Known(arch);
        }
    }
    for number in files(image) {
        if let Some(arch) = judge(machine(image, number)) {
            return Architecture::Known(arch);
        }
    }
    match (arm, foreign) {
        // No program says which; the loader's name does.
        (true, _) => Architecture::Known(match image.find("lib/ld-linux.so.3") {
            Some(_) => Arch::Armel,
            None => Arch::Armhf,
        }),
        (false, Some(name)) => Architecture::Foreign(name.into()),
        (false, None) => Architecture::None,
    }
}

/// Files that may be programs, those in the usual directories first.
fn files(image: &Image) -> Vec<Number> {
    let mut found = Vec::new();
    let mut later = Vec::new();
    image.walk(|path, number, inode| {
        let is_program = matches!(inode.kind, Kind::File { size, .. } if size > 52);
        if !is_program || found.len() + later.len() >= MOST_FILES {
            return;
        }
        let in_usual = ["bin/", "sbin/", "lib/", "usr/"]
            .iter()
            .any(|directory| path.starts_with(directory.as_bytes()));
        match in_usual && inode.mode & 0o111 != 0 {
            true => found.push(number),
            false => later.push(number),
        }
    });
    found.extend(later);
    found
}

fn machine(image: &Image, number: Number) -> Option<Machine> {
    let mut header = [0; 64];
    let length = image.read_at(number, 0, &mut header).ok()?;
    machine_of(&header[..length])
}

fn machine_of(header: &[u8]) -> Option<Machine> {
    if header.len() < 52 || header[..4] != *b"\x7fELF" {
        return None;
    }
    let is_little = header[5] == 1;
    let bytes = [header[18], header[19]];
    let machine = match is_little {
        true => u16::from_le_bytes(bytes),
        false => u16::from_be_bytes(bytes),
    };
    let flags = u32::from_le_bytes([header[36], header[37], header[38], header[39]]);
    Some(match (machine, is_little) {
        (MACHINE_ARM, true) if flags & HARD_FLOAT != 0 => Machine::Known(Arch::Armhf),
        (MACHINE_ARM, true) if flags & SOFT_FLOAT != 0 => Machine::Known(Arch::Armel),
        (MACHINE_ARM, true) => Machine::Arm,
        (MACHINE_AARCH64, true) => Machine::Known(Arch::Arm64),
        (MACHINE_RISCV, true) if header[4] == CLASS_64 => Machine::Known(Arch::Riscv64),
        (62, _) => Machine::Other("x86-64"),
        (3, _) => Machine::Other("x86"),
        (8, _) => Machine::Other("MIPS"),
        (20 | 21, _) => Machine::Other("PowerPC"),
        (22, _) => Machine::Other("S/390"),
        (MACHINE_ARM | MACHINE_AARCH64, false) => Machine::Other("big-endian ARM"),
        _ => Machine::Other("of another architecture"),
    })
}

/// What a root has as the first program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// `/sbin/init`, which boards start.
    Usual,
    /// Another program; this path has to be given to the kernel as `init=`.
    Other(&'static str),
    Missing,
}

/// The root's init.
pub fn init(image: &Image) -> Init {
    let is_there = |path: &str| {
        image.follow(path).is_some_and(|Found { number, .. }| {
            image
                .inode(number)
                .is_some_and(|inode| matches!(inode.kind, Kind::File { .. }))
        })
    };
    if is_there("sbin/init") {
        return Init::Usual;
    }
    // The kernel's own choices, and an initramfs'.
    let others = [
        "/etc/init",
        "/bin/init",
        "/init",
        "/usr/lib/systemd/systemd",
    ];
    others
        .into_iter()
        .find(|path| is_there(path))
        .map_or(Init::Missing, Init::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_the_machine_and_how_it_passes_floats() {
        let mut header = [0u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x01\x01");
        header[18] = 40;
        assert_eq!(machine_of(&header), Some(Machine::Arm));
        header[37] = 4;
        assert_eq!(machine_of(&header), Some(Machine::Known(Arch::Armhf)));
        header[37] = 2;
        assert_eq!(machine_of(&header), Some(Machine::Known(Arch::Armel)));
        header[18] = 62;
        assert_eq!(machine_of(&header), Some(Machine::Other("x86-64")));
        assert_eq!(machine_of(&header[..40]), None);
        assert_eq!(machine_of(b"#!/bin/sh"), None);
    }
}
