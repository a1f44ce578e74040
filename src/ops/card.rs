//! Owns making the card image of one board: its build or its recipe's bootloader packages, and the layout.
//! Never writes to a card.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::bootloader;
use crate::archive::Fetcher;
use crate::image::Manifest;
use crate::media::{BoardCard, CardImage, TestPartition};
use crate::progress::Progress;
use crate::recipe::{RecipeFile, board_or_type};
use crate::uboot::Templates;

/// Which card.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    /// A board of the lab, or a board type.
    pub board: &'a str,
    pub lab: Option<&'a Path>,
    /// Instead of the board's own.
    pub recipe: Option<&'a str>,
    /// The output directory of a build to take the bootloader from.
    pub from: Option<&'a Path>,
    pub test_partition: Option<TestPartition>,
    /// The card's size in bytes, if known.
    pub size: Option<u64>,
}

/// Makes the image. Without a build, the bootloader comes from the recipe's locked packages, by `fetcher`.
///
/// # Errors
/// If there is no such board; if its bootloader cannot be had; if the card is too small.
pub fn image(card: &Card<'_>, fetcher: &Fetcher, progress: &dyn Progress) -> Result<CardImage> {
    let (lab, mut board) = board_or_type(card.lab, card.board)?;
    if let Some(recipe) = card.recipe {
        board.recipe = Some(recipe.to_owned());
    }
    let unpacked = tempfile::tempdir().context("cannot make a temporary directory")?;
    let build = match (card.from, &board.recipe) {
        (Some(from), _) => Some(from.to_path_buf()),
        (None, Some(recipe)) => Some(match built(recipe) {
            Some(build) => build,
            None => {
                let recipe = RecipeFile::open(recipe)?;
                bootloader::unpack(&board, &recipe, fetcher, unpacked.path(), progress)?;
                unpacked.path().to_path_buf()
            }
        }),
        (None, None) => None,
    };
    BoardCard {
        board: &board,
        lab: &lab.settings,
        templates: &Templates::load()?,
        build: build.as_deref(),
        test: card.test_partition,
        size: card.size,
    }
    .image()
}

/// Where `hearth build` left what it made of the recipe, if it did.
fn built(recipe: &str) -> Option<PathBuf> {
    let build = Path::new("out").join(Path::new(recipe).file_stem()?);
    build.join(Manifest::FILE).exists().then_some(build)
}
