//! Owns growing a tree of a squashfs image, version 4, with the crate backhand, which unpacks and parses its tables and
//! reads its files. Never mounts it.
//!
//! Directories are walked here: the crate's own walk forgets which names are one file. Kernel,
//! Documentation/filesystems/squashfs.rst.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufReader, Read};

use anyhow::{Context, Result, anyhow, ensure};
use backhand::v4::inode::{Inode, InodeInner};
use backhand::{FilesystemReader, Squashfs, SquashfsFileReader};

use super::shared::{Input, Notes};
use super::squashfs_attributes::{AttributeTable, told};
use super::tree::{Attributes, Content, Extended, Kind, Node, Place, ROOT, Tree};
use super::window::Cursor;
use super::write::Source;
use crate::error::Fault;
use crate::image::reader::ReadAt;

/// A file system that was walked.
pub struct FileSystem {
    reader: FilesystemReader<'static>,
    files: Vec<SquashfsFileReader>,
    pub tree: Tree,
    pub notes: Notes,
}

/// Compressors by their number in the superblock, those that are read and others.
const COMPRESSORS: [(u16, &str, bool); 6] = [
    (1, "gzip", true),
    (2, "lzma", false),
    (3, "lzo", false),
    (4, "xz", true),
    (5, "lz4", true),
    (6, "zstd", true),
];
/// "No extended attributes", in an inode.
const NO_ATTRIBUTES: u32 = u32::MAX;

/// Walks a file system.
///
/// # Errors
/// If its compressor or version cannot be read, which is named; if it is damaged.
pub fn walk(input: &Input) -> Result<FileSystem> {
    refuse_compressor(input)?;
    let reader = BufReader::new(Cursor::new(input.clone()));
    let mut squashfs = Squashfs::from_reader(reader).map_err(told)?;
    let attributes = AttributeTable::read(&mut squashfs).context("its extended attributes")?;
    let mut walk = Walk {
        squashfs: &squashfs,
        attributes: &attributes,
        tree: Tree::default(),
        files: Vec::new(),
        places: HashMap::new(),
        directories: HashSet::new(),
        notes: Notes::default(),
    };
    let root = squashfs.root_inode.clone();
    let own = walk.attributes(&root, NO_ATTRIBUTES)?;
    walk.tree.set_attributes(ROOT, own);
    walk.directory(&root, ROOT, &mut Vec::new())?;
    let Walk {
        tree, files, notes, ..
    } = walk;
    // What is kept only reads files: it need not walk the directories again.
    squashfs.root_inode.inner = InodeInner::BasicDirectory(backhand::v4::inode::BasicDirectory {
        block_index: 0,
        link_count: 2,
        file_size: 3,
        block_offset: 0,
        parent_inode: 0,
    });
    squashfs.inodes = Default::default();
    squashfs.dir_blocks = Default::default();
    Ok(FileSystem {
        reader: squashfs.into_filesystem_reader().map_err(told)?,
        files,
        tree,
        notes,
    })
}

fn refuse_compressor(input: &Input) -> Result<()> {
    let mut superblock = [0; 96];
    input
        .fill_at(&mut superblock, 0)
        .context("it is cut short")?;
    let word = |at| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    let (major, minor, number) = (word(28), word(30), word(20));
    if (major, minor) != (4, 0) {
        return Err(
            Fault::input(format!("it is a squashfs of version {major}.{minor}"))
                .remedy("only version 4.0 can be read: make it again with mksquashfs")
                .into(),
        );
    }
    let known = COMPRESSORS.iter().find(|(known, ..)| *known == number);
    if let Some((.., true)) = known {
        return Ok(());
    }
    let name = known.map_or_else(|| format!("number {number}"), |(_, name, _)| (*name).into());
    Err(
        Fault::input(format!("its compressor {name} cannot be read"))
            .remedy(
                "make it again with `mksquashfs -comp zstd`, or give its files as a tar (sqfs2tar)",
            )
            .into(),
    )
}

struct Walk<'a> {
    squashfs: &'a Squashfs<'static>,
    attributes: &'a AttributeTable,
    tree: Tree,
    files: Vec<SquashfsFileReader>,
    /// Of files with several names, by inode.
    places: HashMap<u32, Place>,
    directories: HashSet<u32>,
    notes: Notes,
}

impl Walk<'_> {
    fn directory(&mut self, inode: &Inode, place: Place, path: &mut Vec<u8>) -> Result<()> {
        let about = format!("the directory `/{}`", String::from_utf8_lossy(path));
        let is_new = self.directories.insert(inode.header.inode_number);
        ensure!(is_new, "{about} is damaged: it is in itself");
        let (block, size, offset) = match &inode.inner {
            InodeInner::BasicDirectory(inner) => (
                inner.block_index,
                inner.file_size.into(),
                inner.block_offset,
            ),
            InodeInner::ExtendedDirectory(inner) => {
                (inner.block_index, inner.file_size, inner.block_offset)
            }
            _ => return Err(anyhow!("{about} is damaged: it is none")),
        };
        let entries = self.entries(block, size, offset).context(about)?;
        for (name, number) in entries {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let about = || format!("`/{}`", String::from_utf8_lossy(path));
            let about = about();
            self.entry(&name, number, place, path).context(about)?;
            path.truncate(length);
        }
        Ok(())
    }

    /// The names of a directory with their inodes' numbers. Its size counts `.` and `..` as three bytes.
    fn entries(&self, block: u32, size: u32, offset: u16) -> Result<Vec<(Vec<u8>, u32)>> {
        let damaged = "its entries are damaged";
        let size = size.saturating_sub(3) as usize;
        let mut found = Vec::new();
        if size == 0 {
            return Ok(found);
        }
        let (starts, data) = &self.squashfs.dir_blocks;
        let start = starts.get(&u64::from(block)).context(damaged)?;
        let start = usize::try_from(*start)? + usize::from(offset);
        let mut rest = data.get(start..start + size).context(damaged)?;
        while !rest.is_empty() {
            let header: &[u8; 12] = rest.first_chunk().context(damaged)?;
            let long = |at: usize| {
                u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let (count, base) = (long(0), long(8));
            ensure!(count < 256, damaged);
            rest = &rest[12..];
            for _ in 0..=count {
                let entry: &[u8; 8] = rest.first_chunk().context(damaged)?;
                let by = i16::from_le_bytes([entry[2], entry[3]]);
                let length = usize::from(u16::from_le_bytes([entry[6], entry[7]])) + 1;
                let name = rest.get(8..8 + length).context(damaged)?;
                let number = base.checked_add_signed(by.into()).context(damaged)?;
                found.push((name.to_vec(), number));
                rest = &rest[8 + length..];
            }
        }
        Ok(found)
    }

    fn entry(
        &mut self,
        name: &[u8],
        number: u32,
        directory: Place,
        path: &mut Vec<u8>,
    ) -> Result<()> {
        if let Some(&place) = self.places.get(&number) {
            return self.tree.insert_link(directory, name, place);
        }
        let squashfs = self.squashfs;
        let inode = squashfs
            .inodes
            .get(&number)
            .with_context(|| format!("it is damaged: there is no inode {number}"))?;
        let Some((kind, attributes)) = self.kind(inode, path)? else {
            return Ok(());
        };
        let is_directory = matches!(kind, Kind::Directory(_));
        let node = Node {
            kind,
            attributes: self.attributes(inode, attributes)?,
            links: 0,
        };
        let place = self.tree.insert(directory, name, node)?;
        if is_directory {
            return self.directory(inode, place, path);
        }
        self.places.insert(number, place);
        Ok(())
    }

    /// What an inode is, and the number of its extended attributes; `None` for what is left out.
    fn kind(&mut self, inode: &Inode, path: &[u8]) -> Result<Option<(Kind, u32)>> {
        let device = |number: u32| (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
        Ok(Some(match &inode.inner {
            InodeInner::BasicDirectory(_) => (Kind::Directory(BTreeMap::new()), NO_ATTRIBUTES),
            InodeInner::ExtendedDirectory(inner) => {
                (Kind::Directory(BTreeMap::new()), inner.xattr_index)
            }
            InodeInner::BasicFile(inner) => {
                let file = SquashfsFileReader::Basic(inner.clone());
                (self.file(inner.file_size.into(), file)?, NO_ATTRIBUTES)
            }
            InodeInner::ExtendedFile(inner) => {
                let file = SquashfsFileReader::Extended(inner.clone());
                (self.file(inner.file_size, file)?, inner.xattr_index)
            }
            InodeInner::BasicSymlink(inner) => (symlink(&inner.target_path)?, NO_ATTRIBUTES),
            InodeInner::ExtendedSymlink(inner) => (symlink(&inner.target_path)?, inner.xattr_index),
            InodeInner::BasicCharacterDevice(inner) => {
                let (major, minor) = device(inner.device_number);
                (Kind::CharDevice(major, minor), NO_ATTRIBUTES)
            }
            InodeInner::ExtendedCharacterDevice(inner) => {
                let (major, minor) = device(inner.device_number);
                (Kind::CharDevice(major, minor), inner.xattr_index)
            }
            InodeInner::BasicBlockDevice(inner) => {
                let (major, minor) = device(inner.device_number);
                (Kind::BlockDevice(major, minor), NO_ATTRIBUTES)
            }
            InodeInner::ExtendedBlockDevice(inner) => {
                let (major, minor) = device(inner.device_number);
                (Kind::BlockDevice(major, minor), inner.xattr_index)
            }
            InodeInner::BasicNamedPipe(_) => (Kind::Fifo, NO_ATTRIBUTES),
            InodeInner::ExtendedNamedPipe(inner) => (Kind::Fifo, inner.xattr_index),
            InodeInner::BasicSocket(_) | InodeInner::ExtendedSocket(_) => {
                self.notes
                    .socket(format!("/{}", String::from_utf8_lossy(path)));
                return Ok(None);
            }
        }))
    }

    fn file(&mut self, size: u64, file: SquashfsFileReader) -> Result<Kind> {
        let number = u32::try_from(self.files.len())?;
        self.files.push(file);
        Ok(Kind::File {
            size,
            content: Content::Number(number),
        })
    }

    fn attributes(&self, inode: &Inode, index: u32) -> Result<Attributes> {
        let index = match &inode.inner {
            InodeInner::ExtendedDirectory(inner) => inner.xattr_index,
            _ => index,
        };
        let extended: Extended = match index {
            NO_ATTRIBUTES => Vec::new(),
            index => self.attributes.of(index)?,
        };
        let owner = |index: u16| {
            let id = self.squashfs.id.get(usize::from(index));
            id.map(|id| id.num)
                .context("it is damaged: an owner is missing")
        };
        Ok(Attributes {
            mode: inode.header.permissions & 0o7777,
            uid: owner(inode.header.uid)?,
            gid: owner(inode.header.gid)?,
            mtime: inode.header.mtime.into(),
            extended: (!extended.is_empty()).then(|| Box::new(extended)),
        })
    }
}

fn symlink(target: &[u8]) -> Result<Kind> {
    ensure!(!target.is_empty(), "it is damaged: a link without a target");
    Ok(Kind::Symlink(target.into()))
}

impl Source for FileSystem {
    fn open<'a>(
        &'a self,
        _path: &[u8],
        content: &'a Content,
        _size: u64,
    ) -> Result<Box<dyn Read + 'a>> {
        let Content::Number(number) = content else {
            return Err(anyhow!("it has no bytes here"));
        };
        let file = self
            .files
            .get(*number as usize)
            .context("it is not there")?;
        let reader = self.reader.file(file).reader_checked().map_err(told)?;
        Ok(Box::new(reader))
    }
}
