//! Owns the error of a store that cannot be read or written during a run: a failure of the host, never of a board.
//! Never decides what a run makes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::error::Fault;

/// How long another process may hold the file.
pub(super) const BUSY: Duration = Duration::from_secs(30);

/// The lab's store failed. Its class is the host's; the cause says what SQLite reported.
#[derive(Debug, thiserror::Error)]
#[error("the lab's store {} failed", path.display())]
pub struct StoreError {
    path: PathBuf,
    source: Fault,
}

impl StoreError {
    pub(super) fn new(path: &Path, error: &rusqlite::Error) -> Self {
        let fault = Fault::host(error.to_string());
        let fault = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => fault.remedy("free some space on its disk"),
            Some(ErrorCode::DatabaseBusy) => fault.remedy(format!(
                "another process held it for more than {} s",
                BUSY.as_secs()
            )),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => fault.remedy(
                "stop hearth and remove the file: a new one is made; unfinished jobs are lost",
            ),
            _ => fault,
        };
        StoreError {
            path: path.to_path_buf(),
            source: fault,
        }
    }
}
