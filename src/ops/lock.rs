//! Owns locking a recipe: the choice of its packages, and writing it down.
//! Never fetches a package.

use std::path::PathBuf;

use anyhow::Result;

use crate::archive::{self, Fetcher, Options, Policy, Update};
use crate::clock;
use crate::error::Fault;
use crate::progress::Progress;
use crate::recipe::{Lock, RecipeFile};

/// A lock that was made.
#[derive(Clone, Debug)]
pub struct Relocked {
    /// What was at `path` before.
    pub before: Option<Lock>,
    pub lock: Lock,
    pub path: PathBuf,
}

impl Relocked {
    /// Whether the lock differs from the one before, and was written.
    pub fn is_new(&self) -> bool {
        self.before.as_ref() != Some(&self.lock)
    }
}

/// Locks a recipe again, and writes the lock if it is another one.
///
/// # Errors
/// If the recipe is part of hearth; as [`archive::make_lock`]; if the lock cannot be written.
pub fn lock(
    file: &RecipeFile,
    fetcher: &Fetcher,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Relocked> {
    if file.is_built_in() {
        return Err(Fault::input(format!(
            "the recipe {} is part of hearth, with its lock",
            file.name
        ))
        .remedy("put a recipe of your own into a file, and lock that")
        .into());
    }
    let before = file.existing_lock()?;
    let relocked = Relocked {
        lock: archive::make_lock(fetcher, file, before.as_ref(), options, progress)?,
        before,
        path: file.lock_path(),
    };
    if relocked.is_new() {
        relocked.lock.save(&relocked.path)?;
    }
    Ok(relocked)
}

/// Locks a recipe whose lock does not fit it; what is locked and still there stays.
///
/// # Errors
/// As [`lock`].
pub(super) fn refresh(
    file: &RecipeFile,
    fetcher: &Fetcher,
    progress: &dyn Progress,
) -> Result<Relocked> {
    let options = Options {
        update: Update::Vanished,
        policy: Policy {
            now: clock::now(),
            allow_expired: false,
        },
        allow_rollback: false,
    };
    lock(file, fetcher, &options, progress)
}
