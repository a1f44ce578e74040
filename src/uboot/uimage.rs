//! Owns the 64-byte header of a legacy uImage. Never touches a file.
//!
//! Source: U-Boot, `include/image.h`, `struct legacy_img_hdr`. All numbers are big-endian:
//!
//! | offset | field | offset | field |
//! |---|---|---|---|
//! | 0 | magic `27051956` | 20 | entry point |
//! | 4 | CRC-32 of the header, this field taken as 0 | 24 | CRC-32 of the data |
//! | 8 | time, seconds since 1970 | 28 | os, architecture, type, compression: a byte each |
//! | 12 | size of the data in bytes | 32 | name, 32 bytes padded with zeros |
//! | 16 | load address | | |

use serde::Serialize;

use super::ids::{Comp, ImageArch, Kind, Os};
use crate::clock;

/// Size of the header in bytes.
pub const HEADER_LEN: usize = 64;
/// Size of an image's name in bytes. A name of this length has no terminating zero.
pub const NAME_LEN: usize = 32;
/// The first four bytes.
pub const MAGIC: [u8; 4] = [0x27, 0x05, 0x19, 0x56];

/// The fields of a header, except magic and header checksum, which are computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Fields")]
pub struct Header {
    /// Seconds since 1970, UTC.
    pub time: u32,
    /// Size of the data after the header in bytes.
    pub size: u32,
    pub load: u32,
    pub entry: u32,
    pub data_crc: u32,
    pub os: Os,
    pub arch: ImageArch,
    pub kind: Kind,
    pub comp: Comp,
    pub name: [u8; NAME_LEN],
}

/// The header's JSON form.
#[derive(Serialize)]
struct Fields {
    name: String,
    created: String,
    time: u32,
    os: Os,
    arch: ImageArch,
    #[serde(rename = "type")]
    kind: Kind,
    compression: Comp,
    size: u32,
    load: u32,
    entry: u32,
    data_crc: u32,
}

impl From<Header> for Fields {
    fn from(header: Header) -> Self {
        Fields {
            name: String::from_utf8_lossy(header.name()).into_owned(),
            created: clock::rfc3339(header.time.into()),
            time: header.time,
            os: header.os,
            arch: header.arch,
            kind: header.kind,
            compression: header.comp,
            size: header.size,
            load: header.load,
            entry: header.entry,
            data_crc: header.data_crc,
        }
    }
}

/// A checksum as stored and as computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc {
    pub stored: u32,
    pub computed: u32,
}

impl Crc {
    pub fn matches(self) -> bool {
        self.stored == self.computed
    }
}

impl Header {
    /// The header in its file format, checksum included.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.time.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.size.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.load.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.entry.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.data_crc.to_be_bytes());
        bytes[28..32].copy_from_slice(&[self.os.0, self.arch.0, self.kind.0, self.comp.0]);
        bytes[32..64].copy_from_slice(&self.name);
        let crc = header_crc(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Parses a header; the caller checks the checksum. `None` if the magic number differs.
    ///
    /// ```
    /// use hearth::uboot::uimage::Header;
    /// use hearth::uboot::{ImageArch, script};
    ///
    /// let image = script::wrap(b"echo hello\n", ImageArch::ARM, "boot", 1_700_000_000)?;
    /// let (header, crc) = Header::decode(image.first_chunk().unwrap()).unwrap();
    /// assert!(crc.matches());
    /// assert_eq!((header.name(), header.size), (&b"boot"[..], 19));
    /// # Ok::<(), hearth::error::Fault>(())
    /// ```
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Option<(Header, Crc)> {
        if bytes[0..4] != MAGIC {
            return None;
        }
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&bytes[32..64]);
        let header = Header {
            time: word(8),
            size: word(12),
            load: word(16),
            entry: word(20),
            data_crc: word(24),
            os: Os(bytes[28]),
            arch: ImageArch(bytes[29]),
            kind: Kind(bytes[30]),
            comp: Comp(bytes[31]),
            name,
        };
        let crc = Crc {
            stored: word(4),
            computed: header_crc(bytes),
        };
        Some((header, crc))
    }

    /// The name up to its first zero.
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|byte| *byte == 0);
        &self.name[..end.unwrap_or(NAME_LEN)]
    }
}

/// The name in the header's format: at most 32 bytes, up to the first zero.
pub fn name_field(name: &[u8]) -> [u8; NAME_LEN] {
    let mut field = [0; NAME_LEN];
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let len = name.len().min(NAME_LEN);
    field[..len].copy_from_slice(&name[..len]);
    field
}

fn header_crc(bytes: &[u8; HEADER_LEN]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..4]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[8..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = Header {
            time: 1,
            size: 2,
            load: 3,
            entry: 4,
            data_crc: 5,
            os: Os::LINUX,
            arch: ImageArch::ARM,
            kind: Kind::RAMDISK,
            comp: Comp::GZIP,
            name: name_field(b"a name that is longer than the thirty-two bytes"),
        };
        let (read, crc) = Header::decode(&header.encode()).unwrap();
        assert!(crc.matches());
        assert_eq!(read, header);
        assert_eq!(read.name(), b"a name that is longer than the t");
    }
}
