//! Owns the output directory: publishes artifacts of cached stages, complete and unchanged.
//! Never makes an artifact.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::manifest::{Artifact, Manifest};
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

/// Sets an artifact's modification time to the epoch. The output directory shares data with the
/// cache, so that writing into a file there, as with `cp zImage out/…/vmlinuz`, changes the cache;
/// a changed time reveals that.
pub fn seal(path: &Path, epoch: i64) -> Result<()> {
    File::open(path)
        .and_then(|file| file.set_modified(time_of(epoch)))
        .with_context(|| format!("cannot set the time of {}", path.display()))
}

fn time_of(epoch: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(epoch.try_into().unwrap_or_default())
}

/// Whether a sealed file is unchanged.
pub fn is_sealed(path: &Path, size: u64, epoch: i64) -> bool {
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
    if is_up_to_date(manifest, out, epoch) {
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

fn is_up_to_date(manifest: &Manifest, out: &Path, epoch: i64) -> bool {
    fs::read_to_string(out.join(Manifest::FILE)).is_ok_and(|text| text == manifest.to_json())
        && manifest
            .artifacts
            .iter()
            .all(|(name, made)| is_sealed(&out.join(name), made.size, epoch))
}

/// Shares data with the cache (hard link) if both are on one file system.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
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
    fn a_file_that_somebody_wrote_into_is_no_longer_sealed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        fs::write(&path, "kernel").unwrap();
        assert!(!is_sealed(&path, 6, 1_000_000_000));
        seal(&path, 1_000_000_000).unwrap();
        assert!(is_sealed(&path, 6, 1_000_000_000));
        // Same length, as after `cp` onto the file.
        fs::write(&path, "KERNEL").unwrap();
        assert!(!is_sealed(&path, 6, 1_000_000_000));
    }
}
