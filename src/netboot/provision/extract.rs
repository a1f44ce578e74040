//! Owns extracting an image into a directory tree, for NFS servers that export directories.
//! Never follows a path: every name is created relative to the open parent directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    Mode, SFlag, UtimensatFlags, fchmod, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use crate::error::Fault;
use crate::image::index::{Image, Inode, Kind, Number};
use crate::progress::Stage;

/// Buffer size in bytes.
const CHUNK: u64 = 1 << 20;

/// Extracts the image into `root`, an empty directory: content, modes, owners, times, devices, and
/// hard links as hard links. The caller must be root.
///
/// # Errors
/// If the file system cannot represent an entry, with its path.
pub fn extract(image: &Image, root: &File, devices: Devices, stage: &dyn Stage) -> Result<()> {
    let mut extractor = Extractor {
        image,
        devices,
        root: root.as_fd(),
        first_names: HashMap::new(),
        stage,
    };
    extractor.directory(root.as_fd(), Number::ROOT, &mut Vec::new())
}

/// What is done with device nodes, which no user namespace can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    Made,
    LeftOut,
}

struct Extractor<'a> {
    image: &'a Image,
    devices: Devices,
    root: BorrowedFd<'a>,
    /// The first names of hard-linked files.
    first_names: HashMap<Number, Vec<u8>>,
    stage: &'a dyn Stage,
}

impl Extractor<'_> {
    /// Fills an open directory, then sets its own attributes, because filling it changes its times.
    /// `path` is its path without a leading slash; empty for the root.
    fn directory(&mut self, fd: BorrowedFd<'_>, number: Number, path: &mut Vec<u8>) -> Result<()> {
        for entry in self.image.entries(number) {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            self.entry(fd, OsStr::from_bytes(&entry.name), entry.number, path)
                .with_context(|| format!("cannot lay out /{}", String::from_utf8_lossy(path)))?;
            path.truncate(length);
            self.stage.advance(1);
        }
        if let Some(inode) = self.image.inode(number) {
            adopt(fd, inode)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        number: Number,
        path: &mut Vec<u8>,
    ) -> Result<()> {
        let Some(inode) = self.image.inode(number) else {
            return Ok(());
        };
        if let Kind::Directory { .. } = inode.kind {
            let fd = make_directory(parent, name)?;
            return self.directory(fd.as_fd(), number, path);
        }
        if let Some(first) = self.first_names.get(&number) {
            let first = OsStr::from_bytes(first);
            return Ok(linkat(self.root, first, parent, name, AtFlags::empty())?);
        }
        if inode.links > 1 {
            self.first_names.insert(number, path.clone());
        }
        match &inode.kind {
            Kind::File { size, .. } => {
                let file = make_file(parent, name)?;
                self.copy(number, *size, &file)?;
                adopt(file.as_fd(), inode)
            }
            Kind::Symlink { target } => {
                symlinkat(OsStr::from_bytes(target), parent, name)?;
                adopt_at(parent, name, inode)
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. }
                if self.devices == Devices::LeftOut =>
            {
                Ok(())
            }
            Kind::CharDevice { major, minor } => {
                make_node(parent, name, SFlag::S_IFCHR, inode, (*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                make_node(parent, name, SFlag::S_IFBLK, inode, (*major, *minor))
            }
            Kind::Fifo => make_node(parent, name, SFlag::S_IFIFO, inode, (0, 0)),
            Kind::Directory { .. } => Ok(()),
        }
    }

    fn copy(&self, number: Number, size: u64, file: &File) -> Result<()> {
        let mut buffer = vec![0; size.min(CHUNK) as usize];
        let mut at = 0;
        while at < size {
            let got = self.image.read_at(number, at, &mut buffer)?;
            anyhow::ensure!(got > 0, "the image became shorter while it was read");
            file.write_all_at(&buffer[..got], at)?;
            at += got as u64;
        }
        Ok(())
    }
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    mkdirat(parent, name, Mode::S_IRWXU)?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr) -> Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(
        parent,
        name,
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?))
}

fn make_node(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    kind: SFlag,
    inode: &Inode,
    (major, minor): (u32, u32),
) -> Result<()> {
    let device = makedev(u64::from(major), u64::from(minor));
    match mknodat(parent, name, kind, mode(inode), device) {
        Err(Errno::EPERM) => {
            return Err(Fault::host("this container may not make device nodes")
                .remedy(
                    "run `hearth provision` outside of it, or serve the image with `hearth serve`",
                )
                .into());
        }
        other => other?,
    }
    // The umask was applied on creation.
    nix::sys::stat::fchmodat(
        parent,
        name,
        mode(inode),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )?;
    adopt_at(parent, name, inode)
}

fn mode(inode: &Inode) -> Mode {
    Mode::from_bits_truncate(inode.mode)
}

fn time(inode: &Inode) -> TimeSpec {
    TimeSpec::new(inode.mtime.try_into().unwrap_or(i64::MAX), 0)
}

/// Sets owner, mode and time of an open file or directory; in this order, since chown(2) clears the
/// setuid bit, and both change the time.
fn adopt(fd: BorrowedFd<'_>, inode: &Inode) -> Result<()> {
    fchown(
        fd,
        Some(Uid::from_raw(inode.uid)),
        Some(Gid::from_raw(inode.gid)),
    )?;
    fchmod(fd, mode(inode))?;
    futimens(fd, &time(inode), &time(inode))?;
    Ok(())
}

/// As [`adopt`], for types that cannot be opened; the mode is already set, or there is none.
fn adopt_at(parent: BorrowedFd<'_>, name: &OsStr, inode: &Inode) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
    fchownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if !matches!(inode.kind, Kind::Symlink { .. }) && inode.mode & 0o6000 != 0 {
        let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
        nix::sys::stat::fchmodat(parent, name, mode(inode), follow)?;
    }
    let time = time(inode);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}
