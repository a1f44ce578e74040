//! Owns the open store and its transactions.
//! Never knows a table: see `jobs` and `boots`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::watch;

use super::error::{BUSY, StoreError};
use super::file;

/// The store. Shared between threads and, by its file, between processes. Each method is one transaction.
#[derive(Debug)]
pub struct LabStore {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Counts the changes in this process that concern a waiting board.
    changes: watch::Sender<u64>,
}

impl LabStore {
    /// Opens the store, and makes it if it is not there.
    ///
    /// # Errors
    /// If the file or its directory cannot be made, or the file is no store.
    pub fn open(path: &Path) -> Result<Self> {
        file::prepare(path)?;
        let failed = || format!("cannot open the lab's store {}", path.display());
        let mut connection = Connection::open(path).with_context(failed)?;
        connection.busy_timeout(BUSY)?;
        // WAL: readers never wait for a writer, and commits never wait for the disk. After a power cut the last commits
        // may be missing: boards send their output again, and no run outlives the host.
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .with_context(failed)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        file::migrate(&mut connection).with_context(failed)?;
        Ok(LabStore {
            path: path.to_path_buf(),
            connection: Mutex::new(connection),
            changes: watch::Sender::new(0),
        })
    }

    /// Changes in this process that concern a waiting board.
    pub(in crate::lab) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A number that differs after another process has changed the store (SQLite's `data_version`).
    pub(in crate::lab) fn version(&self) -> Result<i64, StoreError> {
        self.lock()
            .pragma_query_value(None, "data_version", |row| row.get(0))
            .map_err(|error| self.failed(&error))
    }

    /// Runs a call in a transaction that sees one state of the store and changes nothing.
    pub(super) fn read<T>(
        &self,
        call: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.transaction(TransactionBehavior::Deferred, call)
    }

    /// Runs a call in a transaction that has the write lock from its beginning: no other process's change can come
    /// between its statements.
    pub(super) fn write<T>(
        &self,
        call: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.transaction(TransactionBehavior::Immediate, call)
    }

    fn transaction<T>(
        &self,
        behavior: TransactionBehavior,
        call: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let result = connection
            .transaction_with_behavior(behavior)
            .and_then(|transaction| {
                let value = call(&transaction)?;
                transaction.commit()?;
                Ok(value)
            });
        result.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::new(&self.path, error)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves the connection usable: its transaction was rolled back.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since the host was started, those of its sleep included.
pub(super) fn now() -> f64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}
