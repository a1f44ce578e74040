//! Owns booting a board up to a login: its servers, its power and its console.
//! Never reads from a keyboard.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::servers::Serving;
use super::target::{Host, Target};
use crate::board::ConsoleLog;
use crate::error::{Class, Fault};
use crate::lab::{BoardAccess, BootRequest, BootedBoard, LabStore, Observer};

/// For how long, in seconds, a board with a login is kept from powering itself off.
const HOLD: f64 = 24.0 * 3600.0;

/// What a board needs while it is up. Dropping it ends the servers.
pub struct Session {
    store: Arc<LabStore>,
    _serving: Serving,
    access: BoardAccess,
    board: String,
    _scratch: TempDir,
}

impl Session {
    /// Starts the servers, and keeps the board from powering itself off.
    ///
    /// # Errors
    /// If a server cannot be started, or the lab file gives the board no console or power switch.
    pub fn open(target: &Target, host: Host) -> Result<Self> {
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let store = Arc::new(LabStore::open(&target.store(scratch.path()))?);
        store.hold(&target.board.name, HOLD)?;
        Ok(Session {
            _serving: Serving::start(target, &store)?,
            access: target.access(scratch.path(), host)?,
            board: target.board.name.clone(),
            store,
            _scratch: scratch,
        })
    }

    /// Switches the board on and waits for its login. `log` takes what its console says, with the seconds since `begun`.
    ///
    /// # Errors
    /// [`Class::Infrastructure`] if the board does not get there.
    pub fn boot<'a>(
        &'a mut self,
        target: &Target,
        begun: Instant,
        log: &'a mut ConsoleLog,
        cancelled: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<BootedBoard<'a>> {
        let request = BootRequest {
            board: &target.board.name,
            store: &self.store,
            login: target.login.as_ref(),
            timeouts: target.timeouts(),
            begun,
            cancelled,
        };
        BootedBoard::boot(&request, &mut self.access, log, observer)?.map_err(|failure| {
            let class = failure.class.name();
            let told = format!("{class} failure in {}: {}", failure.stage, failure.message);
            Fault::new(Class::Infrastructure, told).into()
        })
    }

    /// Lets the board power itself off again when it is idle.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn close(self) -> Result<()> {
        Ok(self.store.hold(&self.board, 0.0)?)
    }

    /// Called with each line of the board's console, for the board's secret in it.
    pub fn confirmer(&self) -> impl FnMut(&str) -> Result<()> + use<> {
        let (store, board) = (Arc::clone(&self.store), self.board.clone());
        move |line| Ok(store.confirm_by_console(&board, line)?)
    }
}
