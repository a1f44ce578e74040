//! Owns the index of an image's tar: a tree of inodes with the offset of each file's data. Only
//! headers are read.
//! Never extracts, never writes.
//!
//! The tar is POSIX ustar with pax records (IEEE 1003.1, "pax Interchange Format") or GNU long
//! names; members may begin with `./`. Extended attributes are not kept.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use anyhow::{Context, Result};

use super::builder::Builder;
pub use super::inode::{Entry, Found, Inode, Kind, Number};
use super::reader::Entries;
use super::stack;
use crate::error::{Fault, InputContext};
use crate::input;

/// An open image: its tree in memory, its bytes in the tar, or in those of a stack of layers. Cheap to share between
/// threads.
///
/// ```
/// # use common::tarball::{dir, file, symlink, tar};
/// # let path = tempfile::NamedTempFile::new()?.into_temp_path();
/// # let os = "NAME=Debian\n";
/// # let entries = [dir("./", 0o755), symlink("etc/os-release", "../usr/lib/os-release"), file("usr/lib/os-release", 0o644, os)];
/// # std::fs::write(&path, tar(&entries))?;
/// use hearth::image::index::{Image, Kind};
///
/// let image = Image::open(&path)?;
/// // Links are followed inside the image, whatever the host has there.
/// let found = image.follow("/etc/os-release").unwrap();
/// assert_eq!(found.path, b"usr/lib/os-release");
/// assert_eq!(image.read(found.number)?, b"NAME=Debian\n");
///
/// let mut files = 0;
/// image.walk(|_, _, inode| files += u32::from(matches!(inode.kind, Kind::File { .. })));
/// assert_eq!(files, 1);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Image {
    /// Bottom first; never empty.
    layers: Vec<Layer>,
    inodes: Vec<Inode>,
    /// Size of all files together, in bytes.
    total: u64,
}

/// A tar of an image.
struct Layer {
    path: PathBuf,
    file: File,
    /// What its first byte is called in offsets of the image: the sum of the lengths of the tars below.
    base: u64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} inodes)",
            self.path().display(),
            self.inodes.len()
        )
    }
}

/// The most symbolic links that Linux follows on one path.
const MAX_LINKS: usize = 40;

impl Image {
    /// Reads the headers of the tar at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is truncated, or has members that an image cannot have: sparse files,
    /// `..` in names, hard links to missing members.
    pub fn open(path: &Path) -> Result<Self> {
        let file = input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Image::from_file(path, file)
    }

    /// As [`Image::open`], for an open file; `path` is only for messages.
    pub fn from_file(path: &Path, file: File) -> Result<Self> {
        Image::of_files(vec![(path.to_path_buf(), file)])
    }

    /// Lays images over each other, bottom first. What an upper layer hides, and how it removes a name, is as in the OCI
    /// image specification ("Image Layer Filesystem Changeset") and in overlayfs.
    ///
    /// # Errors
    /// As [`Image::open`], for each; if there is no layer.
    pub fn open_stack(paths: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| {
            let file =
                input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            Ok((path.clone(), file))
        };
        Image::of_files(paths.iter().map(open).collect::<Result<_>>()?)
    }

    fn of_files(files: Vec<(PathBuf, File)>) -> Result<Self> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut tree: Option<Builder> = None;
        let mut base = 0;
        for (path, file) in files {
            let (grown, length) = grow(&path, &file, base)?;
            tree = Some(match tree {
                None => grown,
                Some(below) => stack::lay_over(below, grown)
                    .with_context(|| format!("cannot lay {} over an image", path.display()))?,
            });
            layers.push(Layer { path, file, base });
            base += length;
        }
        let (inodes, total) = tree.context("an image has at least one layer")?.finish();
        Ok(Image {
            layers,
            inodes,
            total,
        })
    }

    /// Where the tar was when it was opened; of a stack, the lowest.
    pub fn path(&self) -> &Path {
        &self.layers[0].path
    }

    /// The number of inodes, which are numbered from 1.
    pub fn count(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// The size of all files together in bytes, hard links counted once.
    pub fn total_size(&self) -> u64 {
        self.total
    }

    pub fn inode(&self, number: Number) -> Option<&Inode> {
        self.inodes.get(number.position())
    }

    /// The entries of a directory; empty for anything else.
    pub fn entries(&self, number: Number) -> &[Entry] {
        match self.inode(number) {
            Some(Inode {
                kind: Kind::Directory { entries, .. },
                ..
            }) => entries,
            _ => &[],
        }
    }

    /// The inode of the entry `name` of `directory`; `.` and `..` are not entries.
    pub fn lookup(&self, directory: Number, name: &[u8]) -> Option<Number> {
        let entries = self.entries(directory);
        let at = entries
            .binary_search_by(|entry| (*entry.name).cmp(name))
            .ok()?;
        Some(entries[at].number)
    }

    /// Resolves `path` like lstat(2): follows links except in the last component. Paths are inside
    /// the image, with or without a leading slash.
    pub fn find(&self, path: impl AsRef<[u8]>) -> Option<Found> {
        self.walk_path(path.as_ref(), false)
    }

    /// Resolves `path` like stat(2): follows all links.
    pub fn follow(&self, path: impl AsRef<[u8]>) -> Option<Found> {
        self.walk_path(path.as_ref(), true)
    }

    fn walk_path(&self, path: &[u8], follow_last: bool) -> Option<Found> {
        // Components still to resolve, the next one last; and the inodes from the root to the
        // current directory.
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|&byte| byte == b'/')
                .rev()
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut ahead = split(path);
        let mut behind: Vec<(Number, Vec<u8>)> = Vec::new();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    behind.pop();
                    continue;
                }
                _ => {}
            }
            let here = behind.last().map_or(Number::ROOT, |(number, _)| *number);
            let number = self.lookup(here, &component)?;
            let at_end = ahead.iter().all(|next| next.is_empty() || next == b".");
            if let Kind::Symlink { target } = &self.inode(number)?.kind
                && (follow_last || !at_end)
            {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.starts_with(b"/") {
                    behind.clear();
                }
                ahead.extend(split(target));
            } else {
                behind.push((number, component));
            }
        }
        let number = behind.last().map_or(Number::ROOT, |(number, _)| *number);
        let names: Vec<&[u8]> = behind.iter().map(|(_, name)| name.as_slice()).collect();
        Some(Found {
            number,
            path: names.join(&b'/'),
        })
    }

    /// Reads at most `buffer.len()` bytes of a file from `offset` on; returns 0 at its end and for
    /// anything that is no file.
    ///
    /// # Errors
    /// If the tar cannot be read or was truncated since it was opened.
    pub fn read_at(&self, number: Number, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((start, length)) = self.extent(number, offset, buffer.len() as u64) else {
            return Ok(0);
        };
        let part = &mut buffer[..length as usize];
        let (file, start) = self.tar_at(start);
        file.read_exact_at(part, start)?;
        Ok(part.len())
    }

    /// Where in the image's tars the bytes from `offset` on lie, and how many of `length` there are; `None` past the end.
    pub fn extent(&self, number: Number, offset: u64, length: u64) -> Option<(u64, u64)> {
        let Kind::File {
            offset: start,
            size,
        } = self.inode(number)?.kind
        else {
            return None;
        };
        let left = size.checked_sub(offset).filter(|&left| left > 0)?;
        Some((start + offset, length.min(left)))
    }

    /// The tar that a place which [`Image::extent`] told is in, and where there.
    pub fn tar_at(&self, offset: u64) -> (&File, u64) {
        let above = self.layers.partition_point(|layer| layer.base <= offset);
        let layer = &self.layers[above.saturating_sub(1)];
        (&layer.file, offset - layer.base)
    }

    /// The content of a file. Empty for anything that is no file.
    pub fn read(&self, number: Number) -> io::Result<Vec<u8>> {
        let size = match self.inode(number).map(|inode| &inode.kind) {
            Some(Kind::File { size, .. }) => *size,
            _ => 0,
        };
        let mut data =
            vec![0; usize::try_from(size).map_err(|_| io::Error::other("file too large"))?];
        let got = self.read_at(number, 0, &mut data)?;
        debug_assert_eq!(got, data.len());
        Ok(data)
    }

    /// Calls `visit` with the path (relative, empty for the root) of every name in the image, each
    /// directory before what is in it, sorted bytewise within a directory. A hard-linked file comes
    /// once for each name.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], Number, &Inode)) {
        let mut stack = vec![(Vec::new(), Number::ROOT)];
        while let Some((path, number)) = stack.pop() {
            let Some(inode) = self.inode(number) else {
                continue;
            };
            visit(&path, number, inode);
            for entry in self.entries(number).iter().rev() {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(&entry.name);
                stack.push((below, entry.number));
            }
        }
    }
}

/// Reads a tar's headers, and its length. Its bytes are called from `base` on.
fn grow(path: &Path, file: &File, base: u64) -> Result<(Builder, u64)> {
    let in_place = || format!("cannot read the image {}", path.display());
    let length = file.metadata().input_context(in_place)?.len();
    let mut tree = Builder::new(base);
    let damaged = || Fault::input(in_place()).remedy("build the image again");
    let mut entries = Entries::new(file).with_context(damaged)?;
    while let Some(member) = entries.next_entry().with_context(damaged)? {
        tree.add(&member).input_context(in_place)?;
    }
    Ok((tree, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::tarball::{dir, file, hard_link, symlink, tar};
    use std::io::Write;

    fn small_tar() -> Vec<u8> {
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        tar(&[
            dir("./", 0o1777),
            file("./usr/bin/su", 0o4755, "elf").owner(1000, 50),
            hard_link("usr/bin/sudo", 0o4755, "usr/bin/su"),
            symlink("bin", "usr/bin"),
            symlink("up", "/usr/../bin/./su"),
            symlink("loop", "loop"),
            file(&long, 0o644, "far away"),
        ])
    }

    fn open(bytes: &[u8]) -> Result<Image> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        Image::from_file(Path::new("test.tar"), file)
    }

    #[test]
    fn a_tree_has_names_modes_owners_and_bytes() {
        let image = open(&small_tar()).unwrap();
        assert_eq!(image.inode(Number::ROOT).unwrap().mode, 0o1777);
        let su = image.find("usr/bin/su").unwrap();
        let inode = image.inode(su.number).unwrap();
        assert_eq!((inode.mode, inode.uid, inode.gid), (0o4755, 1000, 50));
        assert_eq!((inode.links, inode.mtime), (2, 1_700_000_000));
        assert_eq!(image.find("/usr/bin/sudo").unwrap().number, su.number);
        assert_eq!(image.read(su.number).unwrap(), b"elf");
        let mut buffer = [0; 8];
        assert_eq!(image.read_at(su.number, 1, &mut buffer).unwrap(), 2);
        assert_eq!(image.read_at(su.number, 3, &mut buffer).unwrap(), 0);
        let far = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        assert_eq!(
            image.read(image.find(far).unwrap().number).unwrap(),
            b"far away"
        );
        // `usr` and `usr/bin` are implied.
        assert_eq!(image.inode(Number::ROOT).unwrap().links, 4);
        assert_eq!(image.total_size(), 11);
    }

    #[test]
    fn paths_follow_links_inside_the_image() {
        let image = open(&small_tar()).unwrap();
        let followed = image.follow("up").unwrap();
        assert_eq!(followed.path, b"usr/bin/su");
        assert_eq!(image.find("bin/sudo").unwrap().path, b"usr/bin/sudo");
        assert_eq!(image.find("bin").unwrap().path, b"bin");
        assert_eq!(image.follow("bin/").unwrap().path, b"usr/bin");
        assert_eq!(image.follow("loop"), None);
        assert_eq!(image.follow("../../..").unwrap().number, Number::ROOT);
        assert_eq!(image.find("usr/bin/nothing"), None);
    }

    #[test]
    fn a_truncated_tar_is_refused_wherever_it_ends() {
        let whole = small_tar();
        for length in 0..whole.len() - 1024 {
            assert!(open(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let error = open(&tar(&[file("../../etc/x", 0o644, "")])).unwrap_err();
        assert!(format!("{error:#}").contains("`..` in a name"), "{error:#}");
    }
}
