//! `hearth flash`: writes a board's image to a card.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, Args};
use hearth::error::Fault;
use hearth::media::{self, Device, Host};

use super::media::Card;
use super::terminal::Terminal;

/// Write a board's image to its card, read it back and compare
///
/// Shows the device's model and size first, and asks. Takes only a whole,
/// removable disk that nobody uses; give --force twice for anything else,
/// such as a regular file. What is mounted is never written to.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    card: Card,
    /// The card's device, such as /dev/sdb or /dev/mmcblk0
    device: PathBuf,
    /// Rewrite only the files of the FAT; keep the rest of the card
    #[arg(long, conflicts_with = "test_partition")]
    update: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Twice: write to what does not look like a card
    #[arg(short, long, action = ArgAction::Count)]
    force: u8,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    // Held from here to the last byte: what is asked about is what is written to.
    let mut claimed = media::claim(&Host::default(), &arguments.device)?;
    terminal.say(&claimed.device.to_string());
    overcome_doubts(&claimed.device, arguments.force)?;
    let image = arguments.card.image(Some(claimed.device.size), terminal)?;
    confirm(arguments)?;
    if arguments.update {
        media::update(&image, &mut claimed, terminal)?;
    } else {
        media::flash(&image, &mut claimed, terminal)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn overcome_doubts(device: &Device, force: u8) -> Result<()> {
    match device.doubts.first() {
        Some(doubt) if force < 2 => Err(Fault::input(format!("{} {doubt}", device.path.display()))
            .remedy("if you are sure that it may be overwritten, give --force twice")
            .into()),
        _ => Ok(()),
    }
}

fn confirm(arguments: &Arguments) -> Result<()> {
    if arguments.yes {
        return Ok(());
    }
    let device = arguments.device.display();
    if !std::io::stdin().is_terminal() {
        return Err(
            Fault::input(format!("nobody is there to confirm writing to {device}"))
                .remedy("give --yes")
                .into(),
        );
    }
    let what = if arguments.update {
        "Replace the boot files on"
    } else {
        "Overwrite"
    };
    eprint!("{what} {device}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Fault::input("nothing was written").into())
}
