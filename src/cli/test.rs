//! `hearth test`: boots a board, runs test definitions on it, and reports.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::job::{Loaded, Loader, Parameter, Verdict, report};
use hearth::lab::network;
use hearth::ops::test_board::{Prepared, Settings, keep_report, report_directory, test_board};

use super::board_arguments::{TargetArguments, cancelled_by_signal, host};
use super::live::Live;
use super::terminal::Terminal;

/// Boot a board, run test definitions on it, and report
///
/// BOARD is a board of the lab, or a board type, of which an emulated board
/// is made. What is missing is built first. A definition is a LAVA test
/// definition: FILE, DIRECTORY, DIRECTORY#PATH or REPOSITORY#PATH[@REVISION],
/// with NAME= before it to name its suite.
/// Exits with 0 if all tests passed, 1 if one did not, 4 if the board failed.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Test definitions
    #[arg(required = true, value_name = "DEFINITION")]
    definitions: Vec<String>,
    /// Set a parameter of all definitions, or of the one that is named NAME
    #[arg(short, long = "parameter", value_name = "[NAME:]KEY=VALUE")]
    parameters: Vec<Parameter>,
    /// Let definitions fetch repositories over other ways than https and ssh
    #[arg(long)]
    allow_local: bool,
    /// Report only what LAVA's own dispatcher would: no KTAP, nothing malformed
    #[arg(long)]
    strict_lava: bool,
    /// Where the report goes [default: out/test/BOARD-TIME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How often to boot again when the board fails before the tests begin
    ///
    /// Counts for each stage of the boot by itself; without it the lab file's
    /// `retries` hold, or 1.
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// How long all tests together may take, in seconds [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<f64>,
}

pub fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| "a time-out is a number of seconds above 0".into())
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    // Everything is read before anything is built or switched on.
    let mut loader = Loader::default();
    let definitions = definitions(arguments, &mut loader, terminal)?;
    let target = arguments.target.ready(terminal)?;
    let job = Prepared::new(arguments.settings(), &mut loader, &definitions, &target)?;
    let directory = report_directory(arguments.output.as_deref(), &target)?;
    let _ours = target.reserve(&directory, arguments.target.waits(), terminal)?;
    let cancelled = cancelled_by_signal()?;
    let mut live = Live::new(terminal);
    let report = test_board(&target, &job, &directory, host()?, &cancelled, &mut live)?;
    let kept = keep_report(&report, &directory);
    // A terminal that was closed must not change how the run ends; and where no disk takes the report, this is all of it.
    if let Err(error) = io::stdout().write_all(format!("\n{}", report::table(&report)).as_bytes()) {
        log::warn!("the results cannot be shown: {error}");
    }
    terminal.say(&format!("report in {}", kept?.display()));
    Ok(match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed(class) => ExitCode::from(class.exit_class().exit_code()),
    })
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            parameters: self.parameters.clone(),
            allow_local: self.allow_local,
            strict_lava: self.strict_lava,
            retries: self.retries,
            timeout: self.timeout,
        }
    }
}

fn definitions(
    arguments: &Arguments,
    loader: &mut Loader,
    terminal: &Terminal,
) -> Result<Vec<Loaded>> {
    let mut definitions = Vec::new();
    for argument in &arguments.definitions {
        definitions.extend(loader.load(argument)?);
    }
    // Once, though hearth runs itself again for an emulated board.
    if !network::is_inside() {
        for warning in definitions.iter().flat_map(|loaded| &loaded.warnings) {
            terminal.say(&format!("warning: {warning}"));
        }
    }
    Ok(definitions)
}
