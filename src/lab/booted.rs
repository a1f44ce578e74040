//! Owns the boot of a board up to its login prompt, for a user of its console, without a job.
//! Never talks to the user.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;

use super::board_access::{BoardAccess, Powered};
use super::console_monitor::ConsoleMonitor;
use super::request::Observer;
use super::store::LabStore;
use crate::board::console::Console;
use crate::board::{ConsoleEvent, ConsoleLog, FailureClass, RunFailure, Timeouts};

/// A board that was booted up to a login. Dropping it cuts its power.
pub struct BootedBoard<'a> {
    board: Powered<'a>,
    log: &'a mut ConsoleLog,
}

/// What is to be booted, and how long that may take.
pub struct BootRequest<'a> {
    pub board: &'a str,
    /// Gets the secret's hash that the console shows, so that the lab knows the board.
    pub store: &'a LabStore,
    pub timeouts: Timeouts,
    /// What times in the log count from.
    pub begun: Instant,
    pub cancelled: &'a AtomicBool,
}

impl<'a> BootedBoard<'a> {
    /// Switches the board on and waits for its login prompt.
    ///
    /// # Errors
    /// If power, console, log or store fail; what fails on the board's side is the inner error.
    pub fn boot(
        request: &BootRequest<'_>,
        access: &'a mut BoardAccess,
        log: &'a mut ConsoleLog,
        observer: &mut dyn Observer,
    ) -> Result<Result<Self, RunFailure>> {
        let mut monitor = ConsoleMonitor::on(access, request.timeouts, request.begun, log)?;
        request.store.powered_on(request.board)?;
        loop {
            let events = monitor.look()?;
            for event in &events {
                if let ConsoleEvent::Line {
                    text,
                    of_job: false,
                    ..
                } = event
                {
                    request.store.confirm_by_console(request.board, text)?;
                }
            }
            monitor.judge_loss();
            monitor.tell(observer);
            if events.contains(&ConsoleEvent::Login) {
                let (board, log) = monitor.leave();
                return Ok(Ok(BootedBoard { board, log }));
            }
            let failure = if request.cancelled.load(Ordering::Relaxed) {
                let why = "the boot was stopped";
                Some(monitor.tracker.failed(FailureClass::Cancelled, why))
            } else {
                monitor.failure()
            };
            if let Some(failure) = failure {
                return monitor.explained(failure).map(Err);
            }
        }
    }

    /// The console, and the log that it goes on to.
    pub fn console(&mut self) -> (&mut dyn Console, &mut ConsoleLog) {
        (self.board.console(), self.log)
    }

    pub fn off(mut self) -> Result<()> {
        self.board.off()
    }
}
