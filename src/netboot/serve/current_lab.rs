//! Owns the lab and the boot scripts' templates as their files are now: read again when they have changed, and not for each
//! packet. Never writes them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::data::{BOARD_TYPE, BOOT_SCRIPT};
use crate::dirs;
use crate::recipe::LoadedLab;
use crate::uboot::Templates;

/// How often the files of board types and templates are looked at; the lab file is each time.
const LOOK: Duration = Duration::from_secs(1);

/// A lab whose file may change while it is served.
#[derive(Debug)]
pub struct CurrentLab {
    /// The lab as it was at the start.
    first: Arc<LoadedLab>,
    read: Mutex<Option<Read>>,
}

/// What was read last.
#[derive(Debug)]
struct Read {
    file: Version,
    types: Vec<Version>,
    looked: Instant,
    /// The lab, or why it cannot be read.
    lab: Result<Arc<LoadedLab>, String>,
}

/// What changes when a file is written or replaced: device, inode, size, and the times of its content and its inode.
/// None for what is not there.
type Version = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl CurrentLab {
    pub fn new(lab: LoadedLab) -> Self {
        CurrentLab {
            first: Arc::new(lab),
            read: Mutex::default(),
        }
    }

    /// The lab as it was at the start.
    pub fn first(&self) -> &Arc<LoadedLab> {
        &self.first
    }

    /// The lab as its file describes it now.
    ///
    /// # Errors
    /// If the file cannot be read, or has a mistake.
    pub fn get(&self) -> Result<Arc<LoadedLab>> {
        let Some(path) = &self.first.path else {
            return Ok(self.first.clone());
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, now) = (version(path), Instant::now());
        if let Some(read) = &mut *read
            && read.file == file
            && read.is_of_current_types(now)
        {
            return read.lab.clone().map_err(|error| anyhow!(error));
        }
        // Looked at before the files are read: what changes meanwhile is read next time.
        let types = versions(BOARD_TYPE.directory);
        let loaded = LoadedLab::load(path).map(Arc::new);
        let lab = match &loaded {
            Ok(lab) => Ok(lab.clone()),
            Err(error) => Err(format!("{error:#}")),
        };
        *read = Some(Read {
            file,
            types,
            looked: now,
            lab,
        });
        loaded
    }
}

impl Read {
    fn is_of_current_types(&mut self, now: Instant) -> bool {
        if now.duration_since(self.looked) < LOOK {
            return true;
        }
        self.looked = now;
        self.types == versions(BOARD_TYPE.directory)
    }
}

fn version(path: &Path) -> Version {
    let meta = fs::metadata(path).ok()?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    let written = (meta.mtime(), meta.mtime_nsec());
    Some((meta.dev(), meta.ino(), meta.size(), written, changed))
}

/// Of all files in a directory of the user's data, wherever that may be, and of the directory itself.
fn versions(directory: &str) -> Vec<Version> {
    let mut versions = Vec::new();
    for place in dirs::data() {
        let directory = place.join(directory);
        versions.push(version(&directory));
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        versions.extend(entries.flatten().map(|entry| version(&entry.path())));
    }
    versions
}

/// The templates as they are now.
#[derive(Default)]
pub struct CurrentTemplates {
    read: Mutex<Option<ReadTemplates>>,
}

struct ReadTemplates {
    versions: Vec<Version>,
    looked: Instant,
    templates: Arc<Templates>,
}

impl CurrentTemplates {
    /// # Errors
    /// If one cannot be read, or has a mistake.
    pub fn get(&self) -> Result<Arc<Templates>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(read) = &mut *read {
            let is_old = now.duration_since(read.looked) >= LOOK;
            if !is_old || read.versions == versions(BOOT_SCRIPT.directory) {
                if is_old {
                    read.looked = now;
                }
                return Ok(read.templates.clone());
            }
        }
        let versions = versions(BOOT_SCRIPT.directory);
        let templates = Arc::new(Templates::load()?);
        *read = Some(ReadTemplates {
            versions,
            looked: now,
            templates: templates.clone(),
        });
        Ok(templates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_an_unchanged_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lab.toml");
        let write = |name: &str| {
            let text = format!("[lab]\nname = '{name}'\naddress = '10.99.0.1'\n");
            fs::write(&path, text).unwrap();
        };
        write("one");
        let lab = CurrentLab::new(LoadedLab::load(&path).unwrap());
        assert!(Arc::ptr_eq(&lab.get().unwrap(), &lab.get().unwrap()));
        write("other");
        assert_eq!(lab.get().unwrap().settings.name, "other");
        fs::write(&path, "[lab]\n").unwrap();
        assert!(lab.get().is_err() && lab.get().is_err());
        write("right-again");
        assert_eq!(lab.get().unwrap().settings.name, "right-again");
    }
}
