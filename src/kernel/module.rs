//! Owns reading a kernel module as depmod needs it: what it says of itself, the symbols that it exports and those that it
//! uses. Never reads a file.

use anyhow::{Context, Result};
use object::elf::{EM_AARCH64, EM_ARM, EM_RISCV};
use object::read::elf::{ElfFile, FileHeader};
use object::{FileKind, Object, ObjectSection, ObjectSymbol};

use crate::arch::Arch;
use crate::initrd::module_name::{Name, name_of};

/// A module as depmod knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Relative to the modules' directory: `kernel/fs/nfs/nfs.ko.xz`.
    pub path: String,
    pub name: Name,
    /// The kernel that it was built for, of its `vermagic`.
    pub release: Option<String>,
    /// ELF's `e_machine`.
    pub machine: u16,
    pub aliases: Vec<String>,
    /// Each as in modprobe.d(5): `pre: a b post: c`.
    pub soft: Vec<String>,
    pub weak: Vec<String>,
    pub exports: Vec<String>,
    /// In the order of its symbol table, which decides the order in `modules.dep`.
    pub needs: Vec<String>,
}

impl Module {
    /// Reads an uncompressed module; `path` is where it is in the modules' directory.
    ///
    /// # Errors
    /// If it is not ELF, or damaged.
    pub fn read(path: &str, elf: &[u8]) -> Result<Self> {
        let mut module = match FileKind::parse(elf).ok() {
            Some(FileKind::Elf32) => {
                of::<object::elf::FileHeader32<object::Endianness>>(elf).map_err(damaged)?
            }
            Some(FileKind::Elf64) => {
                of::<object::elf::FileHeader64<object::Endianness>>(elf).map_err(damaged)?
            }
            _ => anyhow::bail!("it is no ELF file, as modules are"),
        };
        module.path = path.to_string();
        module.name = name_of(path);
        Ok(module)
    }

    /// Whether kernels of this architecture could load it.
    pub fn is_for(&self, arch: Arch) -> bool {
        let machine = match arch {
            Arch::Armel | Arch::Armhf => EM_ARM,
            Arch::Arm64 => EM_AARCH64,
            Arch::Riscv64 => EM_RISCV,
        };
        self.machine == machine.0
    }
}

fn damaged(error: anyhow::Error) -> anyhow::Error {
    error.context("it is a damaged or truncated ELF file")
}

fn of<Header: FileHeader<Endian = object::Endianness>>(elf: &[u8]) -> Result<Module> {
    let file = ElfFile::<Header>::parse(elf)?;
    let mut module = Module {
        machine: file.elf_header().e_machine(file.endian()).0,
        ..Module::default()
    };
    if let Some(section) = file.section_by_name(".modinfo") {
        module.take_information(section.data().context(".modinfo")?);
    }
    for symbol in file.symbols() {
        let name = symbol.name_bytes()?;
        if symbol.is_undefined() {
            if !name.is_empty() {
                module.needs.push(text(name));
            }
        } else if let Some(exported) = name.strip_prefix(b"__crc_") {
            module.exports.push(text(exported));
        }
    }
    // A kernel without CONFIG_MODVERSIONS has no checksums.
    if module.exports.is_empty()
        && let Some(section) = file.section_by_name("__ksymtab_strings")
    {
        let names = section.data().context("__ksymtab_strings")?;
        let names = names.split(|byte| *byte == 0);
        module
            .exports
            .extend(names.filter(|name| !name.is_empty()).map(text));
    }
    Ok(module)
}

impl Module {
    /// Takes the records of `.modinfo`: `KEY=VALUE`, each ended by a NUL (include/linux/module.h, `MODULE_INFO`).
    fn take_information(&mut self, section: &[u8]) {
        for record in section.split(|byte| *byte == 0) {
            let record = String::from_utf8_lossy(record);
            let Some((key, value)) = record.split_once('=') else {
                continue;
            };
            match key {
                "alias" => self.aliases.push(value.to_string()),
                "softdep" => self.soft.push(value.to_string()),
                "weakdep" => self.weak.push(value.to_string()),
                "vermagic" => self.release = value.split(' ').next().map(str::to_string),
                _ => {}
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_refused_and_nothing_panics() {
        assert!(Module::read("a.ko", b"#!/bin/sh\n").is_err());
        let own = std::fs::read("/proc/self/exe").unwrap();
        for length in [4, 16, 52, 64, 100, 1000] {
            assert!(Module::read("a.ko", &own[..length]).is_err(), "{length}");
        }
        let module = Module::read("kernel/a-b.ko", &own).unwrap();
        assert_eq!(module.name, "a_b");
        assert!(!module.is_for(Arch::Armhf));
    }
}
