//! Owns where the lab keeps the files of jobs, and whether its disk has room for more.
//! Never reads what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use crate::input;

/// Below so many free bytes no job is handed out: those that run need room for their results.
const ROOM: u64 = 64 << 20;

/// The directories of one lab: `files/NAME` of submissions, `jobs/N/A` of attempts.
#[derive(Clone, Debug)]
pub struct Directories {
    state: PathBuf,
}

impl Directories {
    /// Those below a state directory; makes them.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn open(state: &Path) -> Result<Self> {
        for name in ["files", "jobs"] {
            let directory = state.join(name);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let directories = Directories {
            state: state.to_path_buf(),
        };
        directories.remove_torn();
        Ok(directories)
    }

    /// Removes what a killed lab left of submissions under way.
    fn remove_torn(&self) {
        let names = input::names_in(&self.submissions());
        for name in names.iter().filter(|name| name.starts_with('.')) {
            let path = self.submissions().join(name);
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            if let Err(error) = removed {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// Where submissions are unpacked and kept.
    pub fn submissions(&self) -> PathBuf {
        self.state.join("files")
    }

    /// The files of a submission.
    pub fn files(&self, name: &str) -> PathBuf {
        self.submissions().join(name).join("files")
    }

    /// What an attempt at a job leaves behind.
    pub fn attempt(&self, job: i64, number: u32) -> PathBuf {
        self.state
            .join("jobs")
            .join(job.to_string())
            .join(number.to_string())
    }

    /// Why no more jobs should begin, if the disk is nearly full.
    pub fn full(&self) -> Option<String> {
        let free = statvfs(&self.state).ok()?;
        let bytes = free.blocks_available() * free.fragment_size();
        (bytes < ROOM).then(|| {
            format!(
                "the disk of {} has {} MiB left: no job begins until there are {} MiB",
                self.state.display(),
                bytes >> 20,
                ROOM >> 20
            )
        })
    }
}
