//! `hearth media`: writes the SD image of one board.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth::error::Fault;
use hearth::media::{self, CardImage, TestPartition, parse_size};
use hearth::ops::card;
use hearth::output::{AtomicFile, refuse_inputs, refuse_other_than_card, write_atomically};

use super::lock::MirrorArguments;
use super::terminal::Terminal;

/// Write the SD image of one board: bootloader and boot script
///
/// The image is a few megabytes: a partition table, the bootloader where the
/// board's ROM looks for it, and one small FAT with the script that says who
/// the board is. Everything else comes over the network. A .bmap file beside
/// it lists the blocks in use; `bmaptool copy` and `hearth flash` write
/// only those.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    pub card: Card,
    /// The image file [default: out/media/BOARD.img]
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
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// The recipe whose bootloader to take [default: the board's]
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<String>,
    /// The output of `hearth build` to take it from; out/RECIPE if that is
    /// there, else the recipe's locked packages
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Add a partition that tests may destroy: SIZE as 64M, or rest
    #[arg(long, value_name = "SIZE|rest")]
    test_partition: Option<TestPartition>,
}

impl Card {
    /// Makes the image for a card of `size` bytes, if its size is known.
    pub fn image(&self, size: Option<u64>, terminal: &Terminal) -> Result<CardImage> {
        let card = card::Card {
            board: &self.board,
            lab: self.lab.as_deref(),
            recipe: self.recipe.as_deref(),
            from: self.from.as_deref(),
            test_partition: self.test_partition,
            size,
        };
        card::image(&card, &MirrorArguments::default().fetcher(), terminal)
    }
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    if let Some(output) = &arguments.output {
        refuse_other_than_card(output)?;
    }
    let image = arguments.card.image(arguments.card_size, terminal)?;
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None => {
            let directory = Path::new("out/media");
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
            directory.join(format!("{}.img", arguments.card.board))
        }
    };
    if let Some(from) = &arguments.card.from {
        let inputs = std::fs::read_dir(from).into_iter().flatten().flatten();
        refuse_inputs(&output, inputs.map(|entry| entry.path()))?;
    }
    if std::fs::metadata(&output).is_ok_and(|meta| meta.file_type().is_block_device()) {
        return Err(
            Fault::input(format!("{} is a disk, not a file", output.display()))
                .remedy(format!(
                    "use `hearth flash {} {}`, which looks before it writes",
                    arguments.card.board,
                    output.display()
                ))
                .into(),
        );
    }
    image.write_to(AtomicFile::create(&output)?)?;
    if output.is_file() {
        let mut map = output.clone().into_os_string();
        map.push(".bmap");
        write_atomically(Path::new(&map), media::bmap(&image).as_bytes())?;
    }
    terminal.say(&format!(
        "wrote {}: {} bytes, of which {} are in use",
        output.display(),
        image.layout.size,
        image.mapped()
    ));
    Ok(ExitCode::SUCCESS)
}
