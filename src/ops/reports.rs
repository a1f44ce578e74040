//! Owns the reports on this desk: which there are, and what changed between two of them.
//! Never changes one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::error::Fault;
use crate::job::inputs::{LOCK, RunInputs};
use crate::job::report::{self, Comparison};
use crate::job::{Outcome, Report, Verdict};
use crate::recipe::Lock;

/// Where `hearth test` puts reports, each in a directory of its own.
pub const DEFAULT: &str = "out/test";

const FILE: &str = "report.json";

/// One run in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    pub directory: PathBuf,
    /// RFC 3339, in UTC.
    pub started: String,
    pub board: String,
    pub image: String,
    /// `passed`, or the class of the failure.
    pub verdict: String,
    pub passed: usize,
    /// Failed or unknown.
    pub failed: usize,
    pub skipped: usize,
    /// Seconds.
    pub duration: f64,
}

/// The runs below a directory, by time, and what is there but cannot be read, with the reason.
#[derive(Debug, Default)]
pub struct Listing {
    pub runs: Vec<Listed>,
    pub unreadable: Vec<(PathBuf, anyhow::Error)>,
}

/// Lists the reports in `directory` and in the directories in it.
///
/// # Errors
/// If the directory cannot be read. A report that cannot be is in the listing.
pub fn list(directory: &Path) -> Result<Listing> {
    let failed = || format!("cannot read the directory {}", directory.display());
    let mut places = vec![directory.to_path_buf()];
    for entry in fs::read_dir(directory).with_context(failed)? {
        places.push(entry.with_context(failed)?.path());
    }
    let mut listing = Listing::default();
    for place in places.into_iter().filter(|place| place.join(FILE).exists()) {
        match report::load(&place) {
            Ok(report) => listing.runs.push(listed(place, &report)),
            Err(error) => listing.unreadable.push((place, error)),
        }
    }
    listing
        .runs
        .sort_by(|a, b| (&a.started, &a.directory).cmp(&(&b.started, &b.directory)));
    listing.unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(listing)
}

fn listed(directory: PathBuf, report: &Report) -> Listed {
    Listed {
        directory,
        started: report.started.clone(),
        board: report.board.clone(),
        image: report.image.clone(),
        verdict: match report.verdict() {
            Verdict::Passed => "passed".into(),
            Verdict::Failed(_) if report.failure().is_none() => "failed".into(),
            Verdict::Failed(class) => class.name().into(),
        },
        passed: report.count(Outcome::Pass),
        failed: report.count(Outcome::Fail) + report.count(Outcome::Unknown),
        skipped: report.count(Outcome::Skip),
        duration: report.duration,
    }
}

/// Two reports, and what changed from the first to the second.
pub struct Compared {
    pub before: Report,
    pub after: Report,
    pub comparison: Comparison,
}

/// Compares two reports; packages by the locks that are kept with them.
///
/// # Errors
/// If one cannot be read, or a kept lock is damaged.
pub fn compare(before: &Path, after: &Path) -> Result<Compared> {
    let reports = (report::load(before)?, report::load(after)?);
    let locks = (lock_of(before, &reports.0)?, lock_of(after, &reports.1)?);
    let locks = match &locks {
        (Some(before), Some(after)) => Some((before, after)),
        _ => None,
    };
    Ok(Compared {
        comparison: report::compare(&reports.0, &reports.1, locks),
        before: reports.0,
        after: reports.1,
    })
}

/// The directory that a report's copies are in.
pub(super) fn directory_of(report: &Path) -> &Path {
    match report.is_dir() {
        true => report,
        false => report.parent().unwrap_or(Path::new(".")),
    }
}

/// The lock that is kept with a report, if there is one.
fn lock_of(path: &Path, report: &Report) -> Result<Option<Lock>> {
    report
        .inputs
        .as_ref()
        .map_or(Ok(None), |inputs| kept_lock(path, inputs))
}

pub(super) fn kept_lock(path: &Path, inputs: &RunInputs) -> Result<Option<Lock>> {
    let Some(lock) = &inputs.lock else {
        return Ok(None);
    };
    if lock.kept.is_none() {
        return Ok(None);
    }
    // Not where the report says it is: that may be another's text.
    let file = directory_of(path).join(LOCK);
    let lock_file = Lock::load(&file)?;
    if lock_file.digest() != lock.sha256 {
        return Err(Fault::input(format!(
            "{} is not the lock that its report names: it has changed since",
            file.display()
        ))
        .into());
    }
    Ok(Some(lock_file))
}
