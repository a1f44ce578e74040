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
use hearth::job::{
    JobSettings, Loaded, Loader, Parameter, Pattern, Payload, Report, Trust, Verdict, is_variable,
    payload,
};
use hearth::lab::{self, JobRequest, LabStore, RunResult, network};
use hearth::output::write_atomically;
use hearth::rootfs::Manifest;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::live::Live;
use super::serving::Serving;
use super::target::{Target, TargetArguments};
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
    #[arg(short, long = "parameter", value_name = "[NAME:]KEY=VALUE", value_parser = parameter)]
    parameters: Vec<Parameter>,
    /// Let definitions fetch repositories over other ways than https and ssh
    #[arg(long)]
    allow_local: bool,
    /// Report only what LAVA's own dispatcher would: no KTAP, nothing malformed
    #[arg(long)]
    strict_lava: bool,
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

fn parameter(text: &str) -> Result<Parameter, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("a parameter is KEY=VALUE or NAME:KEY=VALUE")?;
    let (suite, key) = match key.split_once(':') {
        Some((suite, key)) => (Some(suite.to_string()), key),
        None => (None, key),
    };
    if !is_variable(key) {
        return Err(format!("`{key}` cannot be the name of a shell variable"));
    }
    Ok(Parameter {
        suite,
        key: key.into(),
        value: value.into(),
    })
}

fn seconds(text: &str) -> Result<f64, String> {
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
    let job = prepare(arguments, &mut loader, &definitions, &target)?;
    let directory = directory(arguments, &target)?;
    let _ours = arguments.target.reserve(&target, &directory, terminal)?;
    let report = test(arguments, terminal, &target, &job, &directory)?;
    let kept = keep_report(&report, &directory)?;
    // A terminal that was closed must not change how the run ends.
    if let Err(error) = io::stdout().write_all(format!("\n{}", report::table(&report)).as_bytes()) {
        log::warn!("the results cannot be shown: {error}");
    }
    terminal.say(&format!("report in {}", kept.display()));
    Ok(match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed(class) => ExitCode::from(class.exit_class().exit_code()),
    })
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

/// A job that is ready to be handed out.
struct PreparedJob {
    tar: Vec<u8>,
    payload: Payload,
    patterns: BTreeMap<String, Pattern>,
}

fn prepare(
    arguments: &Arguments,
    loader: &mut Loader,
    definitions: &[Loaded],
    target: &Target,
) -> Result<PreparedJob> {
    let mut tar = Vec::new();
    let settings = JobSettings {
        parameters: arguments.parameters.clone(),
        trust: if arguments.allow_local {
            Trust::Local
        } else {
            Trust::Remote
        },
        board_type: target.board.type_name.clone(),
    };
    let payload = payload(&mut tar, definitions, loader, &settings)?;
    if let Some(memory) = target.memory() {
        payload.check_fits(memory, &target.board.name)?;
    }
    let patterns = payload
        .suites
        .iter()
        .zip(definitions)
        .filter_map(|(suite, loaded)| Some((suite.clone(), loaded.definition.pattern.clone()?)))
        .collect();
    Ok(PreparedJob {
        tar,
        payload,
        patterns,
    })
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
    job: &PreparedJob,
    directory: &Path,
) -> Result<Report> {
    let started = now();
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let store = Arc::new(LabStore::open(&target.store(scratch.path()))?);
    let _serving = Serving::start(target, &store)?;
    let mut access = target.access(scratch.path())?;
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled))?;
    }
    let mut timeouts = target.timeouts();
    timeouts.running = arguments.timeout.unwrap_or(timeouts.running);
    let image = Manifest::load(&target.build)?.image;
    let request = JobRequest {
        board: &target.board.name,
        image: &image,
        store: &store,
        payload: &job.tar,
        patterns: job.patterns.clone(),
        suites: job.payload.suites.clone(),
        strict: arguments.strict_lava,
        timeouts,
        retries: match arguments.retries {
            Some(count) => Retries::all(count),
            None => Retries::all(1).with(&target.board.retries),
        },
        largest_output: target.lab.settings.largest_output,
        directory,
        cancelled: &cancelled,
    };
    let result = lab::run(&request, &mut access, &mut Live::new(terminal))?;
    Ok(report_of(target, image, started, result))
}

fn report_of(target: &Target, image: String, started: String, result: RunResult) -> Report {
    Report {
        version: 1,
        hearth: env!("CARGO_PKG_VERSION").into(),
        board: target.board.name.clone(),
        board_type: target.board.type_name.clone(),
        image,
        started,
        duration: result.duration,
        identity: result.identity,
        attempts: result.attempts,
        suites: result.suites,
        problems: result.problems,
        warnings: result.warnings,
    }
}

/// Writes the report to its directory or, where its disk is full, to a temporary directory. Gives the one that has it.
fn keep_report(report: &Report, directory: &Path) -> Result<PathBuf> {
    let Err(error) = write_report(report, directory) else {
        return Ok(directory.to_path_buf());
    };
    let other = tempfile::Builder::new()
        .prefix("hearth-report-")
        .tempdir()
        .map(tempfile::TempDir::keep);
    let other = match other {
        Ok(other) if write_report(report, &other).is_ok() => other,
        _ => {
            // Better than nothing.
            io::stdout().write_all(report::table(report).as_bytes())?;
            return Err(error);
        }
    };
    log::error!(
        "the report could not be written to {}: {error:#}",
        directory.display()
    );
    Ok(other)
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
