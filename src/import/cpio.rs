//! Owns growing a tree of an initramfs: cpio archives in a row, plain or compressed. Their files are put into one file
//! without a name. Never decides what an archive is compressed with: see `initrd`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;

use anyhow::{Context, Result};

use super::tree::{Attributes, Content, Kind, Place, Tree};
use super::unpacked::Spool;
use crate::initrd::{CpioEntry, read};

/// The tree of an initramfs, and the file with its files' bytes.
pub struct Unpacked {
    pub tree: Tree,
    pub bytes: File,
    /// Sockets, which are left out.
    pub sockets: Vec<String>,
}

/// Reads an initramfs; puts its files into a file in the directory `work`.
///
/// # Errors
/// If it is cut short or damaged, or has a name that leads out of the tree.
pub fn unpack(input: impl BufRead, work: &Path) -> Result<Unpacked> {
    let mut reading = Reading {
        tree: Tree::default(),
        spool: Spool::new(work)?,
        places: HashMap::new(),
        sockets: Vec::new(),
    };
    read(input, &mut |entry, content| {
        let about = || format!("entry `{}`", entry.path);
        reading.entry(entry, content).with_context(about)
    })?;
    Ok(Unpacked {
        tree: reading.tree,
        bytes: reading.spool.finish()?,
        sockets: reading.sockets,
    })
}

struct Reading {
    tree: Tree,
    spool: Spool,
    /// Of files with several names, by archive and inode.
    places: HashMap<(usize, (u32, u32, u32)), Place>,
    sockets: Vec<String>,
}

impl Reading {
    fn entry(&mut self, entry: &CpioEntry, content: &mut dyn Read) -> Result<()> {
        let key = (entry.archive, entry.inode);
        let is_directory = entry.mode & 0o170_000 == 0o040_000;
        if entry.links > 1
            && !is_directory
            && let Some(&place) = self.places.get(&key)
        {
            self.tree.add_link(&entry.name, place)?;
            // One of the names has the content; as a rule the last.
            if entry.size > 0 && entry.mode & 0o170_000 == 0o100_000 {
                let kind = self.file(entry, content)?;
                self.tree.set_kind(place, kind);
            }
            return Ok(());
        }
        let (major, minor) = entry.device;
        let kind = match entry.mode & 0o170_000 {
            0o100_000 => self.file(entry, content)?,
            0o040_000 => Kind::Directory(Default::default()),
            0o120_000 => {
                let mut target = Vec::new();
                content.take(1 << 16).read_to_end(&mut target)?;
                Kind::Symlink(target.into())
            }
            0o020_000 => Kind::CharDevice(major, minor),
            0o060_000 => Kind::BlockDevice(major, minor),
            0o010_000 => Kind::Fifo,
            0o140_000 => {
                self.sockets.push(format!("/{}", entry.path));
                return Ok(());
            }
            other => anyhow::bail!("its mode {other:o} is that of no file"),
        };
        let attributes = Attributes {
            mode: (entry.mode & 0o7777) as u16,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.into(),
            extended: None,
        };
        let place = self.tree.add(&entry.name, kind, attributes)?;
        if entry.links > 1 && !is_directory {
            self.places.insert(key, place);
        }
        Ok(())
    }

    fn file(&mut self, entry: &CpioEntry, content: &mut dyn Read) -> Result<Kind> {
        let start = self.spool.length();
        let mut buffer = vec![0; (1 << 16).min(entry.size as usize)];
        loop {
            match content
                .read(&mut buffer)
                .context("it is damaged or cut short")?
            {
                0 => break,
                length => self.spool.add(&buffer[..length])?,
            }
        }
        let length = self.spool.length() - start;
        anyhow::ensure!(length == u64::from(entry.size), "it is cut short");
        Ok(Kind::File {
            size: entry.size.into(),
            content: Content::At(start),
        })
    }
}
