//! Owns the content-addressed store of downloaded files, shared between recipes and processes of one cache.
//! Never fetches anything, and never takes a file for what its name says.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use sha2::Digest;

use super::hash::hash_rest;
use super::verified::{Stamp, Verified};
use crate::dirs;

/// By what a file is taken for what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Hash,
    Stamp,
}

/// Files by their SHA-256, in `blobs/sha256/<2 hex>/<hex>`, never changed once they are there.
/// Unfinished downloads are `tmp/<hex>.part` and are resumed by the next attempt.
///
/// A file is hashed when it is taken. Which files were hashed is in `verified`, so that [`Cache::get`] need not do so again
/// while neither inode, size nor times have changed. Clones share what they know of that.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    verified: Arc<Mutex<Verified>>,
}

impl Default for Cache {
    /// The user's cache.
    fn default() -> Self {
        Cache::at(dirs::cache())
    }
}

impl Cache {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let verified = Verified::load(root.join("verified"));
        Cache {
            root,
            verified: Arc::new(Mutex::new(verified)),
        }
    }

    /// Where the file with this hash (64 lower-case hex digits) is or would be.
    pub fn path(&self, sha256: &str) -> PathBuf {
        let directory = sha256.get(..2).unwrap_or("xx");
        self.root.join("blobs/sha256").join(directory).join(sha256)
    }

    /// The file with this hash and size, if it is there. One that is something else is removed.
    ///
    /// # Errors
    /// If it cannot be read, or not be removed.
    pub fn get(&self, sha256: &str, size: u64) -> Result<Option<PathBuf>> {
        self.find(sha256, size, Trust::Stamp)
    }

    /// As [`Cache::get`], but hashes the file in any case.
    pub fn get_hashed(&self, sha256: &str, size: u64) -> Result<Option<PathBuf>> {
        self.find(sha256, size, Trust::Hash)
    }

    fn find(&self, sha256: &str, size: u64, trust: Trust) -> Result<Option<PathBuf>> {
        let path = self.path(sha256);
        let failed = || format!("cannot read {}", path.display());
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(failed)?,
        };
        let stamp = Stamp::of(&file).with_context(failed)?;
        if trust == Trust::Stamp && stamp.size == size && self.verified().knows(sha256, &stamp) {
            return Ok(Some(path));
        }
        let is_right = stamp.size == size && {
            let (hash, _) = hash_rest(&mut file).with_context(failed)?;
            hex::encode(hash.finalize()) == sha256
        };
        if is_right {
            self.verified().add(sha256, stamp);
            return Ok(Some(path));
        }
        log::warn!(
            "{} is not what its name says: it was changed by somebody, and is fetched again",
            path.display()
        );
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(None)
    }

    /// Keeps what was hashed, for the next run.
    pub fn remember(&self) {
        if let Err(error) = self.verified().save() {
            log::info!("{error:#}; files of the cache will be hashed again");
        }
    }

    fn verified(&self) -> MutexGuard<'_, Verified> {
        // What a thread that panicked has left of it is whole.
        self.verified
            .lock()
            .unwrap_or_else(|error| error.into_inner())
    }

    /// Opens the partial download of this file, locked against other processes and threads; waits
    /// for the lock. Returns `None` if the file is complete by then.
    pub fn begin(&self, sha256: &str, size: u64) -> Result<Option<Part>> {
        let tmp = self.root.join("tmp");
        fs::create_dir_all(&tmp)
            .with_context(|| format!("cannot make the directory {}", tmp.display()))?;
        let path = tmp.join(format!("{sha256}.part"));
        loop {
            if self.get(sha256, size)?.is_some() {
                return Ok(None);
            }
            let failed = || format!("cannot write {}", path.display());
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(failed)?;
            file.lock().with_context(failed)?;
            // Another holder of the lock may have completed this file in the meantime.
            if is_same_file(&file, &path).with_context(failed)? {
                return Ok(Some(Part {
                    file,
                    path,
                    place: self.path(sha256),
                    sha256: sha256.to_string(),
                    verified: self.verified.clone(),
                }));
            }
        }
    }
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let mine = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A download under way.
#[derive(Debug)]
pub struct Part {
    pub file: File,
    path: PathBuf,
    place: PathBuf,
    sha256: String,
    verified: Arc<Mutex<Verified>>,
}

impl Part {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Discards what has arrived, so that the download starts again at byte 0.
    pub fn discard(self) {
        // If truncating fails, the next attempt resumes, and its hash does not match.
        let _ = fs::remove_file(&self.path);
    }

    /// Moves the file into the cache. The caller has verified its hash.
    pub fn commit(self) -> Result<PathBuf> {
        let failed = || format!("cannot write {}", self.place.display());
        if let Some(directory) = self.place.parent() {
            fs::create_dir_all(directory).with_context(failed)?;
        }
        self.file
            .set_permissions(Permissions::from_mode(0o444))
            .with_context(failed)?;
        self.file.sync_all().with_context(failed)?;
        fs::rename(&self.path, &self.place).with_context(failed)?;
        let stamp = Stamp::of(&self.file).with_context(failed)?;
        self.verified
            .lock()
            .unwrap_or_else(|error| error.into_inner())
            .add(&self.sha256, stamp);
        Ok(self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Of `foo`.
    const HASH: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn a_second_process_waits_and_finds_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let mut part = cache.begin(HASH, 3).unwrap().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| cache.begin(HASH, 3).unwrap().is_none());
            part.file.write_all(b"foo").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            part.commit().unwrap();
            assert!(second.join().unwrap());
        });
        let path = cache.get(HASH, 3).unwrap().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"foo");
    }

    /// Of the same size and date, so that its name, size and date say nothing against it.
    #[test]
    fn a_file_that_was_changed_is_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let put = |cache: &Cache| {
            let mut part = cache.begin(HASH, 3).unwrap().unwrap();
            part.file.write_all(b"foo").unwrap();
            part.commit().unwrap()
        };
        type Get = fn(&Cache) -> Option<PathBuf>;
        let gets: [Get; 2] = [
            |cache| cache.get(HASH, 3).unwrap(),
            |cache| cache.get_hashed(HASH, 3).unwrap(),
        ];
        for get in gets {
            let cache = Cache::at(dir.path());
            let path = put(&cache);
            let date = fs::metadata(&path).unwrap().modified().unwrap();
            assert!(get(&cache).is_some());
            cache.remember();
            // The kernel's clock for inodes is coarse before Linux 6.13.
            std::thread::sleep(std::time::Duration::from_millis(20));
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, b"bar").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(date).unwrap();
            let next = Cache::at(dir.path());
            assert!(get(&next).is_none());
            assert!(!path.exists());
        }
    }
}
