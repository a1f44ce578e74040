//! Owns growing a tree of a tar's members. Never reads their content.

use anyhow::{Context, Result};

use super::tree::{Attributes, Content, Kind, Tree};
use crate::image::reader::{Entries, Entry, Piece, ReadAt, Type};

/// The tree of a tar.
///
/// # Errors
/// If it is cut short or damaged, or has a member that leads out of the tree.
pub fn tree(input: &dyn ReadAt) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut entries = Entries::new(input)?;
    while let Some(entry) = entries.next_entry()? {
        let name = entry.name.clone();
        add(&mut tree, entry)
            .with_context(|| format!("member `{}`", String::from_utf8_lossy(&name)))?;
    }
    Ok(tree)
}

fn add(tree: &mut Tree, entry: Entry) -> Result<()> {
    let Entry { name, link, .. } = &entry;
    if entry.kind == Type::HardLink {
        let place = tree.find(link).context("a hard link")?;
        return tree.add_link(name, place);
    }
    let (major, minor) = entry.device;
    let kind = match entry.kind {
        Type::Directory => Kind::Directory(Default::default()),
        Type::Symlink => {
            anyhow::ensure!(!link.is_empty(), "a symbolic link without a target");
            Kind::Symlink(link.as_slice().into())
        }
        Type::CharDevice => Kind::CharDevice(major, minor),
        Type::BlockDevice => Kind::BlockDevice(major, minor),
        Type::Fifo => Kind::Fifo,
        Type::File | Type::HardLink => Kind::File {
            size: entry.size,
            content: match entry.pieces[..] {
                [] => Content::Pieces(Box::default()),
                [
                    Piece {
                        at: 0,
                        stored,
                        length,
                    },
                ] if length == entry.size => Content::At(stored),
                _ => Content::Pieces(entry.pieces.into()),
            },
        },
    };
    let attributes = Attributes {
        mode: entry.mode as u16,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        extended: (!entry.attributes.is_empty()).then(|| Box::new(entry.attributes)),
    };
    tree.add(&entry.name, kind, attributes).map(drop)
}
