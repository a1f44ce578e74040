//! Owns the cache of stages (`stages/<key>/`): found by the hash of all inputs, made once, by one
//! process at a time. Never knows what a stage does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::syncfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::sealing::{UNSYNCED, Unsealed};
use crate::dirs;
use crate::error::Fault;
use crate::output::write_atomically;

/// The inputs of a stage: a name and a digest of each, so that a changed input can be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub stage: String,
    inputs: BTreeMap<String, String>,
}

impl Key {
    /// `revision` is raised when the stage's code produces different output from the same inputs.
    pub fn new(stage: &str, revision: u32) -> Self {
        Key {
            stage: stage.to_string(),
            inputs: BTreeMap::new(),
        }
        .with("hearth", env!("CARGO_PKG_VERSION"))
        .with("revision", revision.to_string())
    }

    /// Adds an input; `name` is shown to the user.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        let digest = hex::encode(Sha256::digest(value));
        self.inputs.insert(name.into(), digest);
        self
    }

    /// The digest of the stage's name and all inputs, in hex.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.stage);
        for (name, value) in &self.inputs {
            // Neither contains a NUL, so that the boundaries are unambiguous.
            hash.update([0]);
            hash.update(name);
            hash.update([0]);
            hash.update(value);
        }
        hex::encode(hash.finalize())
    }

    /// Names of the inputs that differ in `before`.
    pub fn changed_since(&self, before: &Key) -> Vec<String> {
        self.inputs
            .keys()
            .chain(before.inputs.keys())
            .filter(|name| self.inputs.get(*name) != before.inputs.get(*name))
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

/// The stages below a cache directory.
#[derive(Clone, Debug)]
pub struct StageCache {
    stages: PathBuf,
    work: PathBuf,
}

/// Time after which the kernel has written nearly all data back, so that a sync is quick.
const WRITTEN_BY_ITSELF: Duration = Duration::from_secs(60);

/// A completed stage. It is not removed while this value lives (shared lock).
#[derive(Debug)]
pub struct Stored {
    pub path: PathBuf,
    _shared: Flock<File>,
}

/// A stage being made; no other process makes it meanwhile (exclusive lock).
#[derive(Debug)]
pub struct NewStage {
    /// An empty directory for the stage's output.
    pub path: PathBuf,
    place: PathBuf,
    lock: Flock<File>,
}

/// The result of [`StageCache::begin`].
#[derive(Debug)]
pub enum Begun {
    Done(Stored),
    ToDo(NewStage),
}

impl StageCache {
    /// # Errors
    /// If the cache cannot be written to.
    pub fn open(cache: &Path) -> Result<Self> {
        let store = StageCache {
            stages: cache.join("stages"),
            work: cache.join("tmp"),
        };
        dirs::make_private(cache)
            .with_context(|| format!("cannot make {} private", cache.display()))?;
        for directory in [&store.stages, &store.work] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        }
        Ok(store)
    }

    /// The stages of these keys that are there, with their digests.
    pub fn present(&self, keys: &[Key]) -> Vec<(PathBuf, String)> {
        let digests = keys.iter().map(Key::digest);
        digests
            .map(|digest| (self.stages.join(&digest), digest))
            .filter(|(place, _)| place.is_dir())
            .collect()
    }

    fn lock_file(&self, digest: &str) -> Result<File> {
        let path = self.stages.join(format!("{digest}.lock"));
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// Returns the stage if it is complete, else the exclusive right to make it; waits for another
    /// process that makes it.
    pub fn begin(&self, key: &Key) -> Result<Begun> {
        let digest = key.digest();
        let place = self.stages.join(&digest);
        if place.is_dir() {
            let shared = lock(self.lock_file(&digest)?, FlockArg::LockShared)?;
            // It may have been removed before the lock was taken.
            if place.is_dir() {
                return Ok(Begun::Done(Stored {
                    path: place,
                    _shared: shared,
                }));
            }
        }
        let lock = lock(self.lock_file(&digest)?, FlockArg::LockExclusive)?;
        if place.is_dir() {
            let shared = relock(lock)?;
            return Ok(Begun::Done(Stored {
                path: place,
                _shared: shared,
            }));
        }
        let path = self.work.join(format!("stage-{digest}"));
        // Files of a killed run may belong to subordinate ids: they are moved aside, for
        // `abandoned` to find.
        let _ = fs::rename(&path, self.aside(&digest));
        fs::create_dir(&path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Begun::ToDo(NewStage { path, place, lock }))
    }

    /// The path under which [`StageCache::abandoned`] finds the remains of a stage.
    fn aside(&self, digest: &str) -> PathBuf {
        let name = format!("stage-{digest}-{}", std::process::id());
        self.work.join(name)
    }

    /// Moves a damaged stage aside, for [`StageCache::abandoned`] to find.
    ///
    /// # Errors
    /// If another process uses it.
    pub fn discard(&self, stored: Stored) -> Result<()> {
        let Some(digest) = stored.path.file_name().and_then(|name| name.to_str()) else {
            return Ok(());
        };
        let path = stored.path.clone();
        drop(stored._shared);
        let Some(_lock) = try_lock(self.lock_file(digest)?)? else {
            bail!(
                Fault::infrastructure(format!(
                    "{} is not as it was made, and another run of hearth uses it",
                    path.display()
                ))
                .remedy("try again when that run has ended")
            );
        };
        fs::rename(&path, self.aside(digest))
            .with_context(|| format!("cannot put {} aside", path.display()))
    }

    /// Directories of killed runs, for stages that no process is making now, each with its lock.
    pub fn abandoned(&self) -> Result<Vec<(PathBuf, Flock<File>)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.work)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|name| name.strip_prefix("stage-")) else {
                continue;
            };
            if let Some(lock) = try_lock(self.lock_file(digest)?)? {
                found.push((entry.path(), lock));
            }
        }
        Ok(found)
    }

    /// Records the inputs of a recipe's stages; `owner` is the recipe's absolute path.
    pub fn remember(&self, owner: &Path, keys: &[&Key]) -> Result<()> {
        self.remember_for(&[owner.to_path_buf()], keys)
    }

    /// The same for stages that were made of several files: they are needed while all of these are there.
    pub fn remember_for(&self, owners: &[PathBuf], keys: &[&Key]) -> Result<()> {
        let mut owners = owners.iter();
        let memory = Memory {
            owner: owners.next().cloned().unwrap_or_default(),
            others: owners.cloned().collect(),
            keys: keys.iter().copied().cloned().collect(),
        };
        write_atomically(
            &self.memory(&memory.owners()),
            &serde_json::to_vec(&memory)?,
        )
    }

    /// The inputs of the recipe's stages as recorded last.
    pub fn remembered(&self, owner: &Path) -> Vec<Key> {
        self.remembered_for(&[owner.to_path_buf()])
    }

    /// What [`StageCache::remember_for`] has recorded last.
    pub fn remembered_for(&self, owners: &[PathBuf]) -> Vec<Key> {
        Memory::read(&self.memory(owners)).map_or_else(Vec::new, |memory| memory.keys)
    }

    fn memory(&self, owners: &[PathBuf]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let names: Vec<&[u8]> = owners
            .iter()
            .map(|path| path.as_os_str().as_bytes())
            .collect();
        let digest = hex::encode(Sha256::digest(names.join(&0)));
        self.stages.join(format!("{}.last", &digest[..16]))
    }

    /// Stages that no recipe's last build used and no process uses now, each with its lock.
    pub fn unused(&self) -> Result<Vec<(PathBuf, Flock<File>)>> {
        let mut stages = Vec::new();
        let mut used = std::collections::HashSet::new();
        for entry in fs::read_dir(&self.stages)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("last") => match Memory::read(&path) {
                    Some(memory) if memory.is_needed() => {
                        used.extend(memory.keys.iter().map(Key::digest));
                    }
                    // The recipe, or a file that was given, no longer exists.
                    _ => fs::remove_file(&path)?,
                },
                Some(_) => {}
                None => stages.push(path),
            }
        }
        let mut unused = Vec::new();
        for path in stages {
            let Some(digest) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !used.contains(digest)
                && let Some(lock) = try_lock(self.lock_file(digest)?)?
            {
                unused.push((path, lock));
            }
        }
        Ok(unused)
    }
}

/// The record of a recipe's last build.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    owner: PathBuf,
    #[serde(default)]
    others: Vec<PathBuf>,
    keys: Vec<Key>,
}

impl Memory {
    fn owners(&self) -> Vec<PathBuf> {
        std::iter::once(&self.owner)
            .chain(&self.others)
            .cloned()
            .collect()
    }

    /// Whether all that it was made of is there. A built-in recipe always is.
    fn is_needed(&self) -> bool {
        let owners = self.owners();
        let mut owners = owners.iter();
        owners.all(|owner| owner.starts_with("<hearth>") || owner.exists())
    }

    /// `None` if the file is missing or damaged: only the reason for a rebuild is lost.
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

impl Stored {
    /// Whether the stage is complete on the disk. Stages are not synced when they are made, as that
    /// takes longer than making them, so that one may have lost files if the host went down soon
    /// after.
    ///
    /// # Errors
    /// If a stage that is old enough cannot be synced.
    pub fn survived(&self) -> Result<bool> {
        let path = self.path.join(UNSYNCED);
        let Ok(mut file) = File::open(&path) else {
            return Ok(true);
        };
        let mut boot = String::new();
        if file.read_to_string(&mut boot).is_err() || boot != boot_id()? {
            return Ok(false);
        }
        let age = file.metadata()?.modified()?.elapsed();
        if age.is_ok_and(|age| age > WRITTEN_BY_ITSELF) {
            let failed = || format!("cannot sync {}", self.path.display());
            syncfs(File::open(&self.path)?).with_context(failed)?;
            match fs::remove_file(&path) {
                // Another process that uses the stage has removed the file already.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.with_context(failed)?,
            }
        }
        Ok(true)
    }
}

/// The boot id, which changes at each boot (random(4)).
fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

impl NewStage {
    /// Puts the finished stage into its place. The caller seals it; until then others wait for that.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn commit(self) -> Result<(Stored, Unsealed)> {
        let unsealed = Unsealed::begin(&self.path)?;
        let path = self.path.join(UNSYNCED);
        fs::write(&path, boot_id()?).with_context(|| format!("cannot write {}", path.display()))?;
        fs::rename(&self.path, &self.place)
            .with_context(|| format!("cannot put {} in its place", self.place.display()))?;
        let stored = Stored {
            path: self.place,
            _shared: relock(self.lock)?,
        };
        Ok((stored, unsealed))
    }
}

fn lock(file: File, how: FlockArg) -> Result<Flock<File>> {
    Flock::lock(file, how)
        .map_err(|(_, errno)| io::Error::from(errno))
        .context("cannot lock a stage of the cache")
}

/// The lock, or `None` if another process holds it.
fn try_lock(file: File) -> Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(io::Error::from(errno)).context("cannot lock a stage of the cache"),
    }
}

/// Downgrades the lock from exclusive to shared.
fn relock(lock: Flock<File>) -> Result<Flock<File>> {
    lock.relock(FlockArg::LockShared)
        .map_err(io::Error::from)
        .context("cannot lock a stage of the cache")?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_made_once_and_a_change_is_told_by_name() {
        let cache = tempfile::tempdir().unwrap();
        let store = StageCache::open(cache.path()).unwrap();
        let key = Key::new("unpack", 1).with("package busybox", "1.37");
        let Begun::ToDo(work) = store.begin(&key).unwrap() else {
            panic!("nothing was made yet");
        };
        assert!(store.abandoned().unwrap().is_empty(), "somebody is at it");
        fs::write(work.path.join("x"), "x").unwrap();
        work.commit().unwrap();
        let Begun::Done(stored) = store.begin(&key).unwrap() else {
            panic!("it was made");
        };
        assert!(stored.path.join("x").exists());
        assert!(store.unused().unwrap().is_empty(), "it is in use");
        drop(stored);
        assert_eq!(store.unused().unwrap().len(), 1);
        let recipe = cache.path().join("recipe.toml");
        fs::write(&recipe, "").unwrap();
        store.remember(&recipe, &[&key]).unwrap();
        assert!(store.unused().unwrap().is_empty(), "a recipe needs it");
        fs::remove_file(&recipe).unwrap();
        assert_eq!(store.unused().unwrap().len(), 1, "its recipe is gone");
        let newer = Key::new("unpack", 1).with("package busybox", "1.38");
        assert_eq!(newer.changed_since(&key), ["package busybox"]);
        assert_ne!(newer.digest(), key.digest());
    }

    #[test]
    fn a_stage_counts_after_a_restart_only_if_it_was_synced() {
        let cache = tempfile::tempdir().unwrap();
        let store = StageCache::open(cache.path()).unwrap();
        let Begun::ToDo(work) = store.begin(&Key::new("image", 1)).unwrap() else {
            panic!("nothing was made yet");
        };
        let (stored, _) = work.commit().unwrap();
        let mark = stored.path.join(UNSYNCED);
        assert!(stored.survived().unwrap());
        assert!(mark.exists(), "it is new");
        for before in ["", "11111111-2222-3333-4444-555555555555\n"] {
            fs::write(&mark, before).unwrap();
            assert!(!stored.survived().unwrap(), "made before the restart");
        }
        fs::write(&mark, boot_id().unwrap()).unwrap();
        let file = File::options().write(true).open(&mark).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * WRITTEN_BY_ITSELF;
        file.set_modified(long_ago).unwrap();
        assert!(stored.survived().unwrap());
        assert!(!mark.exists(), "it is synced now");
        assert!(stored.survived().unwrap());
    }

    #[test]
    fn what_a_killed_run_left_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let store = StageCache::open(cache.path()).unwrap();
        let Begun::ToDo(work) = store.begin(&Key::new("image", 1)).unwrap() else {
            panic!("nothing was made yet");
        };
        let path = work.path.clone();
        drop(work);
        let found = store.abandoned().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, path);
    }
}
