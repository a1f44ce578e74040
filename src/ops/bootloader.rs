//! Owns extracting a board type's bootloader from a recipe's locked packages, so that media need no
//! build.
//! Never installs a package.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::archive::Fetcher;
use crate::build::extract_bootloaders;
use crate::error::Fault;
use crate::progress::Progress;
use crate::recipe::{Board, Lock, RecipeFile, Role};
use crate::rootfs::PackageFile;

/// Fetches the packages of the board type's bootloader and extracts the files that its blobs name
/// to `build/bootloader/<board type>/`, the same paths as in the output of `hearth build`.
///
/// # Errors
/// If the recipe's lock has none of the packages, one cannot be fetched or read, or the card needs
/// more than packages.
pub fn unpack(
    board: &Board,
    recipe: &RecipeFile,
    fetcher: &Fetcher,
    build: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(bootloader) = &board.board_type.bootloader else {
        return Ok(());
    };
    let mut blobs = bootloader.blobs.iter();
    if let Some(tree) = blobs.find_map(|blob| blob.device_tree.as_ref()) {
        return Err(Fault::input(format!(
            "the card of a {} holds the kernel's device tree {tree}, which only a build has",
            board.type_name
        ))
        .remedy(format!("build the recipe: hearth build {}", recipe.name))
        .into());
    }
    let mut lock: Lock = recipe.lock()?;
    lock.packages.retain(|package| {
        package.role == Role::Bootloader && bootloader.packages.contains(&package.name)
    });
    if lock.packages.is_empty() {
        return Err(Fault::input(format!(
            "the lock of {} has no bootloader for {}: {}",
            recipe.name,
            board.type_name,
            bootloader.packages.join(", ")
        ))
        .remedy("name another recipe with --recipe, of the board's architecture")
        .into());
    }
    let directory = recipe.path.parent().unwrap_or(Path::new("."));
    let debs = fetcher.packages(&lock, directory, progress)?;
    let packages: Vec<PackageFile> = lock
        .packages
        .iter()
        .zip(debs)
        .map(|(package, deb)| PackageFile::of(package, &deb))
        .collect();
    let only = BTreeMap::from([(board.type_name.clone(), board.board_type.clone())]);
    extract_bootloaders(&only, true, &packages, build)
}
