//! Owns the closure of a program over its shared libraries, all resolved inside the image.
//! Never reads the host, and cannot know what a program loads with dlopen(3).
//!
//! The search is that of ld.so(8): DT_RPATH (unless there is a DT_RUNPATH), DT_RUNPATH,
//! `/etc/ld.so.conf`, and the default directories.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use object::Endianness;
use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use super::glob;
use super::tree::InitrdTree;
use crate::error::Fault;
use crate::image::index::Image;

/// Values of `e_ident` (gabi, chapter 4).
const CLASS_32: u8 = 1;
const LITTLE_ENDIAN: u8 = 1;

/// ELF class (1 for 32 bits, 2 for 64) and machine.
type Machine = (u8, u16);

/// The dynamic section of a program or library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Libraries for another machine are skipped, as by ld.so.
    machine: Machine,
    interpreter: Option<String>,
    libraries: Vec<String>,
    /// Directories, with `$ORIGIN` not yet replaced.
    rpath: Vec<String>,
    runpath: Vec<String>,
}

/// Copies programs with everything they need from an image into an initrd.
pub struct Closure<'a> {
    image: &'a Image,
    /// The architecture's name in library paths, such as `arm-linux-gnueabihf`.
    triplet: &'a str,
    configured: Vec<String>,
    done: BTreeSet<String>,
    /// Directories of libraries that ld.so does not find without its cache.
    extra: BTreeSet<String>,
    /// The first dependent of each file copied.
    wanted: BTreeMap<String, String>,
}

impl<'a> Closure<'a> {
    pub fn new(image: &'a Image, triplet: &'a str) -> Self {
        let mut configured = Vec::new();
        read_conf(image, "etc/ld.so.conf", 0, &mut configured);
        Closure {
            image,
            triplet,
            configured,
            done: BTreeSet::new(),
            extra: BTreeSet::new(),
            wanted: BTreeMap::new(),
        }
    }

    /// Copies the program at `path` (absolute in the image), its interpreter, and all libraries
    /// they need.
    ///
    /// # Errors
    /// If the image lacks it or a library; the latter names the dependent.
    pub fn take(&mut self, tree: &mut InitrdTree, path: &str) -> Result<()> {
        self.take_for(tree, path, "the recipe")
    }

    /// Directories for `LD_LIBRARY_PATH`, since an initrd has no ld.so.cache.
    pub fn extra_directories(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(String::as_str)
    }

    fn take_for(&mut self, tree: &mut InitrdTree, path: &str, asked_by: &str) -> Result<()> {
        let (number, real) = tree
            .take(self.image, path)
            .with_context(|| format!("{path} (needed by {asked_by}) cannot be taken"))?;
        if !self.done.insert(real.clone()) {
            return Ok(());
        }
        self.wanted.insert(real.clone(), asked_by.to_string());
        let data = self
            .image
            .read(number)
            .with_context(|| format!("/{real}"))?;
        if let Some(interpreter) = script_interpreter(&data) {
            return self.take_for(tree, &interpreter, &format!("/{real}"));
        }
        let Some(needs) = needs_of(&data).with_context(|| format!("/{real}"))? else {
            return Ok(());
        };
        if let Some(interpreter) = &needs.interpreter {
            self.take_for(tree, interpreter, &format!("/{real}"))?;
        }
        for library in &needs.libraries {
            let found = self.find_library(library, &real, &needs)?;
            self.take_for(tree, &found, &format!("/{real}"))?;
        }
        Ok(())
    }

    /// The path of `library`, as ld.so resolves it for the file `real`.
    fn find_library(&mut self, library: &str, real: &str, needs: &Needs) -> Result<String> {
        if library.contains('/') {
            return Ok(library.to_string());
        }
        let origin = real.rsplit_once('/').map_or("", |(directory, _)| directory);
        let own = if needs.runpath.is_empty() {
            &needs.rpath
        } else {
            &needs.runpath
        };
        let own = own.iter().map(|directory| {
            let lib = format!("lib/{}", self.triplet);
            let directory = directory
                .replace("${ORIGIN}", "$ORIGIN")
                .replace("${LIB}", "$LIB");
            directory
                .replace("$ORIGIN", &format!("/{origin}"))
                .replace("$LIB", &lib)
        });
        let default = self.default_directories();
        // Default directories before configured ones, so that LD_LIBRARY_PATH is only needed for
        // what is in none of them. Debian's configuration lists the same ones first anyway.
        let places: Vec<(String, bool)> = own
            .map(|directory| (directory, false))
            .chain(default.map(|directory| (directory, false)))
            .chain(
                self.configured
                    .iter()
                    .map(|directory| (directory.clone(), true)),
            )
            .collect();
        for (directory, is_extra) in places {
            let path = format!("{}/{library}", directory.trim_end_matches('/'));
            if self.machine_of(&path) == Some(needs.machine) {
                if is_extra {
                    self.extra.insert(directory);
                }
                return Ok(path);
            }
        }
        Err(Fault::input(format!(
            "/{real} needs the library {library}, which {} does not have",
            self.image.path().display()
        ))
        .remedy("add the package that has it to the recipe's packages")
        .into())
    }

    /// The default directories of Debian's ld.so.
    fn default_directories(&self) -> impl Iterator<Item = String> + use<> {
        let triplet = self.triplet.to_string();
        [
            format!("/lib/{triplet}"),
            format!("/usr/lib/{triplet}"),
            "/lib".into(),
            "/usr/lib".into(),
        ]
        .into_iter()
    }

    fn machine_of(&self, path: &str) -> Option<Machine> {
        let found = self.image.follow(path)?;
        let mut header = [0; 20];
        let got = self.image.read_at(found.number, 0, &mut header).ok()?;
        machine(&header[..got])
    }
}

/// ELF class and machine of a file that starts with these bytes.
fn machine(header: &[u8]) -> Option<Machine> {
    if header.len() < 20 || header[..4] != *b"\x7fELF" {
        return None;
    }
    let bytes = [header[18], header[19]];
    let machine = match header[5] {
        LITTLE_ENDIAN => u16::from_le_bytes(bytes),
        _ => u16::from_be_bytes(bytes),
    };
    Some((header[4], machine))
}

/// The interpreter in a `#!` line.
fn script_interpreter(data: &[u8]) -> Option<String> {
    let line = data
        .strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_whitespace().next().map(str::to_string)
}

/// The dependencies of an ELF file; `None` if the file is not ELF.
fn needs_of(data: &[u8]) -> Result<Option<Needs>> {
    let Some(machine) = machine(data) else {
        return Ok(None);
    };
    let mut needs = match machine.0 {
        CLASS_32 => parse::<elf::FileHeader32<Endianness>>(data),
        _ => parse::<elf::FileHeader64<Endianness>>(data),
    }
    .context("a damaged ELF file")?;
    needs.machine = machine;
    Ok(Some(needs))
}

fn parse<H: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<Needs> {
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut needs = Needs::default();
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, data)? {
            needs.interpreter = Some(String::from_utf8(interpreter.to_vec())?);
        }
    }
    let sections = header.sections(endian, data)?;
    let Some((dynamic, strings)) = sections.dynamic(endian, data)? else {
        return Ok(needs);
    };
    let strings = sections.strings(endian, data, strings)?;
    for entry in dynamic {
        let tag = entry.tag(endian);
        let list = |text: &str| text.split(':').map(str::to_string).collect();
        let value = || -> Result<String> {
            let bytes = entry.string(endian, strings)?;
            Ok(String::from_utf8(bytes.to_vec())?)
        };
        match tag {
            elf::DT_NEEDED => needs.libraries.push(value()?),
            elf::DT_RPATH => needs.rpath = list(&value()?),
            elf::DT_RUNPATH => needs.runpath = list(&value()?),
            _ => {}
        }
    }
    Ok(needs)
}

/// Adds the directories that an `ld.so.conf` lists, and those of the files it includes.
fn read_conf(image: &Image, path: &str, depth: u32, directories: &mut Vec<String>) {
    let Some(found) = image.follow(path).filter(|_| depth < 8) else {
        return;
    };
    let data = image.read(found.number).unwrap_or_default();
    for line in String::from_utf8_lossy(&data).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ") {
            for file in expand(image, pattern.trim()) {
                read_conf(image, &file, depth + 1, directories);
            }
        } else if line.starts_with('/') {
            directories.push(line.to_string());
        }
    }
}

/// The files of a directory that match a pattern in its last component, sorted.
fn expand(image: &Image, pattern: &str) -> Vec<String> {
    let (directory, names) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let Some(found) = image.follow(directory) else {
        return Vec::new();
    };
    let entries = image.entries(found.number).iter();
    entries
        .map(|entry| String::from_utf8_lossy(&entry.name))
        .filter(|name| glob::matches(names, name))
        .map(|name| format!("{directory}/{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_executable_needs_libc() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let needs = needs_of(&own).unwrap().unwrap();
        assert!(needs.interpreter.is_some());
        assert!(
            needs
                .libraries
                .iter()
                .any(|name| name.starts_with("libc.so"))
        );
    }

    #[test]
    fn scripts_have_interpreters_and_texts_have_none() {
        assert_eq!(
            script_interpreter(b"#! /bin/sh -e\n:").as_deref(),
            Some("/bin/sh")
        );
        assert_eq!(script_interpreter(b"plain"), None);
        assert_eq!(needs_of(b"plain").unwrap(), None);
    }

    #[test]
    fn a_truncated_elf_is_an_error_not_a_panic() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(needs_of(&own[..100]).is_err());
    }
}
