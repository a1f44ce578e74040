//! Owns the comparison of a directory tree with the image that it was extracted from.
//! Never changes either.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, minor};

use crate::image::index::{Image, Inode, Kind, Number};
use crate::progress::Stage;

/// Buffer size in bytes.
const CHUNK: usize = 1 << 20;

/// A difference between the tree and the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Absolute path in the image.
    pub path: String,
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// Compares type, content, mode, owner, time, link target, device numbers, and hard links.
///
/// # Errors
/// If the tree or the image cannot be read; a difference is no error.
pub fn compare(image: &Image, root: &File, stage: &dyn Stage) -> Result<Vec<Difference>> {
    let mut comparer = Comparer {
        image,
        inodes: HashMap::new(),
        differences: Vec::new(),
        stage,
    };
    let meta = nix::sys::stat::fstat(root)?;
    if let Some(inode) = image.inode(Number::ROOT) {
        comparer.attributes("/", inode, &meta);
    }
    comparer.directory(root.as_fd(), Number::ROOT, "")?;
    comparer.differences.sort();
    Ok(comparer.differences)
}

struct Comparer<'a> {
    image: &'a Image,
    /// Device and inode in the tree of each file of the image compared so far.
    inodes: HashMap<Number, (u64, u64)>,
    differences: Vec<Difference>,
    stage: &'a dyn Stage,
}

impl Comparer<'_> {
    fn tell(&mut self, path: &str, what: impl Into<String>) {
        self.differences.push(Difference {
            path: path.to_string(),
            what: what.into(),
        });
    }

    fn directory(&mut self, fd: BorrowedFd<'_>, number: Number, path: &str) -> Result<()> {
        let mut there = names(fd).with_context(|| format!("cannot read {path}/"))?;
        for entry in self.image.entries(number) {
            let name = OsStr::from_bytes(&entry.name);
            let path = format!("{path}/{}", name.to_string_lossy());
            if there.remove(name) {
                self.entry(fd, name, entry.number, &path)
                    .with_context(|| format!("cannot read {path}"))?;
            } else {
                self.tell(&path, "is missing");
            }
            self.stage.advance(1);
        }
        for name in there {
            self.tell(
                &format!("{path}/{}", name.to_string_lossy()),
                "is not in the image",
            );
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        number: Number,
        path: &str,
    ) -> Result<()> {
        let Some(inode) = self.image.inode(number) else {
            return Ok(());
        };
        let meta = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind_of(&meta) != kind(inode) {
            self.tell(
                path,
                format!(
                    "is a {} instead of a {}",
                    noun(kind_of(&meta)),
                    noun(kind(inode))
                ),
            );
            return Ok(());
        }
        self.attributes(path, inode, &meta);
        self.links(path, number, inode, &meta);
        match &inode.kind {
            Kind::Directory { .. } => {
                let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(parent, name, flags, Mode::empty())?;
                self.directory(fd.as_fd(), number, path)?;
            }
            Kind::File { size, .. } => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = File::from(openat(parent, name, flags, Mode::empty())?);
                if meta.st_size as u64 != *size {
                    self.tell(
                        path,
                        format!("has {} bytes instead of {size}", meta.st_size),
                    );
                } else if !self.same_content(number, *size, file)? {
                    self.tell(path, "has other content");
                }
            }
            Kind::Symlink { target } => {
                let found = readlinkat(parent, name)?;
                if found.as_bytes() != &**target {
                    self.tell(path, format!("points to {}", found.to_string_lossy()));
                }
            }
            Kind::CharDevice { major: a, minor: b } | Kind::BlockDevice { major: a, minor: b } => {
                let found = (major(meta.st_rdev), minor(meta.st_rdev));
                if found != (u64::from(*a), u64::from(*b)) {
                    self.tell(
                        path,
                        format!("is device {}:{} instead of {a}:{b}", found.0, found.1),
                    );
                }
            }
            Kind::Fifo => {}
        }
        Ok(())
    }

    fn attributes(&mut self, path: &str, inode: &Inode, meta: &FileStat) {
        if !matches!(inode.kind, Kind::Symlink { .. }) && meta.st_mode & 0o7777 != inode.mode {
            let found = meta.st_mode & 0o7777;
            self.tell(
                path,
                format!("has mode {found:04o} instead of {:04o}", inode.mode),
            );
        }
        if (meta.st_uid, meta.st_gid) != (inode.uid, inode.gid) {
            self.tell(
                path,
                format!(
                    "is owned by {}:{} instead of {}:{}",
                    meta.st_uid, meta.st_gid, inode.uid, inode.gid
                ),
            );
        }
        if u64::try_from(meta.st_mtime) != Ok(inode.mtime) {
            self.tell(
                path,
                format!("is of {} instead of {}", meta.st_mtime, inode.mtime),
            );
        }
    }

    fn links(&mut self, path: &str, number: Number, inode: &Inode, meta: &FileStat) {
        if inode.is_directory() {
            return;
        }
        if meta.st_nlink != u64::from(inode.links) {
            self.tell(
                path,
                format!("has {} names instead of {}", meta.st_nlink, inode.links),
            );
        }
        let here = (meta.st_dev, meta.st_ino);
        if *self.inodes.entry(number).or_insert(here) != here {
            self.tell(path, "is a copy instead of a hard link");
        }
    }

    fn same_content(&self, number: Number, size: u64, mut file: File) -> Result<bool> {
        let length = CHUNK.min(size as usize);
        let (mut expected, mut found) = (vec![0; length], vec![0; length]);
        let mut at = 0;
        while at < size {
            let got = self.image.read_at(number, at, &mut expected)?;
            anyhow::ensure!(got > 0, "the image became shorter while it was read");
            file.read_exact(&mut found[..got])?;
            if expected[..got] != found[..got] {
                return Ok(false);
            }
            at += got as u64;
        }
        Ok(true)
    }
}

/// The names in an open directory, without `.` and `..`.
fn names(fd: BorrowedFd<'_>) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    let mut directory = Dir::openat(fd, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in directory.iter() {
        let name = CString::from(entry?.file_name()).into_bytes();
        if name != b"." && name != b".." {
            names.insert(OsString::from_vec(name));
        }
    }
    Ok(names)
}

fn kind_of(meta: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT
}

fn kind(inode: &Inode) -> SFlag {
    match inode.kind {
        Kind::File { .. } => SFlag::S_IFREG,
        Kind::Directory { .. } => SFlag::S_IFDIR,
        Kind::Symlink { .. } => SFlag::S_IFLNK,
        Kind::CharDevice { .. } => SFlag::S_IFCHR,
        Kind::BlockDevice { .. } => SFlag::S_IFBLK,
        Kind::Fifo => SFlag::S_IFIFO,
    }
}

fn noun(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symbolic link",
        SFlag::S_IFCHR => "character device",
        SFlag::S_IFBLK => "block device",
        SFlag::S_IFIFO => "named pipe",
        _ => "socket",
    }
}
