//! Owns how results reach the disk: whole or not at all. Never truncates what is already there.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;
use tempfile::{NamedTempFile, TempDir, TempPath};

/// A file that appears under its name only by [`AtomicFile::commit`]: it is written without a name, synced, and then
/// takes its place. Dropping it, or killing hearth, leaves what was there before and nothing else. (Where the file
/// system has no nameless files, as FAT, it is a `.hearth-…` beside its place, which a kill leaves behind.)
///
/// `/dev/stdout`, `/dev/null`, pipes and other special files are written directly, since a rename would
/// replace them.
#[derive(Debug)]
pub struct AtomicFile {
    /// As the user calls it.
    name: PathBuf,
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Nameless(BufWriter<File>),
    Beside(BufWriter<NamedTempFile>),
    Direct(BufWriter<File>),
}

impl AtomicFile {
    /// # Errors
    /// If the directory does not exist or cannot be written to, or `path` is a directory.
    pub fn create(path: &Path) -> Result<Self> {
        // A symbolic link keeps its place; what it points at is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let sink = match fs::metadata(&target) {
            Ok(meta) if meta.is_dir() => {
                return Err(crate::error::Fault::input(format!(
                    "{} is a directory, not a file to write",
                    path.display()
                ))
                .into());
            }
            Ok(meta) if is_special(&meta) => {
                let file = File::options()
                    .write(true)
                    .open(&target)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Sink::Direct(BufWriter::with_capacity(1 << 16, file))
            }
            _ => unfinished(parent_of(&target))
                .with_context(|| format!("cannot write {}", path.display()))?,
        };
        Ok(AtomicFile {
            name: path.to_path_buf(),
            path: target,
            sink,
        })
    }

    /// The file under construction, for callers that seek or reserve space. Flushes what is buffered.
    pub fn file(&mut self) -> io::Result<&File> {
        self.flush()?;
        Ok(match &self.sink {
            Sink::Beside(file) => file.get_ref().as_file(),
            Sink::Nameless(file) => file.get_ref(),
            Sink::Direct(file) => file.get_ref(),
        })
    }

    /// Flushes, syncs, and puts the file into its place.
    pub fn commit(mut self) -> Result<()> {
        self.flush()
            .and_then(|()| self.sink.commit(&self.path))
            .with_context(|| format!("cannot write {}", self.name.display()))
    }
}

impl Sink {
    fn commit(self, path: &Path) -> io::Result<()> {
        let named = match self {
            Sink::Direct(_) => return Ok(()),
            Sink::Beside(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.as_file().sync_all()?;
                file.into_temp_path()
            }
            Sink::Nameless(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.sync_all()?;
                give_name(&file, parent_of(path))?
            }
        };
        named.persist(path).map_err(|failed| failed.error)?;
        sync_directory(parent_of(path))
    }
}

/// A file on the file system of `dir` that is still to get its name.
fn unfinished(dir: &Path) -> io::Result<Sink> {
    const BUFFER: usize = 1 << 16;
    let nameless = File::options()
        .read(true)
        .write(true)
        .mode(0o666)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(dir);
    // A nameless file gets its name by way of /proc.
    if let Ok(file) = nameless
        && fs::exists(link_to(&file)).unwrap_or(false)
    {
        return Ok(Sink::Nameless(BufWriter::with_capacity(BUFFER, file)));
    }
    let file = tempfile::Builder::new()
        .prefix(".hearth-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)?;
    Ok(Sink::Beside(BufWriter::with_capacity(BUFFER, file)))
}

fn link_to(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Names a nameless file, so that it can be renamed over one that exists.
fn give_name(file: &File, dir: &Path) -> io::Result<TempPath> {
    let link = link_to(file);
    let named = tempfile::Builder::new()
        .prefix(".hearth-")
        .make_in(dir, |name| {
            linkat(AT_FDCWD, &link, AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW)
                .map_err(io::Error::from)
        })?;
    Ok(named.into_temp_path())
}

impl Write for AtomicFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Beside(file) => file.write(data),
            Sink::Nameless(file) => file.write(data),
            Sink::Direct(file) => file.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Beside(file) => file.flush(),
            Sink::Nameless(file) => file.flush(),
            Sink::Direct(file) => file.flush(),
        }
    }
}

/// Writes `data` to `path`, whole or not at all.
pub fn write_atomically(path: &Path, data: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(data)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

/// Many small files that are put in their places together: all are written beside them and synced once,
/// then renamed one after the other. A failure before the first rename leaves everything as it was.
///
/// A file that has the right contents already is not touched. A kill may leave `.hearth-…` files beside their places.
#[derive(Debug, Default)]
pub struct Batch {
    beside: Vec<(TempPath, PathBuf)>,
    unchanged: usize,
}

impl Batch {
    /// Missing directories are made.
    pub fn add(&mut self, path: &Path, data: &[u8]) -> Result<()> {
        let failed = || format!("cannot write {}", path.display());
        if fs::read(path).is_ok_and(|existing| existing == data) {
            self.unchanged += 1;
            return Ok(());
        }
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory)).with_context(failed);
        }
        let parent = parent_of(path);
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".hearth-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(parent)
            .with_context(failed)?;
        file.write_all(data).with_context(failed)?;
        self.beside
            .push((file.into_temp_path(), path.to_path_buf()));
        Ok(())
    }

    /// Puts the files in their places. Returns how many were written and how many were right already.
    pub fn commit(self) -> Result<(usize, usize)> {
        let Some((_, last)) = self.beside.last() else {
            return Ok((0, self.unchanged));
        };
        let directory = parent_of(last).to_path_buf();
        let sync = || -> Result<()> {
            nix::unistd::syncfs(File::open(&directory)?)
                .with_context(|| format!("cannot sync {}", directory.display()))
        };
        sync()?;
        let written = self.beside.len();
        for (file, path) in self.beside {
            file.persist(&path)
                .map_err(|failed| failed.error)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        sync()?;
        Ok((written, self.unchanged))
    }
}

/// A directory that appears under its name only by [`AtomicDir::commit`]. Dropping it removes it.
#[derive(Debug)]
pub struct AtomicDir {
    path: PathBuf,
    beside: TempDir,
}

impl AtomicDir {
    /// Missing parents of `path` are made.
    pub fn create(path: &Path) -> Result<Self> {
        let parent = parent_of(path);
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
        let beside = tempfile::Builder::new()
            .prefix(".hearth-")
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .with_context(|| format!("cannot write in {}", parent.display()))?;
        Ok(AtomicDir {
            path: path.to_path_buf(),
            beside,
        })
    }

    /// Where to put the files.
    pub fn path(&self) -> &Path {
        self.beside.path()
    }

    /// Puts the directory in its place; what was there before is exchanged in one step, then removed.
    pub fn commit(self) -> Result<()> {
        use nix::fcntl::{RenameFlags, renameat2};
        let failed = || format!("cannot put {} in its place", self.path.display());
        nix::unistd::syncfs(File::open(self.beside.path())?).with_context(failed)?;
        if fs::symlink_metadata(&self.path).is_ok() {
            renameat2(
                AT_FDCWD,
                self.beside.path(),
                AT_FDCWD,
                &self.path,
                RenameFlags::RENAME_EXCHANGE,
            )
            .with_context(failed)?;
            sync_directory(parent_of(&self.path)).with_context(failed)?;
            self.beside.close().with_context(failed)
        } else {
            let made = self.beside.keep();
            fs::rename(&made, &self.path).with_context(failed)?;
            sync_directory(parent_of(&self.path)).with_context(failed)
        }
    }
}

fn is_special(meta: &fs::Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket()
}

/// The directory that holds `path`; `.` for a bare file name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename in `directory` last through a power cut.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_batch_appears_together_and_leaves_what_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("x/a"), dir.path().join("b"));
        let mut batch = Batch::default();
        batch.add(&a, b"1").unwrap();
        batch.add(&b, b"2").unwrap();
        assert!(!a.exists());
        assert_eq!(batch.commit().unwrap(), (2, 0));
        let mut batch = Batch::default();
        batch.add(&a, b"1").unwrap();
        batch.add(&b, b"3").unwrap();
        assert!(batch.add(dir.path(), b"").is_err());
        assert_eq!(batch.commit().unwrap(), (1, 1));
        assert_eq!(fs::read(&b).unwrap(), b"3");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for generation in ["one", "two"] {
            let out = AtomicDir::create(&path).unwrap();
            fs::write(out.path().join(generation), generation).unwrap();
            out.commit().unwrap();
        }
        assert!(path.join("two").exists() && !path.join("one").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_file_has_no_name_and_gets_the_usual_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        // So that nothing is left where hearth is killed just now.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        file.commit().unwrap();
        let plain = dir.path().join("plain");
        File::create(&plain).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn a_device_is_written_not_replaced() {
        write_atomically(Path::new("/dev/null"), b"x").unwrap();
        assert!(is_special(&fs::metadata("/dev/null").unwrap()));
    }
}
