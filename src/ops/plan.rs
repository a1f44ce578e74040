//! Owns the way from a recipe's name to a plan: find it, lock it where that is missing, fetch its packages.
//! Never builds.

use anyhow::Result;

use super::kept_texts;
use super::lock::{Relocked, refresh};
use crate::archive::Fetcher;
use crate::build::Plan;
use crate::progress::Progress;
use crate::recipe::{Lock, RecipeFile};

/// Where locks and packages come from.
pub struct Sources<'a> {
    pub fetcher: Fetcher,
    /// Fail where a lock would have to be made.
    pub locked: bool,
    /// Called with a lock that had to be made.
    pub on_lock: &'a dyn Fn(&Relocked) -> Result<()>,
}

/// The plan for the recipe with this name or path.
///
/// # Errors
/// If there is no such recipe; if its lock does not fit and must or can not be made; if a package cannot be fetched.
pub fn plan(recipe: &str, sources: &Sources<'_>, progress: &dyn Progress) -> Result<Plan> {
    let file = RecipeFile::open(recipe)?;
    let fetcher = &sources.fetcher;
    let lock = match file.lock() {
        Err(_) if !sources.locked && !fetcher.offline && !file.is_built_in() => {
            let relocked = refresh(&file, fetcher, progress)?;
            (sources.on_lock)(&relocked)?;
            relocked.lock
        }
        other => other?,
    };
    plan_of(&file, &lock, fetcher, progress)
}

/// The plan for a recipe with this lock.
///
/// # Errors
/// If a package cannot be fetched, or the recipe names a board type that is not there.
pub(super) fn plan_of(
    file: &RecipeFile,
    lock: &Lock,
    fetcher: &Fetcher,
    progress: &dyn Progress,
) -> Result<Plan> {
    let debs = fetcher.packages(lock, file.directory(), progress)?;
    kept_texts::keep(&file.text);
    kept_texts::keep(&lock.to_toml());
    Plan::new(file, lock, debs)
}
