//! Owns growing a tree of a directory of this host, as whoever runs hearth may read it. Never opens a device or a pipe,
//! never goes into another file system, and never follows a link.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{major, minor};
use nix::unistd::{AccessFlags, Gid, Uid, access};
use sha2::{Digest, Sha256};

use super::shared::{SOCKETS, listed};
use super::tree::{Attributes, Content, Kind, Node, Place, ROOT, Tree};
use super::write::Source;
use crate::error::Fault;
use crate::image::tarball::extended_attributes;
use crate::sanitise;

/// A directory that was walked.
pub struct Directory {
    root: File,
    pub tree: Tree,
    /// Tells this content from any other: names, attributes, inodes and times of all files.
    pub stamp: String,
    pub notes: Vec<String>,
}

/// Walks a directory. `owner_root` gives what belongs to the caller to root.
///
/// # Errors
/// If something in it cannot be read; all such files are named.
pub fn walk(path: &Path, owner_root: bool) -> Result<Directory> {
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut walk = Walk {
        root: path,
        device: meta.dev(),
        owner_root,
        tree: Tree::default(),
        places: HashMap::new(),
        stamp: Sha256::new(),
        unreadable: Vec::new(),
        sockets: Vec::new(),
        mounts: Vec::new(),
    };
    let attributes = walk.attributes(Path::new(""), &meta)?;
    walk.tree.set_attributes(ROOT, attributes);
    walk.note(Path::new(""), &meta);
    walk.directory(Path::new(""), ROOT)?;
    refuse_unreadable(path, &walk.unreadable)?;
    let mut notes = Vec::new();
    notes.extend(listed(SOCKETS, &walk.sockets));
    notes.extend(listed(
        "other file systems are mounted there, whose files are left out",
        &walk.mounts,
    ));
    let (caller, owner) = (Uid::effective(), meta.uid());
    if !owner_root && !caller.is_root() && owner == caller.as_raw() {
        notes.push(
            "its files belong to you, and will on the board too: --owner-root makes them root's"
                .into(),
        );
    }
    Ok(Directory {
        root: File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
        tree: walk.tree,
        stamp: hex::encode(walk.stamp.finalize()),
        notes,
    })
}

fn refuse_unreadable(path: &Path, unreadable: &[String]) -> Result<()> {
    let what = format!("this user cannot read all of {}", path.display());
    match listed(&what, unreadable) {
        None => Ok(()),
        Some(sentence) => Err(Fault::input(sentence)
            .remedy("run hearth as who may, or make a tar as who may and give that")
            .into()),
    }
}

struct Walk<'a> {
    root: &'a Path,
    device: u64,
    owner_root: bool,
    tree: Tree,
    /// Of files with several names, by inode.
    places: HashMap<u64, Place>,
    stamp: Sha256,
    unreadable: Vec<String>,
    sockets: Vec<String>,
    mounts: Vec<String>,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, place: Place) -> Result<()> {
        let full = self.root.join(path);
        let entries: Result<Vec<_>, _> = match fs::read_dir(&full) {
            Ok(entries) => entries.collect(),
            Err(error) => Err(error),
        };
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(_) => {
                self.unreadable.push(shown(path));
                return Ok(());
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = path.join(entry.file_name());
            let about = || format!("cannot read {}", self.root.join(&path).display());
            let meta = entry.metadata().with_context(about)?;
            self.entry(&path, place, &meta)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, directory: Place, meta: &Metadata) -> Result<()> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        self.note(path, meta);
        let is_elsewhere = meta.dev() != self.device;
        if let Some(&place) = self.places.get(&meta.ino())
            && !is_elsewhere
        {
            return self.tree.insert_link(directory, name, place);
        }
        let Some(kind) = self.kind(path, meta)? else {
            return Ok(());
        };
        let node = Node {
            kind,
            attributes: self.attributes(path, meta)?,
            links: 0,
        };
        let place = self.tree.insert(directory, name, node)?;
        if meta.is_dir() && is_elsewhere {
            self.mounts.push(shown(path));
        } else if meta.is_dir() {
            self.directory(path, place)?;
        } else if meta.nlink() > 1 && !is_elsewhere {
            self.places.insert(meta.ino(), place);
        }
        Ok(())
    }

    /// `None` for what is left out.
    fn kind(&mut self, path: &Path, meta: &Metadata) -> Result<Option<Kind>> {
        let kind = meta.file_type();
        let full = || self.root.join(path);
        let numbers = || {
            let number = |number: u64| u32::try_from(number).context("a device's number");
            Ok::<_, anyhow::Error>((number(major(meta.rdev()))?, number(minor(meta.rdev()))?))
        };
        Ok(Some(if kind.is_dir() {
            Kind::Directory(BTreeMap::new())
        } else if kind.is_symlink() {
            let target = fs::read_link(full())
                .with_context(|| format!("cannot read {}", full().display()))?;
            Kind::Symlink(target.as_os_str().as_bytes().into())
        } else if kind.is_file() {
            if access(&full(), AccessFlags::R_OK).is_err() {
                self.unreadable.push(shown(path));
            }
            Kind::File {
                size: meta.size(),
                content: Content::ByPath,
            }
        } else if kind.is_char_device() {
            let (major, minor) = numbers()?;
            Kind::CharDevice(major, minor)
        } else if kind.is_block_device() {
            let (major, minor) = numbers()?;
            Kind::BlockDevice(major, minor)
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            self.sockets.push(shown(path));
            return Ok(None);
        }))
    }

    fn attributes(&mut self, path: &Path, meta: &Metadata) -> Result<Attributes> {
        let full = self.root.join(path);
        let extended = match meta.is_file() || meta.is_dir() {
            true => extended_attributes(&full).unwrap_or_default(),
            false => Vec::new(),
        };
        let (mut uid, mut gid) = (meta.uid(), meta.gid());
        if self.owner_root {
            uid = if uid == Uid::effective().as_raw() {
                0
            } else {
                uid
            };
            gid = if gid == Gid::effective().as_raw() {
                0
            } else {
                gid
            };
        }
        Ok(Attributes {
            mode: (meta.mode() & 0o7777) as u16,
            uid,
            gid,
            mtime: meta.mtime(),
            extended: (!extended.is_empty()).then(|| Box::new(extended)),
        })
    }

    fn note(&mut self, path: &Path, meta: &Metadata) {
        self.stamp.update(path.as_os_str().as_bytes());
        for number in [
            meta.dev() as i64,
            meta.ino() as i64,
            meta.size() as i64,
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ] {
            self.stamp.update(b"\0");
            self.stamp.update(number.to_le_bytes());
        }
    }
}

/// A path in the root, as it is shown to the user.
fn shown(path: &Path) -> String {
    format!("/{}", sanitise::bytes(path.as_os_str().as_bytes()))
}

impl Source for Directory {
    fn open<'a>(
        &'a self,
        path: &[u8],
        _content: &'a Content,
        size: u64,
    ) -> Result<Box<dyn Read + 'a>> {
        // What was a directory may be a link by now.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = File::from(openat2(self.root.as_fd(), path, how)?);
        let meta = file.metadata()?;
        anyhow::ensure!(
            meta.is_file() && meta.size() == size,
            "it changed while it was read"
        );
        Ok(Box::new(file))
    }
}
