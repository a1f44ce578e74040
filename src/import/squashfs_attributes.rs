//! Owns the extended attributes of a squashfs image, which the crate backhand does not read. Never reads a file.
//!
//! squashfs-tools, "Squashfs 4.0 filesystem", section "The xattr table": the table of ids leads to lists of names and
//! values in metadata blocks; a value that occurs often is stored once, and referred to.

use std::io::{Seek, SeekFrom};

use anyhow::{Context, Result, anyhow, ensure};
use backhand::v4::metadata::read_block;
use backhand::{BackhandError, Squashfs};

use super::tree::Extended;

/// "There is none", as a table's place.
const NONE: u64 = u64::MAX;
/// The type of a value that is only referred to.
const ELSEWHERE: u16 = 0x100;
/// Bytes of a metadata block, unpacked.
const BLOCK: u64 = 8192;
/// The most bytes of all lists together: no image has nearly as many.
const LARGEST: usize = 64 << 20;
/// How long a value may be on Linux (XATTR_SIZE_MAX).
const LONGEST_VALUE: usize = 1 << 16;

/// The attributes of an image.
#[derive(Debug, Default)]
pub struct AttributeTable {
    /// Where each list begins, and how many attributes it has.
    lists: Vec<(u64, u32)>,
    /// All lists, unpacked.
    data: Vec<u8>,
    /// Where each block of the lists is in the image, relative to the first, and where in `data`.
    blocks: Vec<(u64, usize)>,
}

impl AttributeTable {
    /// Reads the table; it is empty where the image has none.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn read(squashfs: &mut Squashfs<'_>) -> Result<Self> {
        let mut table = AttributeTable::default();
        let place = squashfs.superblock.xattr_table;
        if place == NONE {
            return Ok(table);
        }
        let header = raw(squashfs, place, 16)?;
        let first = long(&header, 0)?;
        let count = u64::from(word(&header, 8)?);
        let length = count.checked_mul(16).context("its size")?;
        let index = raw(squashfs, place + 16, length.div_ceil(BLOCK) * 8)?;
        let mut ids = Vec::new();
        for at in 0..length.div_ceil(BLOCK) as usize {
            squashfs.file.seek(SeekFrom::Start(long(&index, at * 8)?))?;
            ids.extend(block(squashfs)?);
        }
        for id in ids.chunks_exact(16).take(usize::try_from(count)?) {
            table.lists.push((long(id, 0)?, word(id, 8)?));
        }
        table.read_lists(squashfs, first, long(&index, 0).unwrap_or(first))?;
        Ok(table)
    }

    /// The lists lie between the places `first` and `end`.
    fn read_lists(&mut self, squashfs: &mut Squashfs<'_>, first: u64, end: u64) -> Result<()> {
        let mut at = squashfs.file.seek(SeekFrom::Start(first))?;
        while at < end {
            self.blocks.push((at - first, self.data.len()));
            self.data.extend(block(squashfs)?);
            ensure!(self.data.len() <= LARGEST, "they are unreasonably many");
            at = squashfs.file.stream_position()?;
        }
        Ok(())
    }

    /// The attributes with this number, sorted.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn of(&self, number: u32) -> Result<Extended> {
        let damaged = "its extended attributes are damaged";
        let &(place, count) = self.lists.get(number as usize).context(damaged)?;
        let mut at = self.position(place).context(damaged)?;
        let mut found = Vec::new();
        for _ in 0..count {
            let kind = self.short(at).context(damaged)?;
            let length = usize::from(self.short(at + 2).context(damaged)?);
            let name = self.data.get(at + 4..at + 4 + length).context(damaged)?;
            at += 4 + length;
            let size = word(&self.data, at).context(damaged)? as usize;
            let value = self.value(kind, at, size).context(damaged)?;
            at += 4 + size;
            if let (Some(prefix), Ok(name)) = (prefix(kind), std::str::from_utf8(name)) {
                found.push((format!("{prefix}{name}"), value.to_vec()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// A value with its length at this position; or, if it is elsewhere, with its place.
    fn value(&self, kind: u16, at: usize, size: usize) -> Option<&[u8]> {
        let (at, size) = match kind & ELSEWHERE {
            0 => (at, size),
            _ => {
                let at = self.position(long(&self.data, at + 4).ok()?)?;
                (at, word(&self.data, at).ok()? as usize)
            }
        };
        (size <= LONGEST_VALUE).then(|| self.data.get(at + 4..at + 4 + size))?
    }

    /// Where a place is in the unpacked lists: 16 bits of it are the offset in its block.
    fn position(&self, place: u64) -> Option<usize> {
        let (block, offset) = (place >> 16, (place & 0xffff) as usize);
        let at = self
            .blocks
            .binary_search_by_key(&block, |known| known.0)
            .ok()?;
        Some(self.blocks[at].1 + offset)
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = self.data.get(at..at + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

/// What an attribute's name begins with.
fn prefix(kind: u16) -> Option<&'static str> {
    match kind & !ELSEWHERE {
        0 => Some("user."),
        1 => Some("trusted."),
        2 => Some("security."),
        _ => None,
    }
}

/// The metadata block at the reader's position.
fn block(squashfs: &mut Squashfs<'_>) -> Result<Vec<u8>> {
    let (superblock, kind) = (squashfs.superblock, squashfs.kind.clone());
    read_block(&mut squashfs.file, &superblock, &kind).map_err(told)
}

/// Bytes that are not packed.
fn raw(squashfs: &mut Squashfs<'_>, at: u64, length: u64) -> Result<Vec<u8>> {
    ensure!(length <= LARGEST as u64, "they are unreasonably many");
    let mut data = vec![0; length as usize];
    squashfs.file.seek(SeekFrom::Start(at))?;
    std::io::Read::read_exact(&mut squashfs.file, &mut data).context("they are cut short")?;
    Ok(data)
}

fn word(data: &[u8], at: usize) -> Result<u32> {
    let bytes = data.get(at..at + 4).context("they are cut short")?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn long(data: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from(word(data, at)?) | u64::from(word(data, at + 4)?) << 32)
}

/// An error of the crate as one of ours.
pub fn told(error: BackhandError) -> anyhow::Error {
    match error {
        BackhandError::StdIo(error) => anyhow!("it is cut short or damaged: {error}"),
        BackhandError::Deku(_) => anyhow!("it is damaged: a table makes no sense"),
        _ => anyhow!("it is damaged or cut short"),
    }
}
