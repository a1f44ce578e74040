//! Owns taking device trees: the board type's, from where the user said or from the kernel's tree or package.
//! Never changes one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kernel::Given;
use super::work::{Work, exists};
use crate::build::Key;
use crate::build::compose::Part;
use crate::error::{Fault, InputContext};
use crate::image::Artifact;
use crate::initrd::root_compatible;
use crate::input;
use crate::kernel::device_tree;
use crate::kernel::modules::version;
use crate::recipe::{BoardType, Own};

const REVISION: u32 = 1;
/// The directory of device trees in an output directory.
const DIRECTORY: &str = "dtb";

/// Takes the device trees and returns the directory that has them, or `None` if the image's are kept. A board type without
/// one gets the file that the user named.
///
/// # Errors
/// If one is missing or damaged, or is of another board.
pub fn take(
    work: &mut Work<'_>,
    own: &Own,
    given: Option<&Given>,
    board_type: &mut BoardType,
) -> Result<Option<PathBuf>> {
    let found = match (&own.dtb, given) {
        (Some(path), _) => named(path, board_type)?,
        (None, Some(given)) if !given.parts.device_trees.is_empty() => {
            of_kernel(given, board_type)?
        }
        _ => return Ok(None),
    };
    let mut key = Key::new("own device trees", REVISION);
    for (name, file) in &found {
        key = key.with(format!("tree {name}"), version(file)?);
    }
    for (name, file) in &found {
        check(work, name, file)?;
    }
    let stage = work.stage(key, |stage| {
        for (name, file) in &found {
            let target = stage.join(name);
            fs::create_dir_all(target.parent().unwrap_or(stage))?;
            fs::copy(file, &target)
                .with_context(|| format!("cannot copy {} to the cache", file.display()))?;
        }
        Ok(())
    })?;
    // What the other kernel's package had is not for this one.
    if own.dtb.is_none() {
        work.change.without.push(DIRECTORY.into());
    }
    for (name, file) in &found {
        let path = stage.join(name);
        let artifact = Artifact::of(&path)?;
        if own.dtb.is_some() {
            work.note_source("dtb", file, &artifact.sha256);
        }
        let part = Part { path, artifact };
        work.change
            .parts
            .insert(format!("{DIRECTORY}/{name}"), part);
    }
    Ok(Some(stage))
}

/// The paths of the device trees that a board type uses: its kernel's, and those that its firmware passes to U-Boot.
fn wanted(board_type: &BoardType) -> Vec<String> {
    let blobs = board_type
        .bootloader
        .iter()
        .flat_map(|loader| &loader.blobs);
    let mut wanted: Vec<String> = board_type
        .device_tree
        .iter()
        .chain(blobs.filter_map(|blob| blob.device_tree.as_ref()))
        .cloned()
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// What `--dtb` names: a file, which is the kernel's, or a directory with all of them.
fn named(path: &Path, board_type: &mut BoardType) -> Result<Vec<(String, PathBuf)>> {
    exists(path, "device tree")?;
    if !path.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.context("the device tree has no name")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if board_type.device_tree.is_none() && !name.chars().all(plain) {
            return Err(Fault::input(format!(
                "the device tree's name `{}` has characters that U-Boot's scripts cannot have",
                name.escape_debug()
            ))
            .remedy("give it under a name of letters, digits, `-`, `_` and `.`")
            .into());
        }
        let place = board_type.device_tree.get_or_insert_with(|| name.into());
        return Ok(vec![(place.clone(), path.to_path_buf())]);
    }
    let wanted = wanted(board_type);
    if wanted.is_empty() {
        return Err(Fault::input(format!(
            "{} is a directory, and the board type names no device tree in it",
            path.display()
        ))
        .remedy("give the file with --dtb FILE")
        .into());
    }
    let find = |name: &String| device_tree(path, name);
    all(
        wanted,
        find,
        &path.display().to_string(),
        "build it: make dtbs; or give the file with --dtb FILE",
    )
}

fn of_kernel(given: &Given, board_type: &BoardType) -> Result<Vec<(String, PathBuf)>> {
    let kernel = given.release.as_deref().unwrap_or_default();
    let find = |name: &String| given.parts.device_tree(name);
    all(
        wanted(board_type),
        find,
        &format!("the kernel {kernel}"),
        "build it with the kernel: make dtbs; or give one with --dtb FILE",
    )
}

fn all(
    wanted: Vec<String>,
    find: impl Fn(&String) -> Option<PathBuf>,
    place: &str,
    remedy: &str,
) -> Result<Vec<(String, PathBuf)>> {
    wanted
        .into_iter()
        .map(|name| match find(&name) {
            Some(file) => Ok((name, file)),
            None => Err(Fault::input(format!(
                "{place} has no device tree {name}, which the board boots with"
            ))
            .remedy(remedy)
            .into()),
        })
        .collect()
}

/// Checks that a device tree is one, and for the same board or chip as the image's.
fn check(work: &Work<'_>, name: &str, file: &Path) -> Result<()> {
    let compatible = |path: &Path| -> Result<Vec<String>> {
        let data = input::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        root_compatible(&data)
            .input_context(|| format!("{} is no sound device tree", path.display()))
    };
    let ours = compatible(file)?;
    let known = work.base.join(DIRECTORY).join(name);
    let Ok(theirs) = compatible(&known) else {
        return Ok(());
    };
    if ours.iter().any(|one| theirs.contains(one)) {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the device tree {} is for {}, but the board is {}",
        file.display(),
        ours.first().map_or("no board", String::as_str),
        theirs.first().map_or("another", String::as_str)
    ))
    .remedy("give the board's own device tree; what it is for is its root's `compatible`")
    .into())
}
