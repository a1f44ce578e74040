//! Owns finding the bootloaders of board types in a directory that is given. Never looks into one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::error::Fault;
use crate::image::Artifact;
use crate::input;
use crate::recipe::BoardType;

/// Files of bootloaders that are given, by path in the output directory.
pub type Blobs = BTreeMap<String, PathBuf>;

/// Finds them in a directory, below the board type's name or not.
///
/// # Errors
/// If there is none.
pub fn bootloaders(
    directory: Option<&Path>,
    boards: &BTreeMap<String, BoardType>,
) -> Result<Blobs> {
    let mut found = Blobs::new();
    let Some(directory) = directory else {
        return Ok(found);
    };
    for (board, file) in wanted_blobs(boards) {
        let places = [directory.join(board).join(file), directory.join(file)];
        let name = format!("bootloader/{board}/{file}");
        match file.strip_suffix("/*") {
            None => {
                if let Some(path) = places.iter().find(|path| path.is_file()) {
                    found.insert(name, path.clone());
                }
            }
            Some(below) => {
                for place in [directory.join(board).join(below), directory.join(below)] {
                    for file in input::names_in(&place) {
                        let path = place.join(&file);
                        if path.is_file() {
                            found
                                .entry(format!("bootloader/{board}/{below}/{file}"))
                                .or_insert(path);
                        }
                    }
                }
            }
        }
    }
    if found.is_empty() {
        return Err(Fault::input(format!(
            "{} has no bootloader of any board type of this architecture",
            directory.display()
        ))
        .remedy("`hearth boards show TYPE` names the files that a board type wants")
        .into());
    }
    Ok(found)
}

/// The board types' bootloader files, as paths in Debian's packages.
pub fn wanted_blobs(boards: &BTreeMap<String, BoardType>) -> impl Iterator<Item = (&String, &str)> {
    boards.iter().flat_map(|(name, board)| {
        let blobs = board
            .bootloader
            .iter()
            .flat_map(|bootloader| &bootloader.blobs);
        blobs.filter_map(move |blob| Some((name, blob.file.as_deref()?)))
    })
}

/// The SHA-256 of each, in hex.
///
/// # Errors
/// If one cannot be read.
pub fn hashed(blobs: &Blobs) -> Result<BTreeMap<&String, String>> {
    blobs
        .iter()
        .map(|(name, path)| Ok((name, Artifact::of(path)?.sha256)))
        .collect()
}
