//! Owns the content-addressed store of downloaded files, shared between recipes, processes and
//! users of one cache.
//! Never fetches anything.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::dirs;

/// Files by their SHA-256, in `blobs/sha256/<2 hex>/<hex>`, never changed once they are there.
/// Unfinished downloads are `tmp/<hex>.part` and are resumed by the next attempt.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Default for Cache {
    /// The user's cache.
    fn default() -> Self {
        Cache::at(dirs::cache())
    }
}

impl Cache {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Cache { root: root.into() }
    }

    /// Where the file with this hash (64 lower-case hex digits) is or would be.
    pub fn path(&self, sha256: &str) -> PathBuf {
        let directory = sha256.get(..2).unwrap_or("xx");
        self.root.join("blobs/sha256").join(directory).join(sha256)
    }

    /// The file with this hash and size, if it is there.
    pub fn get(&self, sha256: &str, size: u64) -> Option<PathBuf> {
        let path = self.path(sha256);
        let meta = fs::metadata(&path).ok()?;
        (meta.is_file() && meta.len() == size).then_some(path)
    }

    /// Opens the partial download of this file, locked against other processes and threads; waits
    /// for the lock. Returns `None` if the file is complete by then.
    pub fn begin(&self, sha256: &str, size: u64) -> Result<Option<Part>> {
        let tmp = self.root.join("tmp");
        fs::create_dir_all(&tmp)
            .with_context(|| format!("cannot make the directory {}", tmp.display()))?;
        let path = tmp.join(format!("{sha256}.part"));
        loop {
            if self.get(sha256, size).is_some() {
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
        Ok(self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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
        assert_eq!(fs::read(cache.get(HASH, 3).unwrap()).unwrap(), b"foo");
        assert!(cache.get(HASH, 4).is_none());
    }
}
