//! `hearth boot`: boots a board up to a login, and hands over its console.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use hearth::board::ConsoleLog;
use hearth::ops::boot_board::Session;

use super::board_actions::again_reserved;
use super::board_arguments::{TargetArguments, cancelled_by_signal, host};
use super::console::{Shown, interact};
use super::live::Live;
use super::terminal::Terminal;

/// Boot a board up to a login, and hand over its console
///
/// `~.` at the beginning of a line leaves and switches the board off. While a
/// lab runs, the board is reserved for as long.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    if let Some((client, board)) = arguments.target.lab()? {
        let wait = arguments.target.waits();
        return again_reserved(&client, &board.name, "hearth boot", wait, terminal);
    }
    let target = arguments.target.ready(terminal)?;
    let directory = Path::new("out/boot").join(&target.board.name);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let _ours = target.reserve(&directory, arguments.target.waits(), terminal)?;
    let mut session = Session::open(&target, host()?)?;
    let begun = Instant::now();
    let mut log = ConsoleLog::create(&directory.join("console.log"))?;
    let cancelled = cancelled_by_signal()?;
    let mut live = Live::new(terminal);
    let mut confirm = session.confirmer();
    let mut board = session.boot(&target, begun, &mut log, &cancelled, &mut live)?;
    terminal.say("~. at the beginning of a line leaves and switches the board off");
    // The prompt was shown to hearth, not to the user.
    board.console().0.write(b"\r")?;
    let (console, log) = board.console();
    let patience = target.timeouts().silence;
    interact(console, log, begun, patience, &mut Shown::Raw, &mut confirm)?;
    board.off()?;
    session.close()?;
    Ok(ExitCode::SUCCESS)
}
