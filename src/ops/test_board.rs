//! Owns testing a board: the job's payload, the run beside its servers, and the report.
//! Never decides what a verdict is: see `job`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

use super::prepared::Prepared;
use super::run_inputs;
use super::servers::Serving;
use super::target::{Host, Target};
use crate::board::Retries;
use crate::clock;
use crate::image::Manifest;
use crate::job::Report;
use crate::job::report::{self, Format};
use crate::lab::{self, JobRequest, LabStore, Observer, RunResult};
use crate::output::write_atomically;

/// Makes the directory of the report: `given`, else `out/test/BOARD-TIME`.
///
/// # Errors
/// If it cannot be made.
pub fn report_directory(given: Option<&Path>, target: &Target) -> Result<PathBuf> {
    let directory = given.map_or_else(
        || {
            let stamp = now().replace(['-', ':'], "");
            Path::new("out/test").join(format!("{}-{stamp}", target.board.name))
        },
        Path::to_path_buf,
    );
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// RFC 3339, in UTC.
fn now() -> String {
    clock::rfc3339(i64::try_from(clock::now()).unwrap_or(i64::MAX))
}

/// Runs the job on the board; its console log goes into `directory`. `cancelled` ends the run.
///
/// # Errors
/// If the run cannot be begun. A board or a test that fails is in the report.
pub fn test_board(
    target: &Target,
    job: &Prepared,
    directory: &Path,
    host: Host,
    cancelled: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Report> {
    let started = now();
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let store = Arc::new(LabStore::open(&target.store(scratch.path()))?);
    let _serving = Serving::start(target, &store)?;
    let mut access = target.access(scratch.path(), host)?;
    let mut timeouts = target.timeouts();
    timeouts.running = job.settings.timeout.unwrap_or(timeouts.running);
    let manifest = Manifest::load(&target.build)?;
    let image = manifest.image.clone();
    let inputs = run_inputs::gather(target, &manifest, job, directory);
    let request = JobRequest {
        board: &target.board.name,
        image: &image,
        login: target.login.clone(),
        store: &store,
        payload: &job.tar,
        patterns: job.patterns.clone(),
        suites: job.payload.suites.clone(),
        strict: job.settings.strict_lava,
        timeouts,
        retries: match job.settings.retries {
            Some(count) => Retries::all(count),
            None => Retries::all(1).with(&target.board.retries),
        },
        largest_output: target.lab.settings.largest_output,
        directory,
        cancelled,
    };
    let result = lab::run(&request, &mut access, observer)?;
    Ok(Report {
        inputs: Some(inputs),
        ..report_of(target, image, started, result)
    })
}

fn report_of(target: &Target, image: String, started: String, result: RunResult) -> Report {
    Report {
        version: Report::VERSION,
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
        inputs: None,
    }
}

/// Writes the report in each of its forms to its directory or, where its disk is full, to a temporary directory. Returns
/// the one that has it.
///
/// # Errors
/// If it can be written to neither.
pub fn keep_report(report: &Report, directory: &Path) -> Result<PathBuf> {
    let Err(error) = write_report(report, directory) else {
        return Ok(directory.to_path_buf());
    };
    let other = tempfile::Builder::new()
        .prefix("hearth-report-")
        .tempdir()
        .map(tempfile::TempDir::keep);
    match other {
        Ok(other) if write_report(report, &other).is_ok() => {
            log::error!(
                "the report could not be written to {}: {error:#}",
                directory.display()
            );
            Ok(other)
        }
        _ => Err(error),
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
