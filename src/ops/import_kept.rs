//! Owns the stages of an import in the cache: their record, and whether their files still are what was made; and the hashes of
//! what was given. Never knows what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::build::{Key, SideStages, Stored, collect};
use crate::image::{Artifact, Source};
use crate::input;
use crate::output::write_atomically;

/// The record of a stage, the hashes of its files, and their seal.
const RECORD: &str = "record.json";
const FILES: &str = "files.json";
const SEAL: &str = "files.seal";

/// A stage in the cache, which stays there while this lives.
pub struct Kept<T> {
    pub path: PathBuf,
    pub facts: T,
    _stored: Stored,
}

impl<T> Kept<T> {
    /// Notes the files' inodes and times, by which the next import sees that nobody has written into them.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn seal(&self) -> Result<()> {
        let seal = serde_json::to_vec(&seal_of(&self.path)?)?;
        if fs::read(self.path.join(SEAL)).is_ok_and(|known| known == seal) {
            return Ok(());
        }
        write_atomically(&self.path.join(SEAL), &seal)
    }
}

/// Finds a stage, or has it made; one whose files were changed since is made again.
///
/// # Errors
/// Those of `make`; if the cache cannot be written to.
pub fn stage<T: Serialize + DeserializeOwned>(
    stages: &mut SideStages<'_>,
    key: Key,
    make: impl FnOnce(&Path) -> Result<T>,
) -> Result<Kept<T>> {
    let stored = stages.sound_stage(key, is_sound, |directory| {
        let facts = make(directory)?;
        let mut files = BTreeMap::new();
        collect(directory, Path::new(""), &mut files)?;
        write(&directory.join(FILES), &files)?;
        write(&directory.join(RECORD), &facts)?;
        write(&directory.join(SEAL), &seal_of(directory)?)
    })?;
    let path = stored.path.join(RECORD);
    let facts = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .with_context(|| format!("{} is damaged: remove its directory", path.display()))?;
    Ok(Kept {
        path: stored.path.clone(),
        facts,
        _stored: stored,
    })
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    fs::write(path, serde_json::to_vec(value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Whether a stage's files are those that were made: by their inodes and times, and where these differ by content.
fn is_sound(stage: &Path) -> Result<bool> {
    let Ok(text) = fs::read(stage.join(FILES)) else {
        return Ok(false);
    };
    let Ok(files) = serde_json::from_slice::<BTreeMap<String, Artifact>>(&text) else {
        return Ok(false);
    };
    let seal = fs::read(stage.join(SEAL)).unwrap_or_default();
    if seal == serde_json::to_vec(&seal_of(stage)?)? {
        return Ok(true);
    }
    Ok(files
        .iter()
        .all(|(name, made)| Artifact::of(&stage.join(name)).is_ok_and(|found| found == *made)))
}

/// Inode, size and times of each file of a stage that is listed.
fn seal_of(stage: &Path) -> Result<Vec<(String, [i64; 6])>> {
    let text = fs::read(stage.join(FILES)).context("cannot read a stage of the cache")?;
    let files: BTreeMap<String, Artifact> = serde_json::from_slice(&text)?;
    let mut seal = Vec::new();
    for name in files.into_keys() {
        let numbers = match fs::symlink_metadata(stage.join(&name)) {
            Ok(meta) => [
                meta.ino() as i64,
                meta.size() as i64,
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ],
            Err(_) => [0; 6],
        };
        seal.push((name, numbers));
    }
    Ok(seal)
}

/// A tar of an image: its name in the output directory, where it is in the cache, and its hash.
pub type Tar = (String, PathBuf, Artifact);

/// Hashes a file that was given.
pub fn source(path: &Path) -> Result<Source> {
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    input::regular(&meta).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Source {
        path: path.display().to_string(),
        sha256: Artifact::of(path)?.sha256,
    })
}
