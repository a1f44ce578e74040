//! Owns the differences between two images: packages and files. Never builds anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use super::index::{Image, Inode, Kind, Number};
use super::manifest::Manifest;

/// A file that differs between two images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Absolute path in the image.
    pub path: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Added,
    Removed,
    /// The difference, such as `content` or `mode 0644 → 0755`.
    Changed(Vec<String>),
}

/// A package whose versions differ; `None` if an image does not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageChange {
    pub name: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// Opens an image: an output directory of `hearth build`, or a tar.
///
/// # Errors
/// If it is neither.
pub fn open(path: &Path) -> Result<Image> {
    if path.is_dir() {
        return Manifest::load(path)?.open_image(path);
    }
    Image::open(path)
}

/// The files that differ, sorted by path.
///
/// ```
/// # use common::tarball::{dir, file, tar};
/// # let directory = tempfile::tempdir()?;
/// # let image = |name: &str, mode, text: &str| {
/// #     let path = directory.path().join(name);
/// #     std::fs::write(&path, tar(&[dir("./", 0o755), file("etc/motd", mode, text)])).unwrap();
/// #     path
/// # };
/// # let (old, new) = (image("old.tar", 0o644, "hello"), image("new.tar", 0o600, "hallo"));
/// use hearth::image::diff::{What, files, open};
///
/// let changes = files(&open(&old)?, &open(&new)?)?;
/// assert_eq!(changes[0].path, "/etc/motd");
/// let what = ["content", "mode 0644 → 0600"].map(String::from);
/// assert_eq!(changes[0].what, What::Changed(what.to_vec()));
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// If one of the tars cannot be read.
pub fn files(old: &Image, new: &Image) -> Result<Vec<FileChange>> {
    let (before, after) = (paths(old), paths(new));
    let all: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    let mut changes = Vec::new();
    for path in all {
        let what = match (before.get(path), after.get(path)) {
            (Some(_), None) => What::Removed,
            (None, Some(_)) => What::Added,
            (Some(&one), Some(&other)) => match compare(old, one, new, other)? {
                same if same.is_empty() => continue,
                different => What::Changed(different),
            },
            (None, None) => continue,
        };
        changes.push(FileChange {
            path: format!("/{}", String::from_utf8_lossy(path)),
            what,
        });
    }
    Ok(changes)
}

fn paths(image: &Image) -> BTreeMap<Vec<u8>, Number> {
    let mut paths = BTreeMap::new();
    image.walk(|path, number, _| {
        paths.insert(path.to_vec(), number);
    });
    paths
}

fn compare(old: &Image, one: Number, new: &Image, other: Number) -> Result<Vec<String>> {
    let (Some(a), Some(b)) = (old.inode(one), new.inode(other)) else {
        return Ok(Vec::new());
    };
    let mut different = Vec::new();
    match (&a.kind, &b.kind) {
        (Kind::File { .. }, Kind::File { .. })
            if a.size() != b.size() || !same_content(old, one, new, other, a.size())? =>
        {
            different.push("content".to_string());
        }
        (Kind::Directory { .. }, Kind::Directory { .. }) => {}
        (Kind::Symlink { target: from }, Kind::Symlink { target: to }) if from != to => {
            let shown = String::from_utf8_lossy;
            different.push(format!("target {} → {}", shown(from), shown(to)));
        }
        (from, to) if std::mem::discriminant(from) != std::mem::discriminant(to) => {
            different.push("kind of file".to_string());
        }
        _ => {}
    }
    attributes(a, b, &mut different);
    Ok(different)
}

fn attributes(a: &Inode, b: &Inode, different: &mut Vec<String>) {
    if a.mode != b.mode {
        different.push(format!("mode {:04o} → {:04o}", a.mode, b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        different.push(format!("owner {}:{} → {}:{}", a.uid, a.gid, b.uid, b.gid));
    }
    if a.mtime != b.mtime {
        different.push(format!("time {} → {}", a.mtime, b.mtime));
    }
}

fn same_content(old: &Image, one: Number, new: &Image, other: Number, size: u64) -> Result<bool> {
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut offset = 0;
    while offset < size {
        let got = old.read_at(one, offset, &mut left)?;
        let most = right.len().min(got);
        let also = new.read_at(other, offset, &mut right[..most])?;
        if got == 0 || got != also || left[..got] != right[..got] {
            return Ok(false);
        }
        offset += got as u64;
    }
    Ok(true)
}

/// The packages that differ, sorted by name, according to dpkg's database in the images.
///
/// # Errors
/// If one of the tars cannot be read.
pub fn packages(old: &Image, new: &Image) -> Result<Vec<PackageChange>> {
    let (before, after) = (installed(old)?, installed(new)?);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    Ok(names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| PackageChange {
            name: name.clone(),
            old: before.get(name).cloned(),
            new: after.get(name).cloned(),
        })
        .collect())
}

/// Versions by package name; empty for an image without dpkg.
fn installed(image: &Image) -> Result<BTreeMap<String, String>> {
    let Some(found) = image.find("var/lib/dpkg/status") else {
        return Ok(BTreeMap::new());
    };
    let data = image
        .read(found.number)
        .with_context(|| format!("cannot read {}", image.path().display()))?;
    let text = String::from_utf8_lossy(&data);
    let field = |stanza: &str, name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_string)
    };
    Ok(text
        .split("\n\n")
        .filter_map(|stanza| Some((field(stanza, "Package")?, field(stanza, "Version")?)))
        .collect())
}
