//! Owns what the lab wants of whoever runs a job on a board, and how it hears of the run.
//! Never runs one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::signals::Signals;
use crate::lab::queue::Submission;
use crate::recipe::Board;

/// The name of an order's file in the directory of its attempt.
pub const ORDER: &str = "order.json";

/// The name of the file in which a run tells its stages, cases and notes as they come, a JSON object on each line.
pub const EVENTS: &str = "events.jsonl";

/// One attempt at a job, as the process that runs it gets it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub attempt: i64,
    pub job: i64,
    pub board: String,
    /// The lab file.
    pub lab: PathBuf,
    /// The directory of the builds that the lab serves.
    pub images: PathBuf,
    /// The submission's files.
    pub files: PathBuf,
    /// Where the results go.
    pub directory: PathBuf,
    pub spec: Submission,
}

/// Runs jobs so that a run goes on when the lab's process ends, and takes no other along when it crashes.
pub trait Runner: Send + Sync {
    /// Begins the run. Its end, whatever it is, is told to `notifier` once.
    ///
    /// # Errors
    /// If it cannot begin; nothing is told then.
    fn start(&self, order: &Order, notifier: Notifier) -> Result<()>;

    /// Watches over a run that an earlier process of the lab has begun. Gives `false` if it does not go on any more.
    fn resume(&self, order: &Order, notifier: Notifier) -> Result<bool>;

    /// Asks the run to end soon, with its board off.
    fn stop(&self, order: &Order);

    /// Cuts the power of a board that nothing uses.
    fn power_off(&self, board: &Board) -> Result<()>;
}

/// What wakes the lab's manager.
#[derive(Debug)]
pub(super) enum Wake {
    /// The queue, a board or a lease has changed.
    Look,
    /// This attempt's run is over.
    Ended(i64),
    /// The board of this job is on.
    Running(i64),
    Stop,
}

/// Tells the lab of one run.
#[derive(Clone)]
pub struct Notifier {
    pub(super) attempt: i64,
    pub(super) job: i64,
    pub(super) wakes: Sender<Wake>,
    pub(super) signals: Arc<Signals>,
}

impl Notifier {
    /// The run has written something: its followers look again.
    pub fn progress(&self) {
        self.signals.job(self.job);
    }

    /// The board is on.
    pub fn running(&self) {
        // The lab may have ended.
        let _ = self.wakes.send(Wake::Running(self.job));
    }

    /// The run is over, and all it wrote is there.
    pub fn ended(&self) {
        let _ = self.wakes.send(Wake::Ended(self.attempt));
    }
}
