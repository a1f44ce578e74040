//! Owns the run of one job on one board: its attempts, and what comes of them.
//! Never builds or serves anything: the board finds its image and the API already there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;

use super::access::Access;
use super::session::{Outcome, Session};
use super::store::Store;
use crate::board::{ConsoleLog, Failure, FailureClass, Retries, Stage, State, Timeouts};
use crate::error;
use crate::job::{Attempt, Case, Identity, Pattern, Suite};

/// Sees what happens, for a live view.
pub trait Observer {
    fn stage(&mut self, state: State, at: f64);
    fn case(&mut self, suite: &str, case: &Case);
    fn note(&mut self, text: &str);
}

/// What is to be run.
pub struct Order<'a> {
    pub board: &'a str,
    /// The id of the image that it is to boot.
    pub image: &'a str,
    pub store: &'a Arc<Store>,
    /// The job's tar.
    pub payload: &'a [u8],
    /// The definitions' patterns, by suite.
    pub patterns: BTreeMap<String, Pattern>,
    /// The suites of the job, in their order.
    pub suites: Vec<String>,
    /// Whether only what LAVA's dispatcher would report is wanted.
    pub strict: bool,
    pub timeouts: Timeouts,
    /// How often a boot that fails for the infrastructure's sake is tried again.
    pub retries: Retries,
    /// How much a board may print in one attempt, in bytes.
    pub largest_output: u64,
    /// Where `console.log` goes.
    pub directory: &'a Path,
    /// Set by Ctrl-C.
    pub cancelled: &'a AtomicBool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Ran {
    pub attempts: Vec<Attempt>,
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
pub fn run(order: &Order<'_>, access: &mut Access, observer: &mut dyn Observer) -> Result<Ran> {
    let begun = Instant::now();
    let mut log = ConsoleLog::create(&order.directory.join("console.log"))?;
    let mut ran = Ran::default();
    let mut left = order.retries;
    loop {
        let again = match Session::begin(order, access, begun, &mut log) {
            Ok(session) => {
                let outcome = session.run(observer)?;
                let again = outcome.attempt.failure.as_ref().is_some_and(|failure| {
                    failure.class == FailureClass::Infrastructure && left.take(outcome.reached)
                });
                ran.take(outcome, observer);
                again
            }
            Err(error) => {
                let failure = refused(error)?;
                let again =
                    failure.class == FailureClass::Infrastructure && left.take(State::Power);
                ran.fail(Vec::new(), failure, observer);
                again
            }
        };
        if !again {
            break;
        }
        observer.note("trying once more");
    }
    ran.duration = begun.elapsed().as_secs_f64();
    Ok(ran)
}

impl Ran {
    fn take(&mut self, outcome: Outcome, observer: &mut dyn Observer) {
        self.suites = outcome.suites;
        self.problems = outcome.problems;
        self.warnings.extend(outcome.warnings);
        self.identity = outcome.identity;
        match outcome.attempt.failure {
            Some(failure) => self.fail(outcome.attempt.stages, failure, observer),
            None => self.attempts.push(outcome.attempt),
        }
    }

    fn fail(&mut self, stages: Vec<Stage>, failure: Failure, observer: &mut dyn Observer) {
        observer.note(&format!(
            "{} failure in {}: {}",
            failure.class.name(),
            failure.stage,
            failure.message
        ));
        self.attempts.push(Attempt {
            stages,
            failure: Some(failure),
        });
    }
}

/// A board whose power or console does not work. What the host lacks is not the board's failure.
fn refused(error: anyhow::Error) -> Result<Failure> {
    let class = match error::class_of(&error) {
        error::Class::Host => return Err(error),
        error::Class::Input => FailureClass::Configuration,
        error::Class::Tests | error::Class::Infrastructure => FailureClass::Infrastructure,
        error::Class::Internal => FailureClass::Bug,
    };
    let help = error::help_of(&error)
        .map(|help| format!(" ({help})"))
        .unwrap_or_default();
    Ok(Failure {
        class,
        stage: State::Power.name().into(),
        message: format!("{error:#}{help}"),
        console: Vec::new(),
    })
}
