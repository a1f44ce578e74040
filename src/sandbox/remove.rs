//! Owns removing what belongs to subordinate ids, which the caller cannot remove itself.
//! Never decides what is to go.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::namespaces::Namespaces;
use super::step::steps;
use crate::progress::Progress;

steps! {
    REMOVE = "remove": remove_inside, Vec<PathBuf> => ();
}

/// Removes files and directories that may belong to subordinate ids.
///
/// # Errors
/// The first that cannot be removed; those before it are gone then.
pub fn remove(paths: &Vec<PathBuf>, progress: &dyn Progress) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    Namespaces::new().step(&REMOVE, paths, progress)
}

fn remove_inside(paths: Vec<PathBuf>, _progress: &dyn Progress) -> Result<()> {
    for path in paths {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let removed = match is_directory {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
