//! `hearth boot`: boots a board up to a login, and hands over its console.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use hearth::board::ConsoleLog;
use hearth::error::{Class, Fault};
use hearth::lab::{BootRequest, BootedBoard, LabStore};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::console::{Shown, interact};
use super::live::Live;
use super::serving::Serving;
use super::target::TargetArguments;
use super::terminal::Terminal;

/// For how long, in seconds, a board that a user booted is kept from powering itself off.
const HOLD: f64 = 24.0 * 3600.0;

/// Boot a board up to a login, and hand over its console
///
/// `~.` at the beginning of a line leaves and switches the board off.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let target = arguments.target.ready(terminal)?;
    let directory = Path::new("out/boot").join(&target.board.name);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let _ours = arguments.target.reserve(&target, &directory, terminal)?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let store = Arc::new(LabStore::open(&target.store(scratch.path()))?);
    store.hold(&target.board.name, HOLD)?;
    let _serving = Serving::start(&target, &store)?;
    let mut access = target.access(scratch.path())?;
    let begun = Instant::now();
    let mut log = ConsoleLog::create(&directory.join("console.log"))?;
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled))?;
    }
    let request = BootRequest {
        board: &target.board.name,
        store: &store,
        timeouts: target.timeouts(),
        begun,
        cancelled: &cancelled,
    };
    let mut board = BootedBoard::boot(&request, &mut access, &mut log, &mut Live::new(terminal))?
        .map_err(|failure| {
        Fault::new(
            Class::Infrastructure,
            format!(
                "{} failure in {}: {}",
                failure.class.name(),
                failure.stage,
                failure.message
            ),
        )
    })?;
    terminal.say("~. at the beginning of a line leaves and switches the board off");
    // The prompt was shown to hearth, not to the user.
    board.console().0.write(b"\r")?;
    let (console, log) = board.console();
    let patience = target.timeouts().silence;
    let mut confirm = |line: &str| {
        store
            .confirm_by_console(&target.board.name, line)
            .map_err(Into::into)
    };
    interact(console, log, begun, patience, &mut Shown::Raw, &mut confirm)?;
    board.off()?;
    store.hold(&target.board.name, 0.0)?;
    Ok(ExitCode::SUCCESS)
}
