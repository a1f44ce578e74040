//! Owns Allwinner's eGON header, which precedes U-Boot's SPL. Never places it on a card.
//!
//! Source: U-Boot, `include/sunxi_image.h`, `tools/sunxi_egon.c`. 96 bytes, little-endian: a branch
//! over the header, `eGON.BT0`, a checksum, the length of the whole image, `SPL` and a version,
//! then from byte 32 the offset of the device tree's name, and from byte 44 room for that name. The
//! checksum is the sum of all words, its own field taken as 5F0A6C39.

use std::io::{Seek, Write};
use std::path::Path;

use anyhow::Result;
use log::warn;
use serde::Serialize;

use crate::error::Fault;
use crate::uboot::ids::ImageArch;
use crate::uboot::stream::{self, Input};

/// Size of the header in bytes.
pub const HEADER_LEN: usize = 96;
/// Alignment of the image's length as needed to boot from NAND; for a card, 512 is enough.
const BLOCK: u64 = 8192;
/// Smallest alignment of an image's length.
pub const SECTOR: u32 = 512;
const MAGIC: &[u8; 8] = b"eGON.BT0";
const STAMP: u32 = 0x5f0a_6c39;
/// Position of the name's offset.
const DT_NAME_AT: usize = 32;
const NAME_AT: usize = 44;
/// Space for the name in bytes, the last of which stays zero.
const NAME_LEN: usize = 52;

/// A branch over the header: `b`, with the pipeline's two words subtracted from the offset.
const BRANCH_ARM: u32 = 0xea00_0000 | (HEADER_LEN as u32 / 4 - 2);
/// A branch over the header: `jal x0`, with bits 10 to 1 of the offset from bit 21 on.
const BRANCH_RISCV: u32 = 0x6f | (HEADER_LEN as u32 & 0x7fe) << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    pub arch: ImageArch,
    pub checksum: u32,
    /// Bytes of the whole image: header, data, padding.
    pub length: u32,
    /// Major and minor version of the SPL header; `None` if another tool wrote the image.
    pub spl_version: Option<(u8, u8)>,
    pub device_tree: Option<String>,
}

/// Writes the header before a loader's data. `name`, the device tree's, may be empty; one that is
/// too long is left out with a warning, as by mkimage.
///
/// # Errors
/// If the data is empty or beyond 4 GiB, or the architecture neither ARM nor RISC-V.
pub fn create(arch: ImageArch, name: &[u8], data: &Path, output: &Path) -> Result<Header> {
    if arch != ImageArch::ARM && arch != ImageArch::RISCV {
        return Err(Fault::input(format!(
            "an image of type sunxi_egon is for arm or riscv, not for {arch}"
        ))
        .into());
    }
    let mut input = Input::open(data)?;
    stream::create(output, |out| write(arch, name, &mut input, out))
}

fn write(
    arch: ImageArch,
    name: &[u8],
    input: &mut Input,
    out: &mut (impl Write + Seek),
) -> Result<Header> {
    out.write_all(&[0; HEADER_LEN])?;
    let mut sum = Sum::default();
    let limit = u64::from(u32::MAX) - HEADER_LEN as u64 - BLOCK;
    let size = input.copy(limit, |piece| {
        sum.add(piece);
        out.write_all(piece)
    })?;
    if size == 0 {
        return Err(input.empty().into());
    }
    let unpadded = HEADER_LEN as u64 + size;
    let length = unpadded.next_multiple_of(BLOCK);
    out.write_all(&vec![0; (length - unpadded) as usize])?;

    let mut bytes = [0; HEADER_LEN];
    let branch = if arch == ImageArch::RISCV {
        BRANCH_RISCV
    } else {
        BRANCH_ARM
    };
    bytes[0..4].copy_from_slice(&branch.to_le_bytes());
    bytes[4..12].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&super::size_field(length, &input.name)?.to_le_bytes());
    bytes[20..24].copy_from_slice(b"SPL\x01");
    if name.len() >= NAME_LEN {
        warn!(
            "the device tree's name is left out: {} bytes are more than the {} that the header has room for",
            name.len(),
            NAME_LEN - 1
        );
    } else if !name.is_empty() {
        bytes[23] = 2;
        bytes[DT_NAME_AT..DT_NAME_AT + 4].copy_from_slice(&(NAME_AT as u32).to_le_bytes());
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
    }
    let checksum = Sum::of_header(&bytes).value().wrapping_add(sum.value());
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    stream::write_front(out, &bytes)?;
    Ok(Header::decode(&bytes))
}

/// The sum of little-endian words of a stream, however it is split into buffers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    sum: u32,
    position: u32,
}

impl Sum {
    /// Starts with the header of an image to verify, whose own checksum counts as the stamp.
    pub fn of_header(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut header = *bytes;
        header[12..16].copy_from_slice(&STAMP.to_le_bytes());
        let mut sum = Sum::default();
        sum.add(&header);
        sum
    }

    pub fn add(&mut self, piece: &[u8]) {
        for byte in piece {
            let value = u32::from(*byte) << (8 * (self.position % 4));
            self.sum = self.sum.wrapping_add(value);
            self.position = self.position.wrapping_add(1);
        }
    }

    pub fn value(self) -> u32 {
        self.sum
    }
}

/// Whether a file that begins with these bytes is such an image.
pub fn recognise(head: &[u8]) -> bool {
    head.get(4..12) == Some(MAGIC)
}

impl Header {
    /// Parses the header of a file that [`recognise`] accepted.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let spl_version = (bytes[20..23] == *b"SPL").then(|| (bytes[23] >> 5, bytes[23] & 0x1f));
        // By the format a name may be anywhere in the image; all known writers put it into the
        // header.
        let name_at = word(DT_NAME_AT) as usize;
        let device_tree = (spl_version >= Some((0, 2)) && (NAME_AT..HEADER_LEN).contains(&name_at))
            .then(|| {
                let name = bytes[name_at..].split(|byte| *byte == 0).next();
                String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
            });
        Header {
            arch: match word(0) {
                branch if branch >> 24 == 0xea => ImageArch::ARM,
                branch if branch & 0xfff == 0x6f => ImageArch::RISCV,
                _ => ImageArch::INVALID,
            },
            checksum: word(12),
            length: word(16),
            spl_version,
            device_tree,
        }
    }
}
