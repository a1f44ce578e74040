//! Owns the inodes of an image: their kinds, attributes, names and numbers.
//! Never reads a tar.

/// An inode number: 1 is the root, the others follow in the order of the tar. The same tar always
/// gives the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub(super) u32);

impl Number {
    pub const ROOT: Number = Number(1);

    pub fn new(number: u64) -> Option<Self> {
        u32::try_from(number).ok().filter(|&n| n > 0).map(Number)
    }

    pub fn get(self) -> u64 {
        u64::from(self.0)
    }

    pub(super) fn position(self) -> usize {
        self.0 as usize - 1
    }
}

/// One inode of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky bits: at most 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// The link count of a file; for a directory, 2 plus the number of its sub-directories.
    pub links: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `offset` is the position of the file's data in the tar.
    File {
        offset: u64,
        size: u64,
    },
    /// Entries are sorted bytewise by name.
    Directory {
        parent: Number,
        entries: Vec<Entry>,
    },
    Symlink {
        target: Box<[u8]>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl Inode {
    /// The size in bytes of a file or of a link's target; for a directory, a number that is never
    /// 0.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { size, .. } => *size,
            Kind::Symlink { target } => target.len() as u64,
            Kind::Directory { .. } => 4096,
            _ => 0,
        }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }
}

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Box<[u8]>,
    pub number: Number,
}

/// The result of resolving a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub number: Number,
    /// The path with symbolic links resolved, relative to the image's root; empty for the root.
    pub path: Vec<u8>,
}
