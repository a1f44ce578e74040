//! Owns the boot of a board up to its login prompt, for a user of its console, without a job.
//! Never talks to the user.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};

use super::board_access::{BoardAccess, Powered};
use super::console_monitor::ConsoleMonitor;
use super::request::Observer;
use super::store::LabStore;
use crate::board::console::Console;
use crate::board::shell::ShellLogin;
use crate::board::{BootState, ConsoleEvent, ConsoleLog, FailureClass, RunFailure, Timeouts};
use crate::recipe::Login;

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
    /// How to get to a shell on its console; none to stop at the login prompt.
    pub login: Option<&'a Login>,
    pub timeouts: Timeouts,
    /// What times in the log count from.
    pub begun: Instant,
    pub cancelled: &'a AtomicBool,
}

impl<'a> BootedBoard<'a> {
    /// Switches the board on and waits for its login prompt, or logs in.
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
        let mut login = request.login.map(ShellLogin::new).transpose()?;
        if login.is_some() {
            monitor.tracker.expect_shell();
        }
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
            let is_there = match &mut login {
                None => Ok(events.contains(&ConsoleEvent::Login)),
                Some(login) => log_in(login, &mut monitor)?,
            };
            if is_there == Ok(true) {
                let (board, log) = monitor.leave();
                return Ok(Ok(BootedBoard { board, log }));
            }
            let failure = if let Err((class, message)) = is_there {
                Some(monitor.tracker.failed(class, message))
            } else if request.cancelled.load(Ordering::Relaxed) {
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

/// Passes on what the console brought to a login, and what the login answers. Gives whether a shell is there, or why there
/// will be none.
///
/// # Errors
/// If the console cannot be written to.
fn log_in(
    login: &mut ShellLogin,
    monitor: &mut ConsoleMonitor<'_>,
) -> Result<Result<bool, (FailureClass, String)>> {
    // A bootloader's prompt is no shell's.
    if monitor.tracker.state() < BootState::Kernel {
        return Ok(Ok(false));
    }
    let at = monitor.at();
    login.heard(monitor.fresh(), at);
    let step = login.act(at);
    let text = login.take_output();
    if !text.is_empty() {
        let written = monitor.board.console().write(&text);
        written.context("the console cannot be written to")?;
    }
    Ok(step)
}
