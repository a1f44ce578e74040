//! `hearth rerun`: runs again what a report tells of.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::ops::rerun::Rerun;
use hearth::ops::target::{Choice, Target};
use hearth::ops::test_board::report_directory;
use hearth::recipe::Own;

use super::build::NetworkArguments;
use super::terminal::Terminal;
use super::test::{exit_code, run_job};

/// Run again what a report tells of
///
/// The same definitions with the same parameters, from the report's directory;
/// the same image, which is built again from the report's lock if it is gone;
/// the same time-outs. Exits as `hearth test`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A report.json, or the directory of a run
    report: PathBuf,
    /// Another board than the report's
    #[arg(long, value_name = "BOARD")]
    board: Option<String>,
    /// The lab file [default: the report's]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Where the new report goes [default: out/test/BOARD-TIME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Fail at once if another run has the board, instead of waiting
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    network: NetworkArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let rerun = Rerun::open(&arguments.report)?;
    let board = arguments.board.as_ref().unwrap_or(&rerun.report.board);
    let (target, mut notes) = arguments.network.with_sources(terminal, |sources| {
        let found = rerun.image(sources, terminal)?;
        let choice = Choice {
            board,
            lab: arguments.lab.as_deref().or(rerun.lab()),
            recipe: None,
            image: Some(&found.build),
            own: Own::default(),
            boot: None,
            login: None,
            builds: Path::new("out"),
            exactly: Some(found.exactly),
        };
        Ok((Target::ready(&choice, sources, terminal)?, found.notes))
    })?;
    let job = rerun.job(&target)?;
    notes.extend(rerun.notes(&target));
    for note in notes {
        terminal.say(&format!("note: {note}"));
    }
    let directory = report_directory(arguments.output.as_deref(), &target)?;
    let _ours = target.reserve(&directory, !arguments.no_wait, terminal)?;
    let report = run_job(&target, &job, &directory, terminal)?;
    Ok(exit_code(&report))
}
