//! Owns the monitoring of one powered board: its console goes to the log, the parser and the boot tracker.
//! Never knows of jobs.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::board_access::{BoardAccess, Powered};
use super::request::Observer;
use crate::board::{
    BootState, BootTracker, ConsoleEvent, ConsoleLog, ConsoleParser, RunFailure, Timeouts,
};

/// How long one read of the console may wait.
const READ: Duration = Duration::from_millis(50);

/// A board with its power on whose console is read. Dropping it cuts the power.
pub(super) struct ConsoleMonitor<'a> {
    pub(super) board: Powered<'a>,
    pub(super) tracker: BootTracker,
    parser: ConsoleParser,
    log: &'a mut ConsoleLog,
    begun: Instant,
    told: BootState,
    lost: Option<String>,
    /// One sentence for each gap in the console that has ended.
    missed: Vec<String>,
    /// How many bytes the console brought.
    heard: u64,
    /// What the last look brought.
    fresh: Vec<u8>,
}

impl<'a> ConsoleMonitor<'a> {
    /// Switches the board on; times count from `begun`.
    ///
    /// # Errors
    /// If its power, its console or its emulator does not work.
    pub(super) fn on(
        access: &'a mut BoardAccess,
        timeouts: Timeouts,
        begun: Instant,
        log: &'a mut ConsoleLog,
    ) -> Result<Self> {
        let board = Powered::on(access)?;
        let mut tracker = BootTracker::new(timeouts);
        tracker.power_on(begun.elapsed().as_secs_f64());
        Ok(ConsoleMonitor {
            board,
            tracker,
            parser: ConsoleParser::default(),
            log,
            begun,
            told: BootState::Off,
            lost: None,
            missed: Vec::new(),
            heard: 0,
            fresh: Vec::new(),
        })
    }

    /// Seconds since the run began.
    pub(super) fn at(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// How many bytes the console brought since the power was switched on.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The bytes that the last look brought.
    pub(super) fn fresh(&self) -> &[u8] {
        &self.fresh
    }

    /// Why the console can be read no more, if it is so.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Reads what the console shows within a short time, keeps it, and passes it to the boot tracker.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub(super) fn look(&mut self) -> Result<Vec<ConsoleEvent>> {
        self.fresh.clear();
        if self.lost.is_some() {
            std::thread::sleep(READ);
            return Ok(Vec::new());
        }
        let mut buffer = [0; 16 << 10];
        let count = match self.board.console().read(&mut buffer, READ) {
            Ok(count) => count,
            Err(error) => {
                let what = if self.board.is_off() {
                    "the board powered itself off".to_string()
                } else {
                    format!("the console was lost: {error}")
                };
                self.lost = Some(what);
                return Ok(Vec::new());
            }
        };
        self.heard += count as u64;
        // A board that is done has no more to say.
        if self.tracker.state() == BootState::Done {
            self.lost = self.gone();
        }
        let mut events = Vec::new();
        if let Some(missed) = self.board.console().missed() {
            // What came before and what comes after are not one line.
            events = self.parser.finish();
            self.take(&events)?;
            self.log.line(self.at(), &format!("hearth: {missed}"))?;
            self.missed.push(missed);
        }
        self.fresh.extend(&buffer[..count]);
        let shown = self.parser.feed(&buffer[..count]);
        self.take(&shown)?;
        self.log.flush()?;
        events.extend(shown);
        Ok(events)
    }

    /// Why nothing can be read from the console at present, if it is so.
    pub(super) fn gone(&mut self) -> Option<String> {
        self.board.console().gone().map(String::from)
    }

    /// What was missed of the console, each time once.
    pub(super) fn take_missed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.missed)
    }

    /// Whether the console is lost and that is a failure of the board, which it is until the network alone carries it.
    pub(super) fn judge_loss(&mut self) -> bool {
        let at = self.at();
        self.lost
            .as_ref()
            .is_some_and(|what| self.tracker.console_lost(at, what))
    }

    /// Tells the observer when the board has come to another state.
    pub(super) fn tell(&mut self, observer: &mut dyn Observer) {
        if self.tracker.state() != self.told {
            self.told = self.tracker.state();
            observer.stage(self.told, self.at());
        }
    }

    /// Why the board has failed, if it has. A console that is gone is named: it may be the reason why nothing was seen.
    pub(super) fn failure(&mut self) -> Option<RunFailure> {
        let mut failure = self.tracker.failure(self.at())?;
        if let Some(gone) = self.gone() {
            failure.message = format!("{gone}; {}", failure.message);
        }
        Some(failure)
    }

    /// The failure with the console's last lines, the unfinished one (such as a prompt) included.
    pub(super) fn explained(&mut self, failure: RunFailure) -> Result<RunFailure> {
        let rest = self.parser.finish();
        self.take(&rest)?;
        self.log.flush()?;
        Ok(RunFailure {
            console: self.log.tail(),
            ..failure
        })
    }

    /// Ends the monitoring; the board stays on.
    pub(super) fn leave(self) -> (Powered<'a>, &'a mut ConsoleLog) {
        (self.board, self.log)
    }

    fn take(&mut self, events: &[ConsoleEvent]) -> Result<()> {
        let at = self.at();
        for event in events {
            if let ConsoleEvent::Line { text, .. } = event {
                self.log.line(at, text)?;
            }
            self.tracker.event(event, at);
        }
        Ok(())
    }
}
