//! Owns the metadata in a kernel module (the ELF section `.modinfo`), and compressed modules.
//! Never loads one.
//!
//! The section holds `key=value` strings, each ended by a NUL (include/linux/module.h,
//! `MODULE_INFO`).

use std::io::Read;

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

use super::module_name::{Name, canonical};

/// The fields of `.modinfo` that an initrd needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Modules whose symbols it uses (`depends`).
    pub depends: Vec<Name>,
    pub aliases: Vec<String>,
    /// Each as in `modprobe.d(5)`: `pre: a b post: c`.
    pub soft: Vec<String>,
    /// Modules that it may request when it is loaded.
    pub weak: Vec<String>,
    /// Files below `/lib/firmware`; patterns are allowed.
    pub firmware: Vec<String>,
}

impl Info {
    /// Reads an uncompressed module.
    ///
    /// # Errors
    /// If it is not ELF. For a module without the section, all fields are empty.
    pub fn of(elf: &[u8]) -> Result<Self> {
        let file = object::File::parse(elf).context("not an ELF file")?;
        let mut info = Info::default();
        let Some(section) = file.section_by_name(".modinfo") else {
            return Ok(info);
        };
        let data = section.data().context("the section .modinfo")?;
        for record in data.split(|&byte| byte == 0) {
            let record = String::from_utf8_lossy(record);
            let Some((key, value)) = record.split_once('=') else {
                continue;
            };
            match key {
                "depends" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    info.depends.extend(names.map(canonical));
                }
                "alias" => info.aliases.push(value.to_string()),
                "weakdep" => info.weak.push(value.to_string()),
                "softdep" => info.soft.push(value.to_string()),
                "firmware" => info.firmware.push(value.to_string()),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// Whether a file's name is that of a module, compressed or not.
pub fn is_module(path: &str) -> bool {
    let stem = [".xz", ".zst", ".gz"]
        .iter()
        .find_map(|end| path.strip_suffix(end))
        .unwrap_or(path);
    stem.ends_with(".ko")
}

/// A path without the suffix of its compression.
pub fn uncompressed_path(path: &str) -> &str {
    match path.rsplit_once(".ko.") {
        Some((stem, _)) => &path[..stem.len() + ".ko".len()],
        None => path,
    }
}

/// Limit on a decompressed module in bytes, against decompression bombs.
const MAX_MODULE: u64 = 512 << 20;

/// Decompresses a module according to the suffix of its path.
pub fn decompress(path: &str, data: &[u8]) -> Result<Vec<u8>> {
    let reader: Box<dyn Read + '_> = match path.rsplit('.').next() {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(data)),
        Some("zst") => Box::new(zstd::Decoder::with_buffer(data)?),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(data)),
        _ => return Ok(data.to_vec()),
    };
    let mut plain = Vec::with_capacity(data.len() * 4);
    let read = reader.take(MAX_MODULE + 1).read_to_end(&mut plain);
    read.context("cannot decompress")?;
    anyhow::ensure!(plain.len() as u64 <= MAX_MODULE, "over 512 MiB");
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_known_by_their_names() {
        assert!(is_module("kernel/a.ko") && is_module("a.ko.zst") && is_module("a.ko.xz"));
        assert!(!is_module("modules.dep") && !is_module("a.kob") && !is_module("a.xz"));
        assert_eq!(uncompressed_path("kernel/a.ko.xz"), "kernel/a.ko");
        assert_eq!(uncompressed_path("kernel/a.ko"), "kernel/a.ko");
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(Info::of(b"#!/bin/sh\n").is_err());
        assert!(decompress("a.ko.xz", b"not xz").is_err());
    }
}
