//! Owns the run of one job on one board: its attempts, and what comes of them.
//! Never builds or serves anything: the board finds its image and the API already there.

use std::time::Instant;

use anyhow::Result;

use super::attempt::{Attempt, AttemptResult};
use super::board_access::BoardAccess;
use super::request::{JobRequest, Observer};
use super::store::StoreError;
use crate::board::{BootStage, BootState, ConsoleLog, FailureClass, RunFailure};
use crate::error;
use crate::job::{AttemptRecord, Identity, Suite};

/// The result of a run: all attempts, and what the last one reported.
#[derive(Debug, Default)]
pub struct RunResult {
    pub attempts: Vec<AttemptRecord>,
    pub suites: Vec<Suite>,
    /// What was malformed on the way and belongs to no case.
    pub problems: Vec<String>,
    /// What went wrong on the way and cost no result.
    pub warnings: Vec<String>,
    pub identity: Identity,
    /// Seconds.
    pub duration: f64,
}

/// Boots the board, has it do the job, and powers it off, whatever happens in between.
///
/// # Errors
/// Only where hearth itself cannot go on: QEMU is not installed, the disk is full. What fails on the board's side is in
/// the result.
pub fn run(
    request: &JobRequest<'_>,
    access: &mut BoardAccess,
    observer: &mut dyn Observer,
) -> Result<RunResult> {
    let begun = Instant::now();
    let mut log = ConsoleLog::create(&request.directory.join("console.log"))?;
    let mut result = RunResult::default();
    let mut left = request.retries;
    loop {
        let again = match Attempt::begin(request, access, begun, &mut log) {
            Ok(attempt) => {
                let outcome = attempt.run(observer)?;
                let again = outcome.attempt.failure.as_ref().is_some_and(|failure| {
                    failure.class == FailureClass::Infrastructure
                        && !outcome.store_lost
                        && left.take(outcome.reached)
                });
                result.take(outcome, observer);
                again
            }
            Err(error) => {
                let store_lost = error.is::<StoreError>();
                let failure = refused(error)?;
                let again = failure.class == FailureClass::Infrastructure
                    && !store_lost
                    && left.take(BootState::Power);
                result.fail(Vec::new(), failure, observer);
                again
            }
        };
        if !again {
            break;
        }
        observer.note("trying once more");
    }
    result.duration = begun.elapsed().as_secs_f64();
    Ok(result)
}

impl RunResult {
    fn take(&mut self, outcome: AttemptResult, observer: &mut dyn Observer) {
        self.suites = outcome.suites;
        self.problems = outcome.problems;
        self.warnings.extend(outcome.warnings);
        self.identity = outcome.identity;
        match outcome.attempt.failure {
            Some(failure) => self.fail(outcome.attempt.stages, failure, observer),
            None => self.attempts.push(outcome.attempt),
        }
    }

    fn fail(&mut self, stages: Vec<BootStage>, failure: RunFailure, observer: &mut dyn Observer) {
        observer.note(&format!(
            "{} failure in {}: {}",
            failure.class.name(),
            failure.stage,
            failure.message
        ));
        self.attempts.push(AttemptRecord {
            stages,
            failure: Some(failure),
        });
    }
}

/// The failure of an attempt that could not begin: power, console or store do not work. What the host lacks otherwise is no
/// failure of a run: an error.
fn refused(error: anyhow::Error) -> Result<RunFailure> {
    let class = match error::class_of(&error) {
        _ if error.is::<StoreError>() => FailureClass::Infrastructure,
        error::Class::Host => return Err(error),
        error::Class::Input => FailureClass::Configuration,
        error::Class::Tests | error::Class::Infrastructure => FailureClass::Infrastructure,
        error::Class::Internal => FailureClass::Bug,
    };
    let help = error::help_of(&error)
        .map(|help| format!(" ({help})"))
        .unwrap_or_default();
    Ok(RunFailure {
        class,
        stage: BootState::Power.name().into(),
        message: format!("{error:#}{help}"),
        console: Vec::new(),
    })
}
