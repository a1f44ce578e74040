//! `hearth test`: boots a board, runs test definitions on it, and reports.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Args;
use hearth::board::Retries;
use hearth::clock;
use hearth::job::report::{self, Format};
use hearth::job::{Loaded, Report, Verdict, payload};
use hearth::lab::{self, Order, Ran, Store, network};
use hearth::output::write_atomically;
use hearth::rootfs::Manifest;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::live::Live;
use super::serving::Serving;
use super::target::{Target, TargetArguments};
use super::terminal::Terminal;

/// Boot a board, run test definitions on it, and report
///
/// BOARD is a board of the lab, or a board type, of which an emulated board
/// is made. What is missing is built first. A definition is a LAVA test
/// definition: FILE, DIRECTORY, DIRECTORY#PATH or REPOSITORY#PATH[@REVISION].
/// Exits with 0 if all tests passed, 1 if one did not, 4 if the board failed.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Test definitions
    #[arg(required = true, value_name = "DEFINITION")]
    definitions: Vec<String>,
    /// Set a parameter of the definitions
    #[arg(short, long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Where the report goes; out/test/BOARD-TIME by default
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

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a parameter is KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| "a time-out is a number of seconds above 0".into())
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    // Everything is read before anything is built or switched on.
    let definitions = definitions(arguments, terminal)?;
    let target = arguments.target.ready(terminal)?;
    let directory = directory(arguments, &target)?;
    let _ours = arguments.target.reserve(&target, &directory, terminal)?;
    let report = test(arguments, terminal, &target, &definitions, &directory)?;
    write_report(&report, &directory)?;
    io::stdout().write_all(format!("\n{}", report::table(&report)).as_bytes())?;
    terminal.say(&format!("report in {}", directory.display()));
    Ok(match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed(class) => ExitCode::from(class.exit_class().exit_code()),
    })
}

fn definitions(arguments: &Arguments, terminal: &Terminal) -> Result<Vec<Loaded>> {
    let mut definitions = Vec::new();
    for argument in &arguments.definitions {
        definitions.extend(Loaded::from_argument(argument)?);
    }
    // Once, though hearth runs itself again for an emulated board.
    if !network::is_inside() {
        for warning in definitions.iter().flat_map(|loaded| &loaded.warnings) {
            terminal.say(&format!("warning: {warning}"));
        }
    }
    Ok(definitions)
}

fn directory(arguments: &Arguments, target: &Target) -> Result<PathBuf> {
    let directory = arguments.output.clone().unwrap_or_else(|| {
        let stamp = now().replace(['-', ':'], "");
        Path::new("out/test").join(format!("{}-{stamp}", target.board.name))
    });
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// RFC 3339, in UTC.
fn now() -> String {
    clock::rfc3339(i64::try_from(clock::now()).unwrap_or(i64::MAX))
}

fn test(
    arguments: &Arguments,
    terminal: &Terminal,
    target: &Target,
    definitions: &[Loaded],
    directory: &Path,
) -> Result<Report> {
    let started = now();
    let mut tar = Vec::new();
    let job = payload(&mut tar, definitions, &arguments.parameters)?;
    let patterns: BTreeMap<_, _> = job
        .suites
        .iter()
        .zip(definitions)
        .filter_map(|(suite, loaded)| Some((suite.clone(), loaded.definition.pattern.clone()?)))
        .collect();
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let store = Arc::new(Store::open(&target.store(scratch.path()))?);
    let _serving = Serving::start(target, &store)?;
    let mut access = target.access(scratch.path())?;
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled))?;
    }
    let mut timeouts = target.timeouts();
    timeouts.running = arguments.timeout.unwrap_or(timeouts.running);
    let image = Manifest::load(&target.build)?.image;
    let order = Order {
        board: &target.board.name,
        mac: target.board.mac,
        image: &image,
        store: &store,
        payload: &tar,
        patterns,
        timeouts,
        retries: match arguments.retries {
            Some(count) => Retries::all(count),
            None => Retries::all(1).with(&target.board.retries),
        },
        directory,
        cancelled: &cancelled,
    };
    let ran = lab::run(&order, &mut access, &mut Live::new(terminal))?;
    Ok(report_of(target, image, started, ran))
}

fn report_of(target: &Target, image: String, started: String, ran: Ran) -> Report {
    Report {
        version: 1,
        hearth: env!("CARGO_PKG_VERSION").into(),
        board: target.board.name.clone(),
        board_type: target.board.type_name.clone(),
        image,
        started,
        duration: ran.duration,
        identity: ran.identity,
        attempts: ran.attempts,
        suites: ran.suites,
        problems: ran.problems,
        warnings: ran.warnings,
    }
}

fn write_report(report: &Report, directory: &Path) -> Result<()> {
    for (name, format) in [
        ("report.json", Format::Json),
        ("junit.xml", Format::Junit),
        ("report.tap", Format::Tap),
        ("report.html", Format::Html),
    ] {
        write_atomically(
            &directory.join(name),
            report::render(report, format)?.as_bytes(),
        )?;
    }
    Ok(())
}
