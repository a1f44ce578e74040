//! Owns who is woken when a job or a board changes: followers wait, and none polls.
//! Never says what has changed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Those who wait for one job each, and those who wait for anything in the lab.
#[derive(Debug, Default)]
pub struct Signals {
    jobs: Mutex<HashMap<i64, watch::Sender<()>>>,
    lab: watch::Sender<()>,
}

impl Signals {
    /// What changes when the job has something new. Take it before looking, so that nothing is missed in between.
    pub fn follow_job(&self, id: i64) -> watch::Receiver<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| job.receiver_count() > 0);
        jobs.entry(id).or_default().subscribe()
    }

    /// What changes when a job or a board has come to another state.
    pub fn follow_lab(&self) -> watch::Receiver<()> {
        self.lab.subscribe()
    }

    pub(super) fn job(&self, id: i64) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = jobs.get(&id) {
            job.send_replace(());
        }
    }

    pub(super) fn lab(&self) {
        self.lab.send_replace(());
    }
}
