//! Owns growing a tree of an ext2, ext3 or ext4 file system, with the crate ext4-view. Never mounts it, and never
//! replays its journal into it: the crate reads through that.
//!
//! What the crate does not tell (which names are one file, numbers of devices, extended attributes) comes from
//! [`super::ext4_inodes`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use anyhow::{Context, Result, anyhow, ensure};
use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata};

use super::bytes::open;
use super::ext4_inodes::{Inodes, Number, ROOT_INODE};
use super::shared::{Input, Notes};
use super::tree::{Attributes, Content, Kind, Node, Place, ROOT, Tree};
use super::write::Source;
use crate::error::Fault;
use crate::image::reader::ReadAt;

/// The directory that mke2fs makes for e2fsck.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// A file system that was walked.
pub struct FileSystem {
    ext4: Ext4,
    input: Input,
    pub tree: Tree,
    pub notes: Notes,
}

/// Walks a file system.
///
/// # Errors
/// If it has features that cannot be read, which are named; if it is damaged.
pub fn walk(input: Input) -> Result<FileSystem> {
    refuse_features(&input)?;
    let ext4 = Ext4::load(Box::new(Reader(input.clone()))).map_err(told)?;
    let length = input.length()?;
    let is_faulty = has_errors(&input);
    let inodes = Inodes::open(input.clone())?;
    ensure!(
        inodes.size() <= length,
        "it is cut short: it has {length} of {} bytes",
        inodes.size()
    );
    let mut walk = Walk {
        ext4: &ext4,
        inodes: &inodes,
        tree: Tree::default(),
        places: HashMap::new(),
        directories: HashSet::new(),
        notes: Notes::default(),
    };
    let meta = ext4.metadata("/").map_err(told)?;
    let root = walk.attributes(&meta, Some(ROOT_INODE))?;
    walk.tree.set_attributes(ROOT, root);
    walk.directory(b"/", ROOT, Some(ROOT_INODE))?;
    if inodes.needs_recovery() {
        walk.notes.tell(
            "it was not unmounted cleanly: hard links become copies, and device nodes and extended attributes are \
             left out (`e2fsck -p` on a copy of it mends that)",
        );
    }
    if is_faulty {
        walk.notes
            .tell("it is marked as having errors: `e2fsck` on a copy of it tells which");
    }
    let Walk {
        mut tree, notes, ..
    } = walk;
    let lost = tree.entry(ROOT, LOST_AND_FOUND);
    if lost.is_some_and(
        |lost| matches!(&tree.node(lost).kind, Kind::Directory(entries) if entries.is_empty()),
    ) {
        tree.remove(ROOT, LOST_AND_FOUND);
    }
    Ok(FileSystem {
        ext4,
        input,
        tree,
        notes,
    })
}

/// An error of the crate as one of ours.
fn told(error: Ext4Error) -> anyhow::Error {
    match error {
        Ext4Error::Io(error) => anyhow!("it is cut short or cannot be read: {error}"),
        other => anyhow!("{other}"),
    }
}

struct Reader(Input);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.fill_at(buffer, start)?)
    }
}

/// Features that the crate does not read, by their bit in `s_feature_incompat` (kernel, Documentation/filesystems/ext4/super.rst)
/// and their name in ext4(5).
const UNREADABLE: [(u32, &str); 10] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x100, "mmp"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
/// All features that have a name here or can be read.
const KNOWN: u32 = 0x3_ffff & !0x820;
const FILETYPE: u32 = 0x2;

fn refuse_features(input: &Input) -> Result<()> {
    let mut field = [0; 4];
    input
        .fill_at(&mut field, 1024 + 0x60)
        .context("it is cut short")?;
    let features = u32::from_le_bytes(field);
    let mut names: Vec<String> = UNREADABLE
        .iter()
        .filter(|(bit, _)| features & bit != 0)
        .map(|(_, name)| (*name).to_string())
        .collect();
    if features & !KNOWN != 0 {
        names.push(format!("unknown (0x{:x})", features & !KNOWN));
    }
    if features & FILETYPE == 0 {
        names.push("directories without `filetype`".into());
    }
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    Err(Fault::input(format!(
        "it has features that hearth cannot read: {names}"
    ))
    .remedy(
        "make the file system without them (see ext4(5) and mke2fs -O), or give its files as a tar",
    )
    .into())
}

struct Walk<'a> {
    ext4: &'a Ext4,
    inodes: &'a Inodes,
    tree: Tree,
    /// Of files with several names, by inode.
    places: HashMap<Number, Place>,
    directories: HashSet<Number>,
    notes: Notes,
}

impl Walk<'_> {
    /// Walks a directory. `path` is absolute.
    fn directory(&mut self, path: &[u8], place: Place, number: Option<Number>) -> Result<()> {
        let about = || format!("the directory `{}`", String::from_utf8_lossy(path));
        if let Some(number) = number {
            let is_new = self.directories.insert(number);
            ensure!(is_new, "{} is damaged: it is in itself", about());
        }
        // Without the inodes, a directory that is in itself ends at the longest path.
        let numbers: BTreeMap<Vec<u8>, Number> = match number {
            Some(number) => self.inodes.entries(number).with_context(about)?,
            None => BTreeMap::new(),
        };
        for entry in self.ext4.read_dir(path).map_err(told).with_context(about)? {
            let entry = entry.map_err(told).with_context(about)?;
            let name = entry.file_name();
            let name: &[u8] = name.as_ref();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let mut below = path.to_vec();
            if !below.ends_with(b"/") {
                below.push(b'/');
            }
            below.extend_from_slice(name);
            let about = || format!("`{}`", String::from_utf8_lossy(&below));
            let meta = entry.metadata().map_err(told).with_context(about)?;
            self.entry(&below, name, place, &meta, numbers.get(name).copied())
                .with_context(about)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        name: &[u8],
        directory: Place,
        meta: &Metadata,
        number: Option<Number>,
    ) -> Result<()> {
        if let Some(place) = number.and_then(|number| self.places.get(&number)) {
            return self.tree.insert_link(directory, name, *place);
        }
        let Some(kind) = self.kind(path, meta, number)? else {
            return Ok(());
        };
        let is_directory = matches!(kind, Kind::Directory(_));
        let node = Node {
            kind,
            attributes: self.attributes(meta, number)?,
            links: 0,
        };
        let place = self.tree.insert(directory, name, node)?;
        match number {
            _ if is_directory => self.directory(path, place, number)?,
            Some(number) => drop(self.places.insert(number, place)),
            None => {}
        }
        Ok(())
    }

    /// `None` for what is left out.
    fn kind(
        &mut self,
        path: &[u8],
        meta: &Metadata,
        number: Option<Number>,
    ) -> Result<Option<Kind>> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let device = || number.map(|number| self.inodes.device(number)).transpose();
        Ok(Some(match meta.file_type() {
            FileType::Directory => Kind::Directory(BTreeMap::new()),
            FileType::Regular => Kind::File {
                size: meta.len(),
                content: match number
                    .map(|number| self.inodes.mapped_file(number))
                    .transpose()?
                {
                    Some(Some(pieces)) => Content::Pieces(pieces.into()),
                    _ => Content::ByPath,
                },
            },
            FileType::Symlink => {
                let target = self.ext4.read_link(path).map_err(told)?;
                let target: &[u8] = target.as_ref();
                Kind::Symlink(target.into())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let Some((major, minor)) = device()? else {
                    return Ok(None);
                };
                match meta.file_type() {
                    FileType::CharacterDevice => Kind::CharDevice(major, minor),
                    _ => Kind::BlockDevice(major, minor),
                }
            }
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => {
                self.notes.socket(shown());
                return Ok(None);
            }
        }))
    }

    fn attributes(&self, meta: &Metadata, number: Option<Number>) -> Result<Attributes> {
        let extended = match number {
            Some(number) => self.inodes.attributes(number)?,
            None => Vec::new(),
        };
        Ok(Attributes {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: seconds(meta),
            extended: (!extended.is_empty()).then(|| Box::new(extended)),
        })
    }
}

/// The whole seconds of the last change.
fn seconds(meta: &Metadata) -> i64 {
    meta.modified().seconds()
}

impl Source for FileSystem {
    fn open<'a>(
        &'a self,
        path: &[u8],
        content: &'a Content,
        size: u64,
    ) -> Result<Box<dyn Read + 'a>> {
        if let Content::Pieces(_) = content {
            return open(&self.input, content, size);
        }
        let absolute = [b"/", path].concat();
        let file = self.ext4.open(absolute.as_slice()).map_err(told)?;
        Ok(Box::new(file))
    }
}

/// Whether the kernel or e2fsck has marked it as having errors (EXT4_ERROR_FS).
fn has_errors(input: &Input) -> bool {
    let mut state = [0; 2];
    input.fill_at(&mut state, 1024 + 0x3a).is_ok() && state[0] & 2 != 0
}
