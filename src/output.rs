//! Owns how results reach the disk: whole or not at all. Never truncates what is already there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, RenameFlags, renameat2};
use nix::unistd::linkat;
use tempfile::{NamedTempFile, TempDir, TempPath};

use crate::error::Fault;
use crate::input;

mod destination;

use destination::Destination;
pub use destination::{refuse_inputs, refuse_other_than_card};

/// A file that appears under its name only by [`AtomicFile::commit`]: it is written without a name, synced, and then
/// takes its place. Dropping it, or killing hearth, leaves what was there before and nothing else. (Where the file
/// system has no nameless files, as FAT, it is a `.hearth-…` beside its place, which a kill leaves behind.)
///
/// A link keeps its place: what it leads to is replaced. Only what the caller has opened itself (`/dev/stdout`, `/dev/fd/5`)
/// and `/dev/null` are written directly; everything else that is no regular file is refused.
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
    /// If the directory does not exist or cannot be written to, or `path` is something else than a file.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let (target, sink) = match Destination::of(path)? {
            Destination::File(target) => {
                let sink = unfinished(parent_of(&target)).with_context(failed)?;
                (target, sink)
            }
            Destination::Stream => {
                let file = File::options()
                    .write(true)
                    .open(path)
                    .with_context(failed)?;
                let sink = Sink::Direct(BufWriter::with_capacity(1 << 16, file));
                (path.to_path_buf(), sink)
            }
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
        let Destination::File(path) = Destination::of(path)? else {
            return Err(Fault::input(format!("{} is not a file", path.display())).into());
        };
        if input::read(&path).is_ok_and(|existing| existing == data) {
            self.unchanged += 1;
            return Ok(());
        }
        let parent = parent_of(&path);
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".hearth-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(parent)
            .with_context(failed)?;
        file.write_all(data).with_context(failed)?;
        self.beside.push((file.into_temp_path(), path));
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

/// What an [`AtomicDir`] may take the place of, besides an empty directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    Nothing,
    /// What hearth has made, as a `manifest.json` of hearth's tells: it names every file that is there.
    Output,
}

/// A directory that appears under its name only by [`AtomicDir::commit`]. Dropping it removes it.
#[derive(Debug)]
pub struct AtomicDir {
    /// Where a symbolic link leads to: the link keeps its place.
    path: PathBuf,
    beside: TempDir,
    replaces: Replaces,
    /// Tells other runs that somebody is at it; see [`sweep`].
    _lock: Flock<File>,
}

/// What [`AtomicDir`] calls directories that are not whole yet, or that it has just replaced.
const BESIDE: &str = ".hearth-dir-";

impl AtomicDir {
    /// Missing parents of `path` are made. What a killed run has left beside it is removed.
    ///
    /// # Errors
    /// If something is at `path` that may not be replaced, or its directory cannot be written to.
    pub fn create(path: &Path, replaces: Replaces) -> Result<Self> {
        refuse_foreign(path, path, replaces)?;
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let parent = parent_of(&path);
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
        sweep(parent);
        let beside = tempfile::Builder::new()
            .prefix(BESIDE)
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .with_context(|| format!("cannot write in {}", parent.display()))?;
        let lock = Flock::lock(File::open(beside.path())?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))
            .with_context(|| format!("cannot lock {}", beside.path().display()))?;
        Ok(AtomicDir {
            path,
            beside,
            replaces,
            _lock: lock,
        })
    }

    /// Where to put the files.
    pub fn path(&self) -> &Path {
        self.beside.path()
    }

    /// Puts the directory in its place; what was there before is exchanged in one step, then removed.
    ///
    /// # Errors
    /// As [`AtomicDir::create`], if what is at the path has changed meanwhile; it is then left as it is.
    pub fn commit(self) -> Result<()> {
        let failed = || format!("cannot put {} in its place", self.path.display());
        nix::unistd::syncfs(File::open(self.beside.path())?).with_context(failed)?;
        let beside = self.beside.path().to_path_buf();
        match renameat2(
            AT_FDCWD,
            &beside,
            AT_FDCWD,
            &self.path,
            RenameFlags::RENAME_NOREPLACE,
        ) {
            Ok(()) => {
                let _ = self.beside.keep();
                return sync_directory(parent_of(&self.path)).with_context(failed);
            }
            Err(Errno::EEXIST) => {}
            // Not every file system knows the flag.
            Err(Errno::EINVAL) if fs::symlink_metadata(&self.path).is_err() => {
                fs::rename(self.beside.keep(), &self.path).with_context(failed)?;
                return sync_directory(parent_of(&self.path)).with_context(failed);
            }
            Err(errno) => return Err(errno).with_context(failed),
        }
        let exchange = || {
            renameat2(
                AT_FDCWD,
                &beside,
                AT_FDCWD,
                &self.path,
                RenameFlags::RENAME_EXCHANGE,
            )
            .with_context(failed)
        };
        refuse_foreign(&self.path, &self.path, self.replaces)?;
        exchange()?;
        // Whoever put something else there between the look and the exchange gets it back.
        if let Err(error) = refuse_foreign(&beside, &self.path, self.replaces) {
            exchange()?;
            return Err(error);
        }
        sync_directory(parent_of(&self.path)).with_context(failed)?;
        self.beside.close().with_context(failed)
    }
}

/// Refuses, before long work, a directory that is no output of hearth's at all. A file too many in one that is up to date
/// does no harm.
///
/// # Errors
/// As [`AtomicDir::create`].
pub fn refuse_no_output(path: &Path) -> Result<()> {
    if names_in_manifest(path).is_some() {
        return Ok(());
    }
    refuse_foreign(path, path, Replaces::Output)
}

/// Refuses what hearth must not remove, at `place`, which the user calls `name`.
fn refuse_foreign(place: &Path, name: &Path, replaces: Replaces) -> Result<()> {
    let Ok(meta) = fs::metadata(place) else {
        return match fs::symlink_metadata(place) {
            Ok(_) => Err(foreign(name, "is a link that leads nowhere")),
            Err(_) => Ok(()),
        };
    };
    if !meta.is_dir() {
        return Err(foreign(name, "is not a directory"));
    }
    let failed = || format!("cannot read {}", name.display());
    let is_empty = fs::read_dir(place).with_context(failed)?.next().is_none();
    match replaces {
        _ if is_empty => Ok(()),
        Replaces::Nothing => Err(foreign(name, "is not empty")),
        Replaces::Output => {
            let Some(names) = names_in_manifest(place) else {
                return Err(foreign(name, "is not empty and not an output of hearth's"));
            };
            match unnamed(place, Path::new(""), &names).with_context(failed)? {
                Some(file) => Err(foreign(
                    name,
                    &format!("holds {}, which hearth did not put there", file.display()),
                )),
                None => Ok(()),
            }
        }
    }
}

fn foreign(name: &Path, why: &str) -> anyhow::Error {
    Fault::input(format!("{} {why}: it is not replaced", name.display()))
        .remedy("name a new directory, or move away what is there")
        .into()
}

/// The file of an output directory that says what is in it.
const MANIFEST: &str = "manifest.json";

/// What a manifest of hearth's lists; nothing for a file of that name that somebody else has made.
fn names_in_manifest(directory: &Path) -> Option<BTreeSet<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Manifest {
        #[serde(rename = "hearth")]
        _version: String,
        artifacts: BTreeMap<PathBuf, serde::de::IgnoredAny>,
    }
    let path = directory.join(MANIFEST);
    if !fs::symlink_metadata(&path).ok()?.is_file() {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let mut names: BTreeSet<PathBuf> = manifest.artifacts.into_keys().collect();
    names.insert(MANIFEST.into());
    Some(names)
}

/// The first file below `directory` that is not among `names`.
fn unnamed(
    directory: &Path,
    below: &Path,
    names: &BTreeSet<PathBuf>,
) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if let Some(found) = unnamed(directory, &path, names)? {
                return Ok(Some(found));
            }
        } else if !names.contains(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Removes what killed runs have left in a directory: nobody holds its lock. What cannot be removed stays.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(BESIDE.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_ours {
            continue;
        }
        let path = entry.path();
        let lock = File::open(&path).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        if let Ok(Ok(_lock)) = lock
            && let Err(error) = fs::remove_dir_all(&path)
        {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
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

    fn put(path: &Path, name: &str) -> Result<()> {
        let out = AtomicDir::create(path, Replaces::Output)?;
        fs::write(out.path().join(name), name).unwrap();
        let manifest = format!("{{\"hearth\": \"1\", \"artifacts\": {{\"{name}\": {{}}}}}}");
        fs::write(out.path().join(MANIFEST), manifest).unwrap();
        out.commit()
    }

    #[test]
    fn a_directory_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::create_dir(&path).unwrap();
        put(&path, "one").unwrap();
        put(&path, "two").unwrap();
        assert!(path.join("two").exists() && !path.join("one").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // A link stays one.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        put(&link, "three").unwrap();
        assert!(link.is_symlink() && path.join("three").exists());
    }

    #[test]
    fn what_hearth_did_not_make_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docs");
        let thesis = path.join("thesis.odt");
        for manifest in [
            None,
            Some("{}"),
            Some("{\"hearth\": \"1\", \"artifacts\": {}}"),
        ] {
            fs::create_dir_all(&path).unwrap();
            fs::write(&thesis, "five years").unwrap();
            if let Some(text) = manifest {
                fs::write(path.join(MANIFEST), text).unwrap();
            }
            let error = put(&path, "x").unwrap_err();
            assert!(error.to_string().contains("not replaced"), "{error}");
            assert_eq!(fs::read(&thesis).unwrap(), b"five years");
        }
        for place in ["/", "/etc", "/etc/passwd"] {
            assert!(AtomicDir::create(Path::new(place), Replaces::Output).is_err());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_comes_between_the_question_and_the_exchange_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = AtomicDir::create(&path, Replaces::Output).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("thesis.odt"), "five years").unwrap();
        assert!(out.commit().is_err());
        assert_eq!(fs::read(path.join("thesis.odt")).unwrap(), b"five years");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_beside_goes_and_what_is_being_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(format!("{BESIDE}left"));
        fs::create_dir_all(left.join("deep")).unwrap();
        let busy = AtomicDir::create(&dir.path().join("a"), Replaces::Output).unwrap();
        put(&dir.path().join("b"), "x").unwrap();
        assert!(!left.exists() && busy.path().exists());
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
}
