//! Owns access to files below a root directory, such that no name and no symbolic link leads out of
//! it.
//! Never follows a link in the last component.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat,
};

/// How many directories are kept open.
const OPEN_DIRECTORIES: usize = 64;

/// Owner, mode and time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Unix seconds.
    pub mtime: i64,
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// A directory tree. Paths are relative (a leading `/` is the tree's root); directories in them are
/// resolved by the kernel as if the tree were the root of the file system (openat2(2),
/// `RESOLVE_IN_ROOT`), so that absolute links and `..` stay inside.
///
/// For use by one thread: it caches open directories.
pub struct Tree {
    root: Rc<OwnedFd>,
    open: HashMap<PathBuf, Rc<OwnedFd>>,
}

impl Tree {
    /// # Errors
    /// If `path` is no directory.
    pub fn open(path: &Path) -> Result<Self> {
        let root = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Tree {
            root: Rc::new(root.into()),
            open: HashMap::new(),
        })
    }

    /// The directory `path`, which must exist.
    fn directory(&mut self, path: &Path) -> nix::Result<Rc<OwnedFd>> {
        if path.as_os_str().is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(open) = self.open.get(path) {
            return Ok(Rc::clone(open));
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let directory = Rc::new(openat2(&*self.root, path, how)?);
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.clear();
        }
        self.open.insert(path.to_path_buf(), Rc::clone(&directory));
        Ok(directory)
    }

    /// The directory that contains `path`, and its last component.
    fn locate(&mut self, path: &Path) -> nix::Result<(Rc<OwnedFd>, OsString)> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let parent = path.parent().unwrap_or(Path::new(""));
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(Errno::EINVAL);
        };
        Ok((self.directory(parent)?, name.to_os_string()))
    }

    /// Creates the directory `path` and its missing parents, with mode 0755 and owner root; returns
    /// whether it was missing. A symbolic link to a directory counts as one.
    pub fn make_directory(&mut self, path: &Path) -> io::Result<bool> {
        let path = path.strip_prefix("/").unwrap_or(path);
        match self.directory(path) {
            Ok(_) => return Ok(false),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(parent) = path.parent() {
            self.make_directory(parent)?;
        }
        let (parent, name) = self.locate(path)?;
        match mkdirat(&*parent, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Independent of the caller's umask.
        let made = openat(
            &*parent,
            name.as_os_str(),
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        fchmod(&made, Mode::from_bits_truncate(0o755))?;
        Ok(true)
    }

    fn make_parent(&mut self, path: &Path) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(parent) = path.parent() {
            self.make_directory(parent)?;
        }
        Ok(())
    }

    /// Writes a new file; fails with `ErrorKind::AlreadyExists` if the name exists. Creates missing
    /// parents. `inspect` is called with the data as it is copied.
    pub fn create(
        &mut self,
        path: &Path,
        attributes: Attributes,
        content: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let (parent, name) = match self.locate(path) {
            Err(Errno::ENOENT) => {
                self.make_parent(path)?;
                self.locate(path)?
            }
            other => other?,
        };
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(
            &*parent,
            name.as_os_str(),
            flags,
            Mode::from_bits_truncate(0o600),
        )?;
        let mut file = File::from(file);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            inspect(&buffer[..read]);
            file.write_all(&buffer[..read])?;
        }
        set_attributes(&file, attributes)
    }

    /// Like [`Tree::create`], but atomically replaces an existing file of that name.
    pub fn replace(
        &mut self,
        path: &Path,
        attributes: Attributes,
        content: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let beside = beside(path);
        self.remove_file(&beside)?;
        self.create(&beside, attributes, content, inspect)?;
        self.rename(&beside, path)
    }

    /// [`Tree::replace`] for data in memory; the file is owned by root.
    pub fn write(
        &mut self,
        path: impl AsRef<Path>,
        mode: u32,
        data: &[u8],
        mtime: i64,
    ) -> Result<()> {
        let attributes = Attributes {
            uid: 0,
            gid: 0,
            mode,
            mtime,
        };
        let path = path.as_ref();
        self.replace(path, attributes, &mut &*data, &mut |_| {})
            .with_context(|| format!("cannot write {} of the image", path.display()))
    }

    /// The content of a file; `None` if there is none.
    pub fn read(&mut self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let mut data = Vec::new();
        match self.open_file(path) {
            Ok(mut file) => {
                file.read_to_end(&mut data)
                    .with_context(|| format!("cannot read {} of the image", path.display()))?;
                Ok(Some(data))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read {} of the image", path.display()))
            }
        }
    }

    /// [`Tree::read`] for text; invalid UTF-8 is replaced. Empty if there is no file.
    pub fn read_text(&mut self, path: impl AsRef<Path>) -> Result<String> {
        let data = self.read(path)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&data).into_owned())
    }

    /// Opens a file for reading; does not follow a link in the last component.
    pub fn open_file(&mut self, path: &Path) -> io::Result<File> {
        let (parent, name) = self.locate(path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&*parent, name.as_os_str(), flags, Mode::empty())?;
        Ok(File::from(file))
    }

    /// Creates a symbolic link; fails with `ErrorKind::AlreadyExists` if the name exists.
    pub fn symlink(
        &mut self,
        path: &Path,
        target: &Path,
        attributes: Attributes,
    ) -> io::Result<()> {
        self.make_parent(path)?;
        let (parent, name) = self.locate(path)?;
        symlinkat(target, &*parent, name.as_os_str())?;
        fchownat(
            &*parent,
            name.as_os_str(),
            Some(Uid::from_raw(attributes.uid)),
            Some(Gid::from_raw(attributes.gid)),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let time = TimeSpec::new(attributes.mtime, 0);
        utimensat(
            &*parent,
            name.as_os_str(),
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )?;
        Ok(())
    }

    /// Creates a symbolic link, replacing an existing file or link.
    pub fn replace_with_symlink(
        &mut self,
        path: &Path,
        target: &Path,
        attributes: Attributes,
    ) -> io::Result<()> {
        let beside = beside(path);
        self.remove_file(&beside)?;
        self.symlink(&beside, target, attributes)?;
        self.rename(&beside, path)
    }

    /// Creates `path` as a hard link to the file `existing`.
    pub fn hard_link(&mut self, existing: &Path, path: &Path) -> io::Result<()> {
        let (from, from_name) = self.locate(existing)?;
        self.make_parent(path)?;
        let (to, to_name) = self.locate(path)?;
        linkat(
            &*from,
            from_name.as_os_str(),
            &*to,
            to_name.as_os_str(),
            LinkatFlags::empty(),
        )?;
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, from_name) = self.locate(from)?;
        let (to, to_name) = self.locate(to)?;
        renameat(&*from, from_name.as_os_str(), &*to, to_name.as_os_str())?;
        Ok(())
    }

    /// Removes a file or link; does nothing if there is none.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let gone = self.locate(path).and_then(|(parent, name)| {
            unlinkat(&*parent, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
        });
        match gone {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file, a link, or a directory recursively.
    pub fn remove_all(&mut self, path: &Path) -> io::Result<()> {
        match self.kind(path) {
            Some(Kind::Directory) => {}
            Some(_) => return self.remove_file(path),
            None => return Ok(()),
        }
        for name in self.list(path)? {
            self.remove_all(&path.join(name))?;
        }
        self.open.clear();
        let (parent, name) = self.locate(path)?;
        unlinkat(&*parent, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
        Ok(())
    }

    /// Removes everything below the root.
    pub fn clear(&mut self) -> io::Result<()> {
        for name in self.list(Path::new(""))? {
            self.remove_all(Path::new(&name))?;
        }
        Ok(())
    }

    /// The names in a directory, sorted bytewise.
    pub fn list(&mut self, path: &Path) -> io::Result<Vec<OsString>> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let directory = self.directory(path)?;
        let readable = openat(
            &*directory,
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(readable)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(std::ffi::OsStr::from_bytes(name).to_os_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The type of `path`, links not followed; `None` if it does not exist.
    pub fn kind(&mut self, path: &Path) -> Option<Kind> {
        self.stat(path).ok().map(|stat| kind_of(&stat))
    }

    /// As lstat(2).
    pub fn stat(&mut self, path: &Path) -> io::Result<FileStat> {
        let (parent, name) = self.locate(path)?;
        Ok(fstatat(
            parent.as_fd(),
            name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?)
    }

    /// The target of a symbolic link; `None` if `path` is none.
    pub fn link_target(&mut self, path: &Path) -> Option<PathBuf> {
        let (parent, name) = self.locate(path).ok()?;
        readlinkat(&*parent, name.as_os_str())
            .ok()
            .map(PathBuf::from)
    }

    /// Sets owner, mode and time of a file or directory (not a link).
    pub fn set_attributes(&mut self, path: &Path, attributes: Attributes) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = if path.as_os_str().is_empty() {
            openat(&*self.root, ".", flags, Mode::empty())?
        } else {
            let (parent, name) = self.locate(path)?;
            openat(
                &*parent,
                name.as_os_str(),
                flags | OFlag::O_NOFOLLOW,
                Mode::empty(),
            )?
        };
        set_attributes(&File::from(file), attributes)
    }
}

fn set_attributes(file: &File, attributes: Attributes) -> io::Result<()> {
    fchown(
        file,
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )?;
    // After the owner: chown(2) clears setuid.
    fchmod(file, Mode::from_bits_truncate(attributes.mode & 0o7777))?;
    let time = TimeSpec::new(attributes.mtime, 0);
    futimens(file, &time, &time)?;
    Ok(())
}

/// The type according to lstat(2).
pub fn kind_of(stat: &FileStat) -> Kind {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link,
        _ => Kind::Other,
    }
}

/// A temporary name in the same directory for the replacement of `path`; the one that dpkg uses.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".dpkg-tmp");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn mine(mode: u32) -> Attributes {
        Attributes {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            mode,
            mtime: 1_000_000,
        }
    }

    #[test]
    fn links_and_dots_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let tree = outside.path().join("tree");
        fs::create_dir(&tree).unwrap();
        symlink(outside.path(), tree.join("absolute")).unwrap();
        symlink("../..", tree.join("up")).unwrap();
        let mut root = Tree::open(&tree).unwrap();
        let mut create =
            |name| root.create(Path::new(name), mine(0o644), &mut &b"x"[..], &mut |_| {});
        create("absolute/a").expect_err("the tree has nothing where the link leads");
        create("up/b").unwrap();
        create("up/../../c").unwrap();
        let left: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "only the tree itself: {left:?}");
        for name in ["b", "c"] {
            assert!(tree.join(name).exists(), "`..` of the root is the root");
        }
    }

    #[test]
    fn a_last_component_that_is_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("target"), "old").unwrap();
        symlink("target", dir.path().join("link")).unwrap();
        let mut root = Tree::open(dir.path()).unwrap();
        let exists = root
            .create(Path::new("link"), mine(0o644), &mut &b"x"[..], &mut |_| {})
            .unwrap_err();
        assert_eq!(exists.kind(), io::ErrorKind::AlreadyExists);
        root.replace(Path::new("link"), mine(0o4755), &mut &b"x"[..], &mut |_| {})
            .unwrap();
        assert_eq!(fs::read(dir.path().join("target")).unwrap(), b"old");
        let stat = root.stat(Path::new("link")).unwrap();
        assert_eq!((stat.st_mode & 0o7777, stat.st_mtime), (0o4755, 1_000_000));
    }

    #[test]
    fn removing_a_tree_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("keep"), "").unwrap();
        symlink("..", dir.path().join("a/up")).unwrap();
        let mut root = Tree::open(dir.path()).unwrap();
        root.remove_all(Path::new("a")).unwrap();
        assert!(dir.path().join("keep").exists() && !dir.path().join("a").exists());
    }
}
