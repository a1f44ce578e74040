//! Owns how a definition's work tree becomes a compressed tar: which of its files, and how large it may be.
//! Never decides where it goes in the job.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use crate::error::Fault;
use crate::input;

/// How large a definition's work tree may be, in bytes: it goes over the network at every run.
const TREE_LIMIT: u64 = 256 << 20;

/// A directory's files as a compressed tar, and their size in bytes.
pub(super) fn pack(tree: &Path) -> Result<(Vec<u8>, u64)> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let size = add_tree(&mut tar, tree, Path::new(""))?;
    Ok((tar.into_inner()?.finish()?, size))
}

/// Adds a directory's regular files and symbolic links below `prefix`, without `.git`, in the order of their names.
/// Gives the size of the files in bytes, each rounded up as a file system does.
///
/// # Errors
/// If they are too large or cannot be read.
pub fn add_tree(tar: &mut Builder<impl Write>, tree: &Path, prefix: &Path) -> Result<u64> {
    let mut files = Vec::new();
    let mut size = 0;
    let mut total = 0;
    collect(tree, Path::new(""), &mut files, &mut total)?;
    for file in files {
        let path = tree.join(&file);
        let meta = fs::symlink_metadata(&path)?;
        let name = &prefix.join(&file);
        if meta.is_symlink() {
            let mut header = header(EntryType::Symlink, 0, 0o777);
            tar.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else {
            let mut header = header(EntryType::Regular, meta.len(), mode_of(&meta));
            let content =
                input::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            tar.append_data(&mut header, name, content.take(meta.len()))?;
            size += meta.len().next_multiple_of(4096);
        }
    }
    Ok(size)
}

fn collect(root: &Path, below: &Path, files: &mut Vec<PathBuf>, total: &mut u64) -> Result<()> {
    let directory = root.join(below);
    let mut entries = fs::read_dir(&directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name() == ".git" {
            continue;
        }
        let path = below.join(entry.file_name());
        let meta = entry.metadata()?;
        if meta.is_dir() {
            collect(root, &path, files, total)?;
        } else if meta.is_file() || meta.is_symlink() {
            *total += meta.len();
            if *total > TREE_LIMIT {
                return Err(Fault::input(format!(
                    "{} holds more than {} MiB, too much to send to a board",
                    root.display(),
                    TREE_LIMIT >> 20
                ))
                .remedy("give the definition a directory of its own")
                .into());
            }
            files.push(path);
        }
    }
    Ok(())
}

fn mode_of(meta: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    if meta.permissions().mode() & 0o100 == 0 {
        0o644
    } else {
        0o755
    }
}

pub(super) fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}
