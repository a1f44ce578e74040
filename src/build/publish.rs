//! Owns the output directory: publishes artifacts of cached stages, complete and unchanged.
//! Never makes an artifact.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::image::{Artifact, Manifest};
use crate::output::{AtomicDir, Replaces};

/// Hashes all files below `directory`, by relative path.
pub fn collect(
    directory: &Path,
    below: &Path,
    artifacts: &mut BTreeMap<String, Artifact>,
) -> Result<()> {
    for entry in fs::read_dir(directory.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(directory, &path, artifacts)?;
        } else {
            let artifact = Artifact::of(&entry.path())?;
            artifacts.insert(path.to_string_lossy().into_owned(), artifact);
        }
    }
    Ok(())
}

/// Gives an artifact the epoch as its time.
pub fn set_date(path: &Path, epoch: i64) -> Result<()> {
    File::open(path)
        .and_then(|file| file.set_modified(time_of(epoch)))
        .with_context(|| format!("cannot set the time of {}", path.display()))
}

fn time_of(epoch: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(epoch.try_into().unwrap_or_default())
}

/// Whether a file has that size and date.
fn is_dated(path: &Path, size: u64, epoch: i64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| {
        meta.is_file()
            && meta.len() == size
            && meta.modified().is_ok_and(|time| time == time_of(epoch))
    })
}

/// Publishes the artifacts in the output directory; returns whether that was necessary.
pub fn publish<'a>(
    manifest: &Manifest,
    artifacts: impl Iterator<Item = (&'a str, PathBuf)>,
    out: &Path,
    epoch: i64,
) -> Result<bool> {
    let artifacts: Vec<(&str, PathBuf)> = artifacts.collect();
    if is_up_to_date(manifest, &artifacts, out, epoch) {
        return Ok(false);
    }
    log::debug!("writing {}", out.display());
    let directory = AtomicDir::create(out, Replaces::Output)?;
    for (name, from) in artifacts {
        let target = directory.path().join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        link_or_copy(&from, &target)
            .with_context(|| format!("cannot write {}", out.join(name).display()))?;
    }
    let path = directory.path().join(Manifest::FILE);
    fs::write(&path, manifest.to_json())
        .with_context(|| format!("cannot write {}", path.display()))?;
    directory.commit()?;
    Ok(true)
}

fn is_up_to_date(
    manifest: &Manifest,
    artifacts: &[(&str, PathBuf)],
    out: &Path,
    epoch: i64,
) -> bool {
    fs::read_to_string(out.join(Manifest::FILE)).is_ok_and(|text| text == manifest.to_json())
        && artifacts.iter().all(|(name, cached)| {
            let made = &manifest.artifacts[*name];
            is_dated(&out.join(name), made.size, epoch) && is_same(cached, &out.join(name), made)
        })
}

/// Whether a file of the output is the cache's, which was checked. On another file system its size and date have to do;
/// where it only is no link, its content tells.
fn is_same(cached: &Path, out: &Path, made: &Artifact) -> bool {
    let (Ok(cached), Ok(there)) = (fs::metadata(cached), fs::symlink_metadata(out)) else {
        return false;
    };
    there.dev() != cached.dev()
        || there.ino() == cached.ino()
        || Artifact::of(out).is_ok_and(|artifact| artifact == *made)
}

/// Shares data with the cache (hard link) if both are on one file system.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => {
            fs::copy(from, to)?;
            File::open(to)?.set_modified(fs::metadata(from)?.modified()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_somebody_wrote_into_has_another_date() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        fs::write(&path, "kernel").unwrap();
        assert!(!is_dated(&path, 6, 1_000_000_000));
        set_date(&path, 1_000_000_000).unwrap();
        assert!(is_dated(&path, 6, 1_000_000_000));
        // Same length, as after `cp` onto the file.
        fs::write(&path, "KERNEL").unwrap();
        assert!(!is_dated(&path, 6, 1_000_000_000));
    }
}
