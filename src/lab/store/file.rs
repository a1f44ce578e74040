//! Owns the store's file: who may read it, its tables, and what of it survives a restart of the host.
//! Never knows what the tables are for.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::error::Fault;
use crate::lab::secret;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY,
    board TEXT NOT NULL,
    state TEXT NOT NULL,
    boot INTEGER,
    created REAL NOT NULL,
    seen REAL
) STRICT;
CREATE INDEX IF NOT EXISTS job_by_board ON job (board, state);
CREATE INDEX IF NOT EXISTS job_by_boot ON job (boot);
CREATE TABLE IF NOT EXISTS payload (job INTEGER PRIMARY KEY REFERENCES job (id), data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS output (
    job INTEGER NOT NULL REFERENCES job (id),
    start INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boot (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL,
    claim TEXT NOT NULL,
    board TEXT NOT NULL,
    boot TEXT NOT NULL,
    problem TEXT,
    checked_in REAL NOT NULL,
    seen REAL NOT NULL,
    superseded REAL,
    over INTEGER NOT NULL DEFAULT 0,
    dismissed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS boot_by_board ON boot (board);
CREATE INDEX IF NOT EXISTS boot_by_hash ON boot (hash);
CREATE TABLE IF NOT EXISTS confirmation (
    board TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (board, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS confirmation_by_hash ON confirmation (hash);
CREATE TABLE IF NOT EXISTS own_host (hash TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hold (board TEXT PRIMARY KEY, until REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS lab_job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    submitter TEXT NOT NULL,
    board TEXT,
    type TEXT,
    tags TEXT NOT NULL,
    priority INTEGER NOT NULL,
    spec TEXT NOT NULL,
    files TEXT NOT NULL,
    state TEXT NOT NULL,
    health TEXT NOT NULL,
    overtaken INTEGER NOT NULL DEFAULT 0,
    submitted REAL NOT NULL,
    ended REAL,
    exit INTEGER,
    message TEXT,
    ran_on TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS lab_job_open ON lab_job (id) WHERE state != 'finished';
CREATE INDEX IF NOT EXISTS lab_job_by_board ON lab_job (ran_on, id);
CREATE INDEX IF NOT EXISTS lab_job_by_submitter ON lab_job (submitter, id);
CREATE TABLE IF NOT EXISTS attempt (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL REFERENCES lab_job (id),
    number INTEGER NOT NULL,
    board TEXT NOT NULL,
    reason TEXT NOT NULL,
    begun REAL NOT NULL,
    ended REAL,
    outcome TEXT,
    stage TEXT,
    message TEXT,
    image TEXT,
    UNIQUE (job, number)
) STRICT;
-- One run at a time on a board, whatever happens.
CREATE UNIQUE INDEX IF NOT EXISTS attempt_open ON attempt (board) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS attempt_by_board ON attempt (board, id);
CREATE TABLE IF NOT EXISTS lab_board (name TEXT PRIMARY KEY, health TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS board_event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    board TEXT NOT NULL,
    at REAL NOT NULL,
    what TEXT NOT NULL,
    who TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS board_event_by_board ON board_event (board, id);
CREATE TABLE IF NOT EXISTS lease (
    board TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    holder TEXT NOT NULL,
    why TEXT NOT NULL,
    since REAL NOT NULL,
    seconds REAL NOT NULL,
    until REAL NOT NULL,
    beat REAL,
    alive REAL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS power (board TEXT PRIMARY KEY, off REAL, used REAL) STRICT, WITHOUT ROWID;
";

/// The version of the tables above, in SQLite's `user_version`. Version 3 had none of the lab's queue.
const VERSION: i64 = 4;

/// Makes the file, its directory and what SQLite keeps beside it readable by their owner alone: jobs may hold secrets.
pub(super) fn prepare(path: &Path) -> Result<()> {
    if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the state directory {}", directory.display()))?;
        // A shared directory such as /tmp keeps its mode.
        if fs::metadata(directory)?.mode() & 0o1000 == 0 {
            restrict(directory, 0o700)?;
        }
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make the lab's store {}", path.display()))?;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_os_string();
        name.push(suffix);
        let file = PathBuf::from(name);
        if file.exists() {
            restrict(&file, 0o600)?;
        }
    }
    Ok(())
}

fn restrict(path: &Path, mode: u32) -> Result<()> {
    if fs::metadata(path)?.mode() & 0o7777 != mode {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .with_context(|| format!("cannot keep {} from other users", path.display()))?;
    }
    Ok(())
}

/// Makes the tables and the lab's key. Times count from the start of the host: those from before a restart of the host are
/// void, and boards check in again.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(Fault::host(format!(
            "the lab's store has version {version}, of a newer hearth, and this one knows version {VERSION}"
        ))
        .remedy("use the newer hearth, or name another directory with HEARTH_STATE")
        .into());
    }
    if version == 1 || version == 2 {
        // Jobs of an older format have no run that waits for them.
        transaction.execute_batch(
            "DROP TABLE output; DROP TABLE job; DROP TABLE boot; DROP TABLE hold;",
        )?;
    }
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if fact(&transaction, "host")?.as_deref() != Some(host.trim()) {
        transaction.execute_batch(
            "DELETE FROM boot; DELETE FROM hold; DELETE FROM confirmation; DELETE FROM own_host; UPDATE job SET seen = NULL;
             DELETE FROM lease WHERE beat IS NOT NULL; UPDATE lease SET until = seconds; DELETE FROM power;",
        )?;
        set_fact(&transaction, "host", host.trim())?;
    }
    if fact(&transaction, "key")?.is_none() {
        set_fact(&transaction, "key", &secret::random()?)?;
    }
    transaction.commit()?;
    Ok(())
}

/// The lab's own random key.
pub(super) fn key(transaction: &Transaction<'_>) -> rusqlite::Result<String> {
    fact(transaction, "key")?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn fact(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()
}

fn set_fact(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO fact (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        [name, value],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_an_older_format_is_made_anew_and_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.sqlite");
        let key = LabStore::open(&path).unwrap().operator_token().unwrap();
        // As version 2 had it.
        Connection::open(&path)
            .unwrap()
            .execute_batch(
                "DROP TABLE payload; DROP TABLE job;
                 CREATE TABLE job (id INTEGER PRIMARY KEY, board TEXT NOT NULL, state TEXT NOT NULL,
                     payload BLOB NOT NULL, boot INTEGER, created REAL NOT NULL, seen REAL) STRICT;
                 INSERT INTO job VALUES (1, 'neo1', 'submitted', x'00', NULL, 0.0, NULL);
                 PRAGMA user_version = 2;",
            )
            .unwrap();
        let store = LabStore::open(&path).unwrap();
        assert_eq!(store.operator_token().unwrap(), key);
        assert_eq!(store.job(1).unwrap(), None);
        assert_eq!(store.submit("neo1", b"tar").unwrap(), 1);
    }
    use crate::lab::LabStore;

    #[test]
    fn a_store_of_version_3_gets_the_queue_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.sqlite");
        let store = LabStore::open(&path).unwrap();
        let (key, id) = (
            store.operator_token().unwrap(),
            store.submit("neo1", b"tar").unwrap(),
        );
        drop(store);
        Connection::open(&path)
            .unwrap()
            .execute_batch("DROP TABLE attempt; DROP TABLE lab_job; DROP TABLE lease; PRAGMA user_version = 3;")
            .unwrap();
        let store = LabStore::open(&path).unwrap();
        assert_eq!(store.operator_token().unwrap(), key);
        assert!(store.job(id).unwrap().is_some());
        assert_eq!(store.waiting().unwrap(), []);
    }

    #[test]
    fn a_store_of_a_newer_hearth_is_refused_in_one_sentence_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.sqlite");
        drop(LabStore::open(&path).unwrap());
        let newer = Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        let error = LabStore::open(&path).unwrap_err();
        assert!(format!("{error:#}").contains("version 99, of a newer hearth"));
        assert!(crate::error::help_of(&error).is_some());
        let version: i64 = newer
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 99);
    }

    #[test]
    fn other_users_cannot_read_the_store_even_one_that_was_made_open() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let path = state.join("lab.sqlite");
        drop(LabStore::open(&path).unwrap());
        fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let _store = LabStore::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&state), 0o700);
        for file in fs::read_dir(&state).unwrap() {
            let file = file.unwrap().path();
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }
}
