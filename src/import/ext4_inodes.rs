//! Owns what an ext4 file system says of its inodes that the crate ext4-view does not tell: their numbers, the numbers
//! of devices, extended attributes, and ext2's maps of blocks. Never reads a file's content.
//!
//! Kernel, Documentation/filesystems/ext4: super.rst, group_descr.rst, inodes.rst, directory.rst, attributes.rst,
//! ifork.rst. The crate has checked the superblock before; checksums of what is read here it checks where it reads it too.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::shared::Input;
use super::tree::Extended;
use crate::image::reader::{Piece, ReadAt};

/// An inode's number.
pub type Number = u32;

pub const ROOT_INODE: Number = 2;

const NEEDS_RECOVERY: u32 = 0x4;
const IS_64BIT: u32 = 0x80;
const USES_EXTENTS: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;
const ATTRIBUTE_MAGIC: u32 = 0xea02_0000;
/// The most blocks that a directory may have: more than any has.
const MOST_BLOCKS: usize = 1 << 20;
/// How long an attribute's value may be on Linux (XATTR_SIZE_MAX).
const LONGEST_VALUE: u32 = 1 << 16;

/// The inodes of a file system.
pub struct Inodes {
    input: Input,
    block_size: u64,
    first_block: u64,
    blocks: u64,
    inodes: u32,
    per_group: u32,
    inode_size: u64,
    descriptor_size: u64,
    features: u32,
}

impl Inodes {
    /// # Errors
    /// If the superblock cannot be read, or makes no sense.
    pub fn open(input: Input) -> Result<Self> {
        let mut superblock = [0; 1024];
        input
            .fill_at(&mut superblock, 1024)
            .context("it is cut short")?;
        let features = long(&superblock, 0x60);
        let told_size = short(&superblock, 0xfe);
        let found = Inodes {
            block_size: 1024u64
                .checked_shl(long(&superblock, 0x18))
                .filter(|&size| size <= 1 << 16)
                .context("its block size is damaged")?,
            first_block: long(&superblock, 0x14).into(),
            blocks: u64::from(long(&superblock, 4))
                | match features & IS_64BIT {
                    0 => 0,
                    _ => u64::from(long(&superblock, 0x150)) << 32,
                },
            inodes: long(&superblock, 0),
            per_group: long(&superblock, 0x28),
            // Of revision 0, inodes have 128 bytes.
            inode_size: match long(&superblock, 0x4c) {
                0 => 128,
                _ => short(&superblock, 0x58).into(),
            },
            descriptor_size: match features & IS_64BIT {
                0 => 32,
                _ => told_size.into(),
            },
            features,
            input,
        };
        ensure!(
            found.per_group > 0 && found.inode_size >= 128 && found.inode_size <= found.block_size,
            "its superblock is damaged"
        );
        Ok(found)
    }

    /// How large the file system is, in bytes.
    pub fn size(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }

    /// Whether the newest state of some blocks is only in the journal: then this does not tell anything.
    pub fn needs_recovery(&self) -> bool {
        self.features & NEEDS_RECOVERY != 0
    }

    /// The names of a directory with their inodes; none if the journal is needed.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn entries(&self, directory: Number) -> Result<BTreeMap<Vec<u8>, Number>> {
        let mut entries = BTreeMap::new();
        if self.needs_recovery() {
            return Ok(entries);
        }
        let inode = self.inode(directory)?;
        let mut block = vec![0; self.block_size as usize];
        for number in self.blocks(&inode)? {
            self.read_block(number, &mut block)?;
            let mut rest = block.as_slice();
            while rest.len() >= 8 {
                let (inode, length) = (long(rest, 0), usize::from(short(rest, 4)));
                // Of 64 KiB, which does not fit.
                let length = if length == 0xffff || length == 0 {
                    rest.len()
                } else {
                    length
                };
                let name = rest.get(8..8 + usize::from(rest[6]));
                ensure!((8..=rest.len()).contains(&length), "a directory is damaged");
                if inode != 0 {
                    let name = name.context("a directory is damaged")?;
                    entries.insert(name.to_vec(), inode);
                }
                rest = &rest[length..];
            }
        }
        Ok(entries)
    }

    /// Major and minor number of a device node.
    ///
    /// # Errors
    /// If its inode cannot be read.
    pub fn device(&self, number: Number) -> Result<(u32, u32)> {
        let inode = self.inode(number)?;
        // The first word has the old encoding with 8 bits each, the second the new one.
        let (old, new) = (long(&inode, 0x28), long(&inode, 0x2c));
        Ok(match old {
            0 => (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00),
            old => (old >> 8 & 0xff, old & 0xff),
        })
    }

    /// The extended attributes, sorted; none if the journal is needed.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn attributes(&self, number: Number) -> Result<Extended> {
        let mut found = Vec::new();
        if self.needs_recovery() {
            return Ok(found);
        }
        let inode = self.inode(number)?;
        if inode.len() > 132 {
            let start = 128 + usize::from(short(&inode, 0x80));
            if let Some(body) = inode.get(start..).filter(|body| body.len() >= 4)
                && long(body, 0) == ATTRIBUTE_MAGIC
            {
                add_attributes(&body[4..], &body[4..], &mut found)?;
            }
        }
        let block = u64::from(long(&inode, 0x68)) | u64::from(short(&inode, 0x76)) << 32;
        if block != 0 {
            let mut data = vec![0; self.block_size as usize];
            self.read_block(block, &mut data)?;
            ensure!(
                long(&data, 0) == ATTRIBUTE_MAGIC,
                "its attributes are damaged"
            );
            add_attributes(&data[32..], &data, &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    /// Where the content of a file is, if ext2's and ext3's map of blocks tells that: the crate takes a hole of many
    /// blocks in such a map for damage.
    ///
    /// # Errors
    /// If the map is damaged.
    pub fn mapped_file(&self, number: Number) -> Result<Option<Vec<Piece>>> {
        let inode = self.inode(number)?;
        if self.needs_recovery() || long(&inode, 0x20) & USES_EXTENTS != 0 {
            return Ok(None);
        }
        let size = size_of(&inode);
        let mut pieces = Vec::new();
        let mut next = 0;
        for at in 0..15usize {
            let block = long(&inode, 0x28 + at * 4).into();
            let depth = at.saturating_sub(11) as u32;
            self.map_file(block, depth, &mut next, size, &mut pieces)?;
        }
        Ok(Some(pieces))
    }

    /// Adds what a block of the map leads to, from the byte `next` of the file on.
    fn map_file(
        &self,
        block: u64,
        depth: u32,
        next: &mut u64,
        size: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<()> {
        if *next >= size {
            return Ok(());
        }
        if block == 0 {
            // A hole of as many blocks as there could be.
            *next += self.block_size * (self.block_size / 4).pow(depth);
            return Ok(());
        }
        if depth == 0 {
            let (at, stored) = (*next, block * self.block_size);
            let length = self.block_size.min(size - at);
            *next += self.block_size;
            match pieces.last_mut() {
                Some(last)
                    if last.at + last.length == at && last.stored + last.length == stored =>
                {
                    last.length += length;
                }
                _ => pieces.push(Piece { at, stored, length }),
            }
            return Ok(());
        }
        let mut data = vec![0; self.block_size as usize];
        self.read_block(block, &mut data)?;
        for entry in data.chunks_exact(4) {
            self.map_file(long(entry, 0).into(), depth - 1, next, size, pieces)?;
        }
        Ok(())
    }

    fn inode(&self, number: Number) -> Result<Vec<u8>> {
        ensure!(
            number > 0 && number <= self.inodes,
            "there is no inode {number}"
        );
        let (group, index) = ((number - 1) / self.per_group, (number - 1) % self.per_group);
        let mut descriptor = vec![0; self.descriptor_size.clamp(32, 1024) as usize];
        let table = (self.first_block + 1) * self.block_size;
        self.input
            .fill_at(
                &mut descriptor,
                table + u64::from(group) * self.descriptor_size,
            )
            .context("its groups are cut short")?;
        let high = if descriptor.len() >= 0x2c {
            long(&descriptor, 0x28)
        } else {
            0
        };
        let first = u64::from(long(&descriptor, 8)) | u64::from(high) << 32;
        let mut inode = vec![0; self.inode_size as usize];
        let at = first
            .checked_mul(self.block_size)
            .and_then(|at| at.checked_add(u64::from(index) * self.inode_size))
            .context("its inode table is damaged")?;
        self.input
            .fill_at(&mut inode, at)
            .with_context(|| format!("inode {number} is cut off"))?;
        Ok(inode)
    }

    /// The blocks of a directory, in order.
    fn blocks(&self, inode: &[u8]) -> Result<Vec<u64>> {
        let map = &inode[0x28..0x28 + 60];
        let size = size_of(inode);
        let count = usize::try_from(size.div_ceil(self.block_size)).unwrap_or(usize::MAX);
        ensure!(
            count <= MOST_BLOCKS,
            "a directory of {size} bytes is damaged"
        );
        let mut blocks = Vec::new();
        if long(inode, 0x20) & USES_EXTENTS != 0 {
            self.extents(map, 0, &mut blocks)?;
        } else {
            for at in 0..15u32 {
                let depth = at.saturating_sub(11);
                self.mapped(long(map, at as usize * 4).into(), depth, count, &mut blocks)?;
            }
        }
        blocks.truncate(count);
        Ok(blocks)
    }

    /// Adds the blocks of a node of an extent tree.
    fn extents(&self, node: &[u8], depth: u32, blocks: &mut Vec<u64>) -> Result<()> {
        ensure!(
            depth <= 5 && short(node, 0) == EXTENT_MAGIC,
            "a directory's extents are damaged"
        );
        let (entries, is_leaf) = (usize::from(short(node, 2)), short(node, 6) == 0);
        for entry in node[12..].chunks_exact(12).take(entries) {
            if is_leaf {
                // Unwritten extents are longer than 32768; a directory has none.
                let length = u64::from(short(entry, 4)).min(32768);
                let first = u64::from(long(entry, 8)) | u64::from(short(entry, 6)) << 32;
                ensure!(
                    blocks.len() as u64 + length <= MOST_BLOCKS as u64,
                    "a directory's extents are damaged"
                );
                blocks.extend(first..first + length);
                continue;
            }
            let child = u64::from(long(entry, 4)) | u64::from(short(entry, 8)) << 32;
            let mut block = vec![0; self.block_size as usize];
            self.read_block(child, &mut block)?;
            self.extents(&block, depth + 1, blocks)?;
        }
        Ok(())
    }

    /// Adds a block of ext2's and ext3's map, or those that it leads to.
    fn mapped(&self, block: u64, depth: u32, count: usize, blocks: &mut Vec<u64>) -> Result<()> {
        if block == 0 || blocks.len() >= count {
            return Ok(());
        }
        if depth == 0 {
            blocks.push(block);
            return Ok(());
        }
        let mut data = vec![0; self.block_size as usize];
        self.read_block(block, &mut data)?;
        for next in data.chunks_exact(4) {
            self.mapped(long(next, 0).into(), depth - 1, count, blocks)?;
        }
        Ok(())
    }

    fn read_block(&self, number: u64, block: &mut [u8]) -> Result<()> {
        let at = number.checked_mul(self.block_size);
        self.input
            .fill_at(block, at.context("a block's number is damaged")?)
            .with_context(|| format!("block {number} is cut off"))
    }
}

/// The size of an inode's content, in bytes.
fn size_of(inode: &[u8]) -> u64 {
    u64::from(long(inode, 4)) | u64::from(long(inode, 0x6c)) << 32
}

/// Adds the attributes of a list; their values are in `values`.
fn add_attributes(mut list: &[u8], values: &[u8], found: &mut Extended) -> Result<()> {
    let damaged = || "its attributes are damaged";
    while list.len() >= 16 && long(list, 0) != 0 {
        let name_length = usize::from(list[0]);
        let name = list.get(16..16 + name_length).with_context(damaged)?;
        let (start, length) = (usize::from(short(list, 2)), long(list, 8));
        ensure!(
            length <= LONGEST_VALUE && long(list, 4) == 0,
            "{}",
            damaged()
        );
        let value = values
            .get(start..start + length as usize)
            .with_context(damaged)?;
        if let (Some(prefix), Ok(name)) = (prefix(list[1]), std::str::from_utf8(name)) {
            found.push((format!("{prefix}{name}"), value.to_vec()));
        }
        let next = (16 + name_length).next_multiple_of(4);
        list = list.get(next..).with_context(damaged)?;
    }
    Ok(())
}

/// What an attribute's name begins with, by its index (attributes.rst).
fn prefix(index: u8) -> Option<&'static str> {
    Some(match index {
        1 => "user.",
        2 => "system.posix_acl_access",
        3 => "system.posix_acl_default",
        4 => "trusted.",
        6 => "security.",
        7 => "system.",
        _ => return None,
    })
}

fn short(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn long(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}
