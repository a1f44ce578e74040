//! Owns the request to run a job on a board, and the observer that sees the run.
//! Never runs one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::store::LabStore;
use crate::board::{BootState, Retries, Timeouts};
use crate::job::{Case, Pattern};
use crate::recipe::Login;

/// Gets the stages, cases and notes of a run as they come, for a live view.
pub trait Observer {
    fn stage(&mut self, state: BootState, at: f64);
    fn case(&mut self, suite: &str, case: &Case);
    fn note(&mut self, text: &str);
}

/// A job for one board, and the limits of its run.
pub struct JobRequest<'a> {
    pub board: &'a str,
    /// The id of the image that it is to boot.
    pub image: &'a str,
    /// How to get to a shell on the console that runs the job; none where the board's agent does.
    pub login: Option<Login>,
    pub store: &'a Arc<LabStore>,
    /// The job's tar.
    pub payload: &'a [u8],
    /// The definitions' patterns, by suite.
    pub patterns: BTreeMap<String, Pattern>,
    /// The suites of the job, in the order in which they run.
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
    /// Set by a signal: the run ends, the board is switched off.
    pub cancelled: &'a AtomicBool,
}
