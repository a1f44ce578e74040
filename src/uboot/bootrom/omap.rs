//! Owns TI's header for OMAP and AM335x loaders (`MLO`). Never signs anything.
//!
//! Source: U-Boot, `tools/omapimage.c`, and TI's AM335x reference manual, "Image Format for GP
//! Device". 512 bytes of configuration header: a table of contents with one entry, `CHSETTINGS`,
//! and the settings themselves, all zero except key and version; then the GP header. Words are
//! little-endian; for XIP from a big-endian flash interface all words of the file are byte-swapped.

use std::io::{Seek, Write};
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::error::Fault;
use crate::uboot::stream::{self, Input, Swap};

/// Bytes of configuration header.
const CH_LEN: usize = 512;
/// Size of the GP header in bytes, which its size field includes.
pub const GP_LEN: usize = 8;
/// Offset of the data in bytes.
pub const HEADER_LEN: usize = CH_LEN + GP_LEN;
/// Bytes of an entry in the table of contents: offset, size, three unused words, a name of 12
/// bytes.
const ENTRY_LEN: usize = 32;
const SETTINGS_AT: usize = 2 * ENTRY_LEN;
const SETTINGS_LEN: usize = 12;
const SETTINGS_KEY: u32 = 0xc0c0_c0c1;
const NAME: &[u8; 10] = b"CHSETTINGS";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Size of data and GP header in bytes.
    pub size: u32,
    pub load: u32,
    /// Whether the file's 32-bit words are byte-swapped.
    pub byteswapped: bool,
    pub sections: Vec<Section>,
}

/// An entry in the table of contents and the settings that it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    pub name: String,
    pub offset: u32,
    pub size: u32,
    pub key: u32,
    pub valid: u8,
    pub version: u8,
    pub reserved: u16,
    pub flags: u32,
}

/// Writes the header before a loader's data.
///
/// # Errors
/// If the data is empty or beyond 4 GiB, or the load address 0; if words are to be swapped and the
/// data is not a multiple of a word.
pub fn create(load: u32, byteswap: bool, data: &Path, output: &Path) -> Result<Header> {
    let mut input = Input::open(data)?;
    stream::create(output, |out| write(load, byteswap, &mut input, out))
}

fn write(
    load: u32,
    byteswapped: bool,
    input: &mut Input,
    out: &mut (impl Write + Seek),
) -> Result<Header> {
    super::check_load(load, "omapimage")?;
    out.write_all(&[0; HEADER_LEN])?;
    let limit = u64::from(u32::MAX) - GP_LEN as u64;
    let size = if byteswapped {
        let mut swap = Swap::new(&mut *out);
        let size = input.copy(limit, |piece| swap.write_all(piece))?;
        swap.finish()?;
        size
    } else {
        input.copy(limit, |piece| out.write_all(piece))?
    };
    if size == 0 {
        return Err(input.empty().into());
    }
    if byteswapped && size % 4 != 0 {
        bail!(
            Fault::input(format!(
                "{} has {size} bytes, which is no whole number of 32-bit words to turn around",
                input.name
            ))
            .remedy("pad it to a multiple of 4 bytes")
        );
    }
    let header = Header {
        size: super::size_field(size + GP_LEN as u64, &input.name)?,
        load,
        byteswapped,
        sections: vec![Section {
            name: "CHSETTINGS".to_string(),
            offset: SETTINGS_AT as u32,
            size: SETTINGS_LEN as u32,
            key: SETTINGS_KEY,
            valid: 0,
            version: 1,
            reserved: 0,
            flags: 0,
        }],
    };
    stream::write_front(out, &encode(&header))?;
    Ok(header)
}

fn encode(header: &Header) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&(SETTINGS_AT as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(SETTINGS_LEN as u32).to_le_bytes());
    bytes[20..30].copy_from_slice(NAME);
    bytes[ENTRY_LEN..2 * ENTRY_LEN].fill(0xff);
    bytes[SETTINGS_AT..SETTINGS_AT + 4].copy_from_slice(&SETTINGS_KEY.to_le_bytes());
    bytes[SETTINGS_AT + 5] = 1;
    bytes[CH_LEN..CH_LEN + 4].copy_from_slice(&header.size.to_le_bytes());
    bytes[CH_LEN + 4..].copy_from_slice(&header.load.to_le_bytes());
    if header.byteswapped {
        swap_words(&mut bytes);
    }
    bytes
}

fn swap_words(bytes: &mut [u8]) {
    for word in bytes.chunks_exact_mut(4) {
        word.reverse();
    }
}

/// Whether a file that begins with these bytes is such an image, and whether its words are swapped.
pub fn recognise(head: &[u8]) -> Option<bool> {
    let name = head.get(20..32)?;
    if name.starts_with(NAME) {
        return Some(false);
    }
    let mut swapped = name.to_vec();
    swap_words(&mut swapped);
    swapped.starts_with(NAME).then_some(true)
}

impl Header {
    /// Parses the header of a file that [`recognise`] accepted.
    ///
    /// # Errors
    /// A sentence about the invalid table of contents.
    pub fn decode(bytes: &[u8; HEADER_LEN], byteswapped: bool) -> Result<Self, String> {
        let mut bytes = *bytes;
        if byteswapped {
            swap_words(&mut bytes);
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut sections = Vec::new();
        for at in (0..CH_LEN).step_by(ENTRY_LEN) {
            let (offset, size) = (word(at), word(at + 4));
            if offset == u32::MAX && size == u32::MAX {
                return Ok(Header {
                    size: word(CH_LEN),
                    load: word(CH_LEN + 4),
                    byteswapped,
                    sections,
                });
            }
            let settings = offset as usize;
            if settings > CH_LEN - SETTINGS_LEN || size as usize > CH_LEN - settings {
                return Err(format!(
                    "section {} of the table of contents, at {offset:#x} with {size:#x} bytes, is not in the header",
                    sections.len()
                ));
            }
            sections.push(Section {
                name: bytes[at + 20..at + 32]
                    .iter()
                    .take_while(|byte| **byte != 0)
                    .map(|byte| char::from(*byte))
                    .collect(),
                offset,
                size,
                key: word(settings),
                valid: bytes[settings + 4],
                version: bytes[settings + 5],
                reserved: u16::from_le_bytes([bytes[settings + 6], bytes[settings + 7]]),
                flags: word(settings + 8),
            });
        }
        Err("the table of contents has no end".to_string())
    }
}
