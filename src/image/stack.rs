//! Owns what a layer hides of the image below it. Never reads a tar.
//!
//! A directory over a directory is merged with it and gives its owner, mode and time, if the layer has a member for it; anything else hides what has its
//! name below. As in the OCI image specification ("Image Layer Filesystem Changeset"), an empty file `.wh.NAME` removes NAME,
//! and `.wh..wh..opq` hides all that its directory has below; as in the kernel's overlayfs.rst, a character device 0:0
//! is a whiteout of its own name. Hard links never cross layers.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::builder::Builder;
use super::inode::{Inode, Kind, Number};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The tree of `below` with `layer` over it. Numbers of `below` stay.
///
/// # Errors
/// If there are more than 2^32 inodes.
pub(super) fn lay_over(mut below: Builder, layer: Builder) -> Result<Builder> {
    let shift = u32::try_from(below.inodes.len()).context("too many members")?;
    u32::try_from(below.inodes.len() + layer.inodes.len()).context("too many members")?;
    let moved = |number: Number| Number(number.0 + shift);
    for mut inode in layer.inodes {
        if let Kind::Directory { parent, .. } = &mut inode.kind {
            *parent = moved(*parent);
        }
        below.inodes.push(inode);
    }
    below.has_member.extend(layer.has_member);
    for children in layer.children {
        let children = children
            .into_iter()
            .map(|(name, number)| (name, moved(number)));
        below.children.push(children.collect());
    }
    merge(&mut below, Number::ROOT, moved(Number::ROOT));
    Ok(below)
}

/// Merges the directory `over` into the directory `under`, which keeps its number.
fn merge(tree: &mut Builder, under: Number, over: Number) {
    let mut pending = vec![(under, over)];
    while let Some((under, over)) = pending.pop() {
        take_attributes(tree, under, over);
        let mut children = std::mem::take(&mut tree.children[over.position()]);
        if children.remove(OPAQUE).is_some() {
            let hidden = std::mem::take(&mut tree.children[under.position()]);
            hidden.into_values().for_each(|number| unlink(tree, number));
        }
        let (whiteouts, children): (Vec<_>, Vec<_>) = children
            .into_iter()
            .partition(|(name, number)| is_whiteout(name, &tree.inodes[number.position()]));
        for (name, _) in whiteouts {
            let name = name.strip_prefix(WHITEOUT).unwrap_or(&name);
            if let Some(hidden) = tree.children[under.position()].remove(name) {
                unlink(tree, hidden);
            }
        }
        for (name, number) in children {
            let known = tree.children[under.position()].get(&name).copied();
            match known {
                Some(known) if both_are_directories(tree, known, number) => {
                    pending.push((known, number));
                }
                _ => {
                    if let Some(hidden) = known {
                        unlink(tree, hidden);
                    }
                    clean(tree, number);
                    set_parent(tree, number, under);
                    tree.children[under.position()].insert(name, number);
                }
            }
        }
    }
}

fn is_whiteout(name: &[u8], inode: &Inode) -> bool {
    match inode.kind {
        Kind::CharDevice { major: 0, minor: 0 } => true,
        Kind::File { .. } => name.starts_with(WHITEOUT),
        _ => false,
    }
}

fn both_are_directories(tree: &Builder, one: Number, other: Number) -> bool {
    [one, other]
        .iter()
        .all(|number| tree.inodes[number.position()].is_directory())
}

fn set_parent(tree: &mut Builder, number: Number, directory: Number) {
    if let Kind::Directory { parent, .. } = &mut tree.inodes[number.position()].kind {
        *parent = directory;
    }
}

fn take_attributes(tree: &mut Builder, under: Number, over: Number) {
    if !tree.has_member[over.position()] {
        return;
    }
    let Inode {
        mode,
        uid,
        gid,
        mtime,
        ..
    } = tree.inodes[over.position()];
    let inode = &mut tree.inodes[under.position()];
    (inode.mode, inode.uid, inode.gid, inode.mtime) = (mode, uid, gid, mtime);
}

/// Takes the whiteouts out of a directory under which nothing is.
fn clean(tree: &mut Builder, number: Number) {
    let mut pending = vec![number];
    while let Some(number) = pending.pop() {
        let mut children: BTreeMap<_, _> = std::mem::take(&mut tree.children[number.position()]);
        children.retain(|name, child| !is_whiteout(name, &tree.inodes[child.position()]));
        pending.extend(children.values().copied());
        tree.children[number.position()] = children;
    }
}

/// Takes a name from an inode; from all inodes below it, if it is a directory.
fn unlink(tree: &mut Builder, number: Number) {
    let mut pending = vec![number];
    while let Some(number) = pending.pop() {
        let inode = &mut tree.inodes[number.position()];
        inode.links = inode.links.saturating_sub(1);
        pending.extend(std::mem::take(&mut tree.children[number.position()]).into_values());
    }
}
