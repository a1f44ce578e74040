//! Owns growing the tree of an image, a member of its tar after another.
//! Never keeps a file's bytes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::inode::{Entry, Inode, Kind, Number};
use super::reader::{self, Type};

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

    /// Adds a member.
    pub(super) fn add(&mut self, member: &reader::Entry) -> Result<()> {
        let what = || format!("member `{}`", String::from_utf8_lossy(&member.name));
        self.add_named(member).with_context(what)
    }

    fn add_named(&mut self, member: &reader::Entry) -> Result<()> {
        let components = components(&member.name)?;
        let Some((last, parents)) = components.split_last() else {
            return self.set_root(member);
        };
        let parent = self.directory(parents)?;
        if member.kind == Type::HardLink {
            let number = self.existing(&member.link)?;
            self.inodes[number.position()].links += 1;
            return self.enter(parent, last, number);
        }
        let inode = inode_of(member, parent, self.base)?;
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
        Ok(())
    }

    fn set_root(&mut self, member: &reader::Entry) -> Result<()> {
        let inode = inode_of(member, Number::ROOT, self.base)?;
        anyhow::ensure!(inode.is_directory(), "the image's root is not a directory");
        self.inodes[Number::ROOT.position()] = inode;
        self.has_member[Number::ROOT.position()] = true;
        Ok(())
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

/// `base` is added to the offset of a file.
fn inode_of(member: &reader::Entry, parent: Number, base: u64) -> Result<Inode> {
    let (major, minor) = member.device;
    let kind = match member.kind {
        Type::File => Kind::File {
            offset: match member.pieces[..] {
                [] if member.size == 0 => base,
                [piece] if piece.length == member.size => base + piece.stored,
                _ => anyhow::bail!("a sparse file has no place in an image"),
            },
            size: member.size,
        },
        Type::Directory => Kind::Directory {
            parent,
            entries: Vec::new(),
        },
        Type::Symlink => Kind::Symlink {
            target: member.link.as_slice().into(),
        },
        Type::CharDevice => Kind::CharDevice { major, minor },
        Type::BlockDevice => Kind::BlockDevice { major, minor },
        Type::Fifo => Kind::Fifo,
        Type::HardLink => anyhow::bail!("the root is a hard link"),
    };
    Ok(Inode {
        kind,
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: u64::try_from(member.mtime).unwrap_or(0),
        links: 1,
    })
}
