//! Owns testing a board: the job's payload, the run beside its servers, and the report.
//! Never decides what a verdict is: see `job`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::run_inputs;
use super::servers::Serving;
use super::target::{Host, Target};
use crate::board::Retries;
use crate::clock;
use crate::image::Manifest;
use crate::job::inputs::UsedDefinition;
use crate::job::kept::Job;
use crate::job::report::{self, Format};
use crate::job::{
    JobSettings, Loaded, Loader, Parameter, Pattern, Payload, Report, Trust, payload,
};
use crate::lab::{self, JobRequest, LabStore, Observer, RunResult};
use crate::output::write_atomically;

/// How to test, beyond the board and the definitions.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub parameters: Vec<Parameter>,
    /// Let definitions fetch repositories over other ways than https and ssh.
    pub allow_local: bool,
    /// Report only what LAVA's own dispatcher would.
    pub strict_lava: bool,
    /// Boots again for each stage; else the board's, or 1.
    pub retries: Option<u32>,
    /// Seconds that all tests together may take; else the board's.
    pub timeout: Option<f64>,
}

/// A job that is ready to be handed out.
pub struct Prepared {
    tar: Vec<u8>,
    payload: Payload,
    patterns: BTreeMap<String, Pattern>,
    settings: Settings,
    definitions: Vec<UsedDefinition>,
}

impl Prepared {
    /// Packs the definitions for one board.
    ///
    /// # Errors
    /// If a parameter names no definition, a repository cannot be fetched, or the job cannot fit into the board's memory.
    pub fn new(
        settings: Settings,
        loader: &mut Loader,
        definitions: &[Loaded],
        target: &Target,
    ) -> Result<Self> {
        let mut tar = Vec::new();
        let job = JobSettings {
            parameters: settings.parameters.clone(),
            trust: if settings.allow_local {
                Trust::Local
            } else {
                Trust::Remote
            },
            board_type: target.board.type_name.clone(),
        };
        let payload = payload(&mut tar, definitions, loader, &job)?;
        if let Some(memory) = target.memory() {
            payload.check_fits(memory, &target.board.name)?;
        }
        let patterns = payload
            .suites
            .iter()
            .zip(definitions)
            .filter_map(|(suite, loaded)| Some((suite.clone(), loaded.definition.pattern.clone()?)))
            .collect();
        let used = payload.suites.iter().zip(definitions);
        Ok(Prepared {
            definitions: used
                .map(|(suite, loaded)| used_definition(suite, loaded))
                .collect(),
            tar,
            payload,
            patterns,
            settings,
        })
    }

    /// A job that a report has kept, for one board.
    ///
    /// # Errors
    /// If the job cannot fit into the board's memory.
    pub fn again(
        job: Job,
        settings: Settings,
        definitions: Vec<UsedDefinition>,
        target: &Target,
    ) -> Result<Self> {
        if let Some(memory) = target.memory() {
            job.payload.check_fits(memory, &target.board.name)?;
        }
        Ok(Prepared {
            tar: job.tar,
            payload: job.payload,
            patterns: job.patterns,
            settings,
            definitions,
        })
    }

    pub(super) fn tar(&self) -> &[u8] {
        &self.tar
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn definitions(&self) -> &[UsedDefinition] {
        &self.definitions
    }

    /// Names of the suites, in the order in which they run.
    pub fn suites(&self) -> &[String] {
        &self.payload.suites
    }
}

fn used_definition(suite: &str, loaded: &Loaded) -> UsedDefinition {
    UsedDefinition {
        source: loaded.source.clone(),
        suite: suite.into(),
        sha256: hex::encode(Sha256::digest(&loaded.definition.text)),
        revision: loaded.clone.as_ref().and_then(|clone| clone.commit()),
    }
}

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
