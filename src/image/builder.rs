//! Owns growing the tree of an image, a member of its tar after another.
//! Never keeps a file's bytes.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result};
use tar::EntryType;

use super::inode::{Entry, Inode, Kind, Number};
/// The longest file name on Linux (NAME_MAX), in bytes.
const NAME_MAX: usize = 255;

/// The tree under construction: directories as maps, so that duplicate members are found.
pub(super) struct Builder {
    pub(super) inodes: Vec<Inode>,
    /// The entries of each directory, by the directory's index; empty for anything else.
    pub(super) children: Vec<BTreeMap<Box<[u8]>, Number>>,
    /// Whether the tar has a member for it; a directory may only be on the way to one.
    pub(super) has_member: Vec<bool>,
    /// Added to the offsets of files.
    base: u64,
}

impl Builder {
    pub(super) fn new(base: u64) -> Self {
        let mut tree = Builder {
            inodes: Vec::new(),
            children: Vec::new(),
            has_member: Vec::new(),
            base,
        };
        let root = tree.push(implied_directory(Number::ROOT), false);
        debug_assert_eq!(root.ok(), Some(Number::ROOT));
        tree
    }

    /// Adds a member; returns how many bytes of data follow its header.
    pub(super) fn add<R: io::Read>(&mut self, member: &mut tar::Entry<'_, R>) -> Result<u64> {
        let name = member.path_bytes().into_owned();
        let what = || format!("member `{}`", String::from_utf8_lossy(&name));
        self.add_named(&name, member).with_context(what)
    }

    fn add_named<R: io::Read>(
        &mut self,
        name: &[u8],
        member: &mut tar::Entry<'_, R>,
    ) -> Result<u64> {
        let kind = member.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(member.size());
        }
        let components = components(name)?;
        let Some((last, parents)) = components.split_last() else {
            return self.set_root(member);
        };
        let parent = self.directory(parents)?;
        if kind.is_hard_link() {
            let target = member
                .link_name_bytes()
                .context("a hard link without a target")?;
            let number = self.existing(&target)?;
            self.inodes[number.position()].links += 1;
            self.enter(parent, last, number)?;
            return Ok(0);
        }
        let mut inode = inode_of(member, parent)?;
        let stored = match &mut inode.kind {
            Kind::File { size, offset } => {
                *offset += self.base;
                *size
            }
            _ => 0,
        };
        let known = self.children[parent.position()].get(*last).copied();
        match known {
            Some(known) if inode.is_directory() && self.inodes[known.position()].is_directory() => {
                self.inodes[known.position()] = inode;
                self.has_member[known.position()] = true;
            }
            _ => {
                let number = self.push(inode, true)?;
                self.enter(parent, last, number)?;
            }
        }
        Ok(stored)
    }

    fn set_root<R: io::Read>(&mut self, member: &mut tar::Entry<'_, R>) -> Result<u64> {
        let inode = inode_of(member, Number::ROOT)?;
        anyhow::ensure!(inode.is_directory(), "the image's root is not a directory");
        self.inodes[Number::ROOT.position()] = inode;
        self.has_member[Number::ROOT.position()] = true;
        Ok(0)
    }

    fn push(&mut self, inode: Inode, has_member: bool) -> Result<Number> {
        self.inodes.push(inode);
        self.has_member.push(has_member);
        self.children.push(BTreeMap::new());
        Ok(Number(
            u32::try_from(self.inodes.len()).context("too many members")?,
        ))
    }

    /// Adds a directory entry for `number`. As with tar, a later member replaces an earlier one of
    /// the same name.
    fn enter(&mut self, parent: Number, name: &[u8], number: Number) -> Result<()> {
        if let Some(old) = self.children[parent.position()].insert(name.into(), number)
            && old != number
        {
            anyhow::ensure!(
                !self.inodes[old.position()].is_directory(),
                "takes the place of a directory"
            );
            self.inodes[old.position()].links -= 1;
        }
        Ok(())
    }

    /// The directory at these components; creates missing ones, as tar does.
    fn directory(&mut self, components: &[&[u8]]) -> Result<Number> {
        let mut here = Number::ROOT;
        for component in components {
            here = match self.children[here.position()].get(*component) {
                Some(&known) => known,
                None => {
                    let made = self.push(implied_directory(here), false)?;
                    self.enter(here, component, made)?;
                    made
                }
            };
            anyhow::ensure!(
                self.inodes[here.position()].is_directory(),
                "lies below something that is not a directory"
            );
        }
        Ok(here)
    }

    fn existing(&self, path: &[u8]) -> Result<Number> {
        let missing = || {
            format!(
                "a hard link to `{}`, which is not there",
                String::from_utf8_lossy(path)
            )
        };
        let mut here = Number::ROOT;
        for component in components(path)? {
            here = *self.children[here.position()]
                .get(component)
                .with_context(missing)?;
        }
        anyhow::ensure!(
            !self.inodes[here.position()].is_directory(),
            "a hard link to a directory"
        );
        Ok(here)
    }

    /// The inodes with their entries and link counts, and the size of all files that are linked.
    pub(super) fn finish(mut self) -> (Vec<Inode>, u64) {
        let subdirectories: Vec<u32> = self
            .children
            .iter()
            .map(|children| {
                children
                    .values()
                    .filter(|child| self.inodes[child.position()].is_directory())
                    .count() as u32
            })
            .collect();
        let mut total = 0;
        let each = self.inodes.iter_mut().zip(self.children);
        for ((inode, children), subdirectories) in each.zip(subdirectories) {
            match &mut inode.kind {
                Kind::Directory { entries, .. } => {
                    inode.links = 2 + subdirectories;
                    *entries = children
                        .into_iter()
                        .map(|(name, number)| Entry { name, number })
                        .collect();
                }
                Kind::File { size, .. } if inode.links > 0 => total += *size,
                _ => {}
            }
        }
        (self.inodes, total)
    }
}

/// A directory that has no member of its own in the tar.
fn implied_directory(parent: Number) -> Inode {
    Inode {
        kind: Kind::Directory {
            parent,
            entries: Vec::new(),
        },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        links: 1,
    }
}

/// The components of `path`, without empty ones and `.`.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut components = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => anyhow::bail!("`..` in a name"),
            _ if component.len() > NAME_MAX => anyhow::bail!("a name of more than 255 bytes"),
            _ if component.contains(&0) => anyhow::bail!("a NUL in a name"),
            _ => components.push(component),
        }
    }
    Ok(components)
}

fn inode_of<R: io::Read>(member: &mut tar::Entry<'_, R>, parent: Number) -> Result<Inode> {
    let mtime = match pax_mtime(member)? {
        Some(seconds) => seconds,
        None => member.header().mtime()?,
    };
    let header = member.header();
    let device = || -> Result<(u32, u32)> {
        Ok((
            header.device_major()?.unwrap_or(0),
            header.device_minor()?.unwrap_or(0),
        ))
    };
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Kind::File {
            offset: member.raw_file_position(),
            size: member.size(),
        },
        EntryType::Directory => Kind::Directory {
            parent,
            entries: Vec::new(),
        },
        EntryType::Symlink => Kind::Symlink {
            target: member
                .link_name_bytes()
                .context("a symbolic link without a target")?
                .into(),
        },
        EntryType::Char => {
            let (major, minor) = device()?;
            Kind::CharDevice { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            Kind::BlockDevice { major, minor }
        }
        EntryType::Fifo => Kind::Fifo,
        other => anyhow::bail!("its type {other:?} has no place in an image"),
    };
    let id = |id: u64| u32::try_from(id).context("an owner's number over 32 bits");
    Ok(Inode {
        kind,
        mode: header.mode()? & 0o7777,
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        mtime,
        links: 1,
    })
}

/// The whole seconds of the pax record `mtime`, if there is one; 0 for times before 1970.
fn pax_mtime<R: io::Read>(member: &mut tar::Entry<'_, R>) -> Result<Option<u64>> {
    let Some(records) = member.pax_extensions()? else {
        return Ok(None);
    };
    let mut mtime = None;
    for record in records {
        let record = record?;
        anyhow::ensure!(
            !record.key_bytes().starts_with(b"GNU.sparse."),
            "a sparse file has no place in an image"
        );
        if record.key_bytes() == b"mtime" {
            let text = record.value().context("the pax record mtime")?;
            let whole = text.split('.').next().unwrap_or(text);
            let seconds: i64 = whole.parse().context("the pax record mtime")?;
            mtime = Some(u64::try_from(seconds).unwrap_or(0));
        }
    }
    Ok(mtime)
}
