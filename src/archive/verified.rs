//! Owns the memory of which files of the cache were hashed, by what shows a change without reading them.
//! Never believes a memory that this user's hearth has not written.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::output::write_atomically;
use crate::seal::Key;

/// What is another one as soon as a file was written to, replaced, linked or given other attributes: the kernel sets the time of
/// the inode's change, and no program can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub size: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// # Errors
    /// If the file system cannot tell.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Stamp {
            size: meta.size(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Stamps of files at the time when they were hashed, by SHA-256.
pub struct Verified {
    path: PathBuf,
    key: Key,
    stamps: HashMap<String, Stamp>,
    is_saved: bool,
}

/// As it is on the disk: JSON, and the mark of that.
#[derive(Serialize, Deserialize)]
struct Marked {
    stamps: String,
    mark: String,
}

impl Verified {
    /// What earlier runs have left; nothing if it is not theirs.
    pub fn load(path: PathBuf) -> Self {
        let key = Key::of_user();
        let read = || -> Option<HashMap<String, Stamp>> {
            let marked: Marked = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            let is_own = key.has_marked(&["verified", &marked.stamps], &marked.mark);
            serde_json::from_str(is_own.then_some(&marked.stamps)?).ok()
        };
        Verified {
            stamps: read().unwrap_or_default(),
            path,
            key,
            is_saved: true,
        }
    }

    pub fn knows(&self, sha256: &str, stamp: &Stamp) -> bool {
        self.stamps.get(sha256) == Some(stamp)
    }

    pub fn add(&mut self, sha256: &str, stamp: Stamp) {
        if !self.knows(sha256, &stamp) {
            self.stamps.insert(sha256.to_string(), stamp);
            self.is_saved = false;
        }
    }

    /// # Errors
    /// If the cache cannot be written to.
    pub fn save(&mut self) -> Result<()> {
        if self.is_saved {
            return Ok(());
        }
        let stamps = serde_json::to_string(&self.stamps)?;
        let mark = self.key.mark(&["verified", &stamps]);
        write_atomically(&self.path, &serde_json::to_vec(&Marked { stamps, mark })?)?;
        self.is_saved = true;
        Ok(())
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
