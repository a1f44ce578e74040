//! Owns the index over an image's tar: a tree of inodes and where each file's bytes lie. Only headers are read.
//! Never extracts, never writes.
//!
//! The tar is POSIX ustar with pax records (IEEE 1003.1, "pax Interchange Format") or GNU long names;
//! members may begin with `./`. Extended attributes are not kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use anyhow::{Context, Result};
use tar::EntryType;

use crate::error::{Fault, InputContext};
use crate::input;

/// The number of an inode: 1 is the root, the others follow in the order of the tar. The same tar gives
/// the same numbers, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(u32);

impl Number {
    pub const ROOT: Number = Number(1);

    pub fn new(number: u64) -> Option<Self> {
        u32::try_from(number).ok().filter(|&n| n > 0).map(Number)
    }

    pub fn get(self) -> u64 {
        u64::from(self.0)
    }

    fn position(self) -> usize {
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
    /// Names that a file has; for a directory, 2 and its sub-directories.
    pub links: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `offset` is where its bytes begin in the tar.
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
    /// Bytes of a file or of a link's target; of a directory, a number that is never 0.
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

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Box<[u8]>,
    pub number: Number,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub number: Number,
    /// The path without symbolic links, relative to the image's root; empty for the root.
    pub path: Vec<u8>,
}

/// An open image: its tree in memory, its bytes in the tar. Cheap to share between threads.
pub struct Image {
    path: PathBuf,
    file: File,
    inodes: Vec<Inode>,
    /// Bytes of all files together.
    total: u64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} inodes)", self.path.display(), self.inodes.len())
    }
}

/// The longest name that Linux looks up, in bytes.
const NAME_MAX: usize = 255;
/// As many symbolic links as Linux follows on one path.
const MAX_LINKS: usize = 40;

impl Image {
    /// Reads the headers of the tar at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is cut short, or holds what an image cannot: sparse members, `..` in names, hard links
    /// to what is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let file = input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Image::from_file(path, file)
    }

    /// As [`Image::open`], of a file that is open already; `path` is only what errors name.
    pub fn from_file(path: &Path, file: File) -> Result<Self> {
        let in_place = || format!("cannot read the image {}", path.display());
        let length = file.metadata().input_context(in_place)?.len();
        let mut tree = Builder::new();
        let mut end = 0;
        let mut archive = tar::Archive::new(&file);
        for member in archive.entries_with_seek().input_context(in_place)? {
            let mut member = member.input_context(in_place)?;
            end = member
                .raw_file_position()
                .saturating_add(tree.add(&mut member).input_context(in_place)?);
            if end > length {
                return Err(cut_short(path, &member.path_bytes(), end, length));
            }
        }
        // A tar ends with zero blocks (at least one, whatever wrote it).
        if length < end.next_multiple_of(512) + 512 {
            return Err(cut_short(path, b"(end of archive)", end + 512, length));
        }
        let (inodes, total) = tree.finish();
        Ok(Image {
            path: path.to_path_buf(),
            file,
            inodes,
            total,
        })
    }

    /// Where the tar was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many inodes there are; their numbers are 1 to this.
    pub fn count(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// Bytes of all files together, each counted once.
    pub fn total_size(&self) -> u64 {
        self.total
    }

    pub fn inode(&self, number: Number) -> Option<&Inode> {
        self.inodes.get(number.position())
    }

    /// The entries of a directory; none of anything else.
    pub fn entries(&self, number: Number) -> &[Entry] {
        match self.inode(number) {
            Some(Inode {
                kind: Kind::Directory { entries, .. },
                ..
            }) => entries,
            _ => &[],
        }
    }

    /// The inode that `directory` has under `name`; `.` and `..` are no names here.
    pub fn lookup(&self, directory: Number, name: &[u8]) -> Option<Number> {
        let entries = self.entries(directory);
        let at = entries
            .binary_search_by(|entry| (*entry.name).cmp(name))
            .ok()?;
        Some(entries[at].number)
    }

    /// What `path` names, as `lstat` would: links are followed on the way, but not at its end.
    /// All paths are inside the image, with or without a leading slash.
    pub fn find(&self, path: impl AsRef<[u8]>) -> Option<Found> {
        self.walk_path(path.as_ref(), false)
    }

    /// What `path` leads to, as `stat` would.
    pub fn follow(&self, path: impl AsRef<[u8]>) -> Option<Found> {
        self.walk_path(path.as_ref(), true)
    }

    fn walk_path(&self, path: &[u8], follow_last: bool) -> Option<Found> {
        // Components still to go, the next one last; and the way from the root to here.
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

    /// Reads at most `buffer.len()` bytes of a file from `offset` on; 0 at its end, and for what is no file.
    ///
    /// # Errors
    /// If the tar cannot be read, or has become shorter than it was.
    pub fn read_at(&self, number: Number, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((start, length)) = self.extent(number, offset, buffer.len() as u64) else {
            return Ok(0);
        };
        let part = &mut buffer[..length as usize];
        self.file.read_exact_at(part, start)?;
        Ok(part.len())
    }

    /// Where in the tar the bytes from `offset` on lie, and how many of `length` there are; `None` past the end.
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

    /// The tar itself, for reads at the places that [`Image::extent`] tells.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A whole file. Empty for what is no file.
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

    /// Calls `visit` with the path (relative, empty for the root) of every name in the image, each directory before
    /// what is in it, sorted bytewise within a directory. A hard-linked file comes once for each name.
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

fn cut_short(path: &Path, member: &[u8], end: u64, length: u64) -> anyhow::Error {
    Fault::input(format!(
        "the image {} is cut short: `{}` ends at byte {end}, the file at byte {length}",
        path.display(),
        String::from_utf8_lossy(member)
    ))
    .remedy("build the image again")
    .into()
}

/// The tree while it grows: directories as maps, so that a member that comes twice is noticed.
struct Builder {
    inodes: Vec<Inode>,
    /// The children of each directory, by the directory's position; empty for anything else.
    children: Vec<BTreeMap<Box<[u8]>, Number>>,
}

impl Builder {
    fn new() -> Self {
        let mut tree = Builder {
            inodes: Vec::new(),
            children: Vec::new(),
        };
        let root = tree.push(implied_directory(Number::ROOT));
        debug_assert_eq!(root.ok(), Some(Number::ROOT));
        tree
    }

    /// Adds a member; returns how many bytes of data follow its header.
    fn add<R: io::Read>(&mut self, member: &mut tar::Entry<'_, R>) -> Result<u64> {
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
        let inode = inode_of(member, parent)?;
        let stored = match inode.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        };
        let known = self.children[parent.position()].get(*last).copied();
        match known {
            Some(known) if inode.is_directory() && self.inodes[known.position()].is_directory() => {
                self.inodes[known.position()] = inode;
            }
            _ => {
                let number = self.push(inode)?;
                self.enter(parent, last, number)?;
            }
        }
        Ok(stored)
    }

    fn set_root<R: io::Read>(&mut self, member: &mut tar::Entry<'_, R>) -> Result<u64> {
        let inode = inode_of(member, Number::ROOT)?;
        anyhow::ensure!(inode.is_directory(), "the image's root is not a directory");
        self.inodes[Number::ROOT.position()] = inode;
        Ok(0)
    }

    fn push(&mut self, inode: Inode) -> Result<Number> {
        self.inodes.push(inode);
        self.children.push(BTreeMap::new());
        Ok(Number(
            u32::try_from(self.inodes.len()).context("too many members")?,
        ))
    }

    /// Gives `number` a name. As with tar itself, a later member takes the place of an earlier one.
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

    /// The directory that these components name; missing ones are made, as tar would.
    fn directory(&mut self, components: &[&[u8]]) -> Result<Number> {
        let mut here = Number::ROOT;
        for component in components {
            here = match self.children[here.position()].get(*component) {
                Some(&known) => known,
                None => {
                    let made = self.push(implied_directory(here))?;
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

    /// The inodes with their entries and link counts, and the bytes of all files that have a name.
    fn finish(mut self) -> (Vec<Inode>, u64) {
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

/// A directory that the tar needs, but has no member for.
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

/// The names on the way to `path`; leading and repeated slashes and `.` are left out.
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

/// The whole seconds of the pax record `mtime`, if there is one; what lies before 1970 is 0.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    }

    fn small_tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind, mode, name: &str, data: &[u8], link: &str| {
            let mut header = header(kind, mode, data.len() as u64);
            if link.is_empty() {
                tar.append_data(&mut header, name, data).unwrap();
            } else {
                tar.append_link(&mut header, name, link).unwrap();
            }
        };
        add(EntryType::Directory, 0o1777, "./", b"", "");
        add(EntryType::Regular, 0o4755, "./usr/bin/su", b"elf", "");
        add(EntryType::Link, 0o4755, "usr/bin/sudo", b"", "usr/bin/su");
        add(EntryType::Symlink, 0o777, "bin", b"", "usr/bin");
        add(EntryType::Symlink, 0o777, "up", b"", "/usr/../bin/./su");
        add(EntryType::Symlink, 0o777, "loop", b"", "loop");
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        add(EntryType::Regular, 0o644, &long, b"far away", "");
        tar.into_inner().unwrap()
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
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = header(EntryType::Regular, 0o644, 0);
        header.as_gnu_mut().unwrap().name[..11].copy_from_slice(b"../../etc/x");
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
        let error = open(&tar.into_inner().unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains("`..` in a name"), "{error:#}");
    }
}
