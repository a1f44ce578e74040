//! `hearth media`: writes the SD image of one board.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth::media::{self, BoardCard, CardImage, TestPartition, parse_size};
use hearth::output::{AtomicFile, write_atomically};
use hearth::recipe::{Board, LoadedLab, board_or_type};
use hearth::uboot::Templates;

use super::terminal::Terminal;

/// Write the SD image of one board: bootloader and boot script
///
/// The image is a few megabytes: a partition table, the bootloader where the
/// board's ROM looks for it, and one small FAT with the script that says who
/// the board is. Everything else comes over the network. A .bmap file beside
/// it lists the blocks that matter; `bmaptool copy` and `hearth flash` write
/// only those.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    pub card: Card,
    /// The image file; out/media/BOARD.img by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Make the image as large as the card: SIZE as 7G or 512M
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    card_size: Option<u64>,
}

/// Which card, and what is on it
#[derive(Debug, Args)]
pub struct Card {
    /// A board of the lab, or a board type
    pub board: String,
    /// The lab file; HEARTH_LAB, else lab.toml, by default
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Take the bootloader from this output of `hearth build`; out/RECIPE of
    /// the board's recipe by default
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Add a partition that tests may destroy: SIZE as 64M, or rest
    #[arg(long, value_name = "SIZE|rest")]
    test_partition: Option<TestPartition>,
}

impl Card {
    /// Makes the image for a card of `size` bytes, if its size is known.
    pub fn image(&self, size: Option<u64>) -> Result<CardImage> {
        let (lab, board) = self.board()?;
        let build = self.from.clone().or_else(|| built(&board));
        BoardCard {
            board: &board,
            lab: &lab.settings,
            templates: &Templates::load()?,
            build: build.as_deref(),
            test: self.test_partition,
            size,
        }
        .image()
    }

    fn board(&self) -> Result<(LoadedLab, Board)> {
        board_or_type(self.lab.as_deref(), &self.board)
    }
}

/// Where `hearth build` leaves what it makes of the board's recipe.
fn built(board: &Board) -> Option<PathBuf> {
    let recipe = Path::new(board.recipe.as_deref()?).file_stem()?;
    Some(Path::new("out").join(recipe))
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let image = arguments.card.image(arguments.card_size)?;
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None => {
            let directory = Path::new("out/media");
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
            directory.join(format!("{}.img", arguments.card.board))
        }
    };
    image.write_to(AtomicFile::create(&output)?)?;
    if output.is_file() {
        let mut map = output.clone().into_os_string();
        map.push(".bmap");
        write_atomically(Path::new(&map), media::bmap(&image).as_bytes())?;
    }
    terminal.say(&format!(
        "wrote {}: {} bytes, of which {} matter",
        output.display(),
        image.layout.size,
        image.mapped()
    ));
    Ok(ExitCode::SUCCESS)
}
