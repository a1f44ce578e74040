//! Owns the boot of a board for somebody who wants its console, without a job.
//! Never talks to the person.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;

use super::board_access::{BoardAccess, Powered};
use super::console_monitor::ConsoleMonitor;
use super::request::Observer;
use crate::board::console::Console;
use crate::board::{ConsoleEvent, ConsoleLog, FailureClass, RunFailure, Timeouts};

/// A board that was booted up to a login. Dropping it cuts its power.
pub struct BootedBoard<'a> {
    board: Powered<'a>,
    log: &'a mut ConsoleLog,
}

impl<'a> BootedBoard<'a> {
    /// Switches the board on and waits for its login prompt. Times in the log count from `begun`.
    ///
    /// # Errors
    /// If power, console or log fail; what fails on the board's side is the inner error.
    pub fn boot(
        access: &'a mut BoardAccess,
        timeouts: Timeouts,
        begun: Instant,
        log: &'a mut ConsoleLog,
        cancelled: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Result<Self, RunFailure>> {
        let mut board = ConsoleMonitor::on(access, timeouts, begun, log)?;
        loop {
            let events = board.look()?;
            board.judge_loss();
            board.tell(observer);
            if events.contains(&ConsoleEvent::Login) {
                let (board, log) = board.leave();
                return Ok(Ok(BootedBoard { board, log }));
            }
            let failure = if cancelled.load(Ordering::Relaxed) {
                let why = "the boot was stopped";
                Some(board.tracker.failed(FailureClass::Cancelled, why))
            } else {
                board.failure()
            };
            if let Some(failure) = failure {
                return board.explained(failure).map(Err);
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
