//! Owns stages of the cache that belong to no recipe: what is made of files that a user gives, beside a build.
//! Never knows what is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::stages::{Begun, Key, StageCache, Stored};
use crate::progress::Progress;
use crate::sandbox::remove;

/// Stages that are kept for as long as what they were made of is there, and until something else is made of it.
pub struct SideStages<'a> {
    store: StageCache,
    inputs: Vec<PathBuf>,
    keys: Vec<Key>,
    progress: &'a dyn Progress,
}

impl<'a> SideStages<'a> {
    /// `inputs` are the paths that the user gave; the first one is the owner.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn open(cache: &Path, inputs: &[PathBuf], progress: &'a dyn Progress) -> Result<Self> {
        let store = StageCache::open(cache)?;
        let abandoned = store.abandoned()?;
        clear(abandoned.iter().map(|(path, _)| path), progress)?;
        Ok(SideStages {
            store,
            inputs: inputs
                .iter()
                .map(std::path::absolute)
                .collect::<Result<_, _>>()?,
            keys: Vec::new(),
            progress,
        })
    }

    /// Where to tell how far the work is.
    pub fn progress(&self) -> &'a dyn Progress {
        self.progress
    }

    /// Finds a stage by its key, or has it made in an empty directory. It stays while what is returned lives.
    ///
    /// # Errors
    /// Those of `make`; if the cache cannot be written to.
    pub fn stage(&mut self, key: Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<Stored> {
        let begun = match self.store.begin(&key)? {
            Begun::Done(stored) if !stored.survived()? => {
                self.store.discard(stored)?;
                self.store.begin(&key)?
            }
            begun => begun,
        };
        let stored = match begun {
            Begun::Done(stored) => stored,
            Begun::ToDo(new) => {
                make(&new.path)?;
                new.commit()?.0
            }
        };
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        Ok(stored)
    }

    /// Remembers which stages these inputs need, and removes what nothing needs any more.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn finish(self) -> Result<()> {
        if self.store.remembered_for(&self.inputs) == self.keys {
            return Ok(());
        }
        let keys: Vec<&Key> = self.keys.iter().collect();
        self.store.remember_for(&self.inputs, &keys)?;
        let unused = self.store.unused()?;
        clear(unused.iter().map(|(path, _)| path), self.progress)
    }
}

/// Removes stages. Those of a build may belong to subordinate ids, for which a child process is needed.
fn clear<'p>(stages: impl Iterator<Item = &'p PathBuf>, progress: &dyn Progress) -> Result<()> {
    let left = stages.filter(|stage| fs::remove_dir_all(stage).is_err());
    remove(&left.cloned().collect(), progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;

    #[test]
    fn a_stage_is_made_once_and_goes_with_its_input_or_for_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("kernel");
        fs::write(&input, "").unwrap();
        let inputs = std::slice::from_ref(&input);
        let open = || SideStages::open(&dir.path().join("cache"), inputs, &NoProgress).unwrap();
        let make = |version: &str| {
            let mut stages = open();
            let mut made = false;
            let stored = stages.stage(Key::new("x", 1).with("version", version), |path| {
                made = true;
                Ok(fs::write(path.join("file"), version)?)
            });
            let path = stored.unwrap().path;
            stages.finish().unwrap();
            (path, made)
        };
        let (first, made) = make("1");
        assert!(made && first.join("file").exists());
        assert_eq!(make("1"), (first.clone(), false));
        let (second, _) = make("2");
        assert!(
            second.exists() && !first.exists(),
            "the first has a successor"
        );
        fs::remove_file(&input).unwrap();
        let other = SideStages::open(&dir.path().join("cache"), &[], &NoProgress).unwrap();
        let unused = other.store.unused().unwrap();
        assert_eq!(unused.len(), 1, "its input is gone");
    }

    #[test]
    fn a_stage_that_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut stages = SideStages::open(dir.path(), &[], &NoProgress).unwrap();
        let key = || Key::new("x", 1);
        let failed = stages.stage(key(), |path| {
            fs::write(path.join("half"), "")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        let stored = stages.stage(key(), |_| Ok(())).unwrap();
        assert!(!stored.path.join("half").exists());
    }
}
