//! Owns the lab's memory: jobs, what boards sent of them, and which boards checked in. One SQLite file, shared
//! by `hearth serve` and every `hearth test` of an instance; each change is a transaction.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::identity::Claim;

/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY,
    board TEXT NOT NULL,
    state TEXT NOT NULL,
    payload BLOB NOT NULL,
    boot TEXT,
    created REAL NOT NULL,
    seen REAL
) STRICT;
CREATE INDEX IF NOT EXISTS job_by_board ON job (board, state);
CREATE TABLE IF NOT EXISTS output (
    job INTEGER NOT NULL REFERENCES job (id),
    start INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boot (
    token TEXT PRIMARY KEY,
    claim TEXT NOT NULL,
    board TEXT NOT NULL,
    boot TEXT NOT NULL,
    problem TEXT,
    checked_in REAL NOT NULL,
    seen REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS boot_by_board ON boot (board, checked_in);
CREATE TABLE IF NOT EXISTS dismissal (token TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS hold (board TEXT PRIMARY KEY, until REAL NOT NULL) STRICT;
PRAGMA user_version = 1;
";

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for its board.
    Submitted,
    /// A board has it.
    Running,
    /// The board did all of it.
    Finished,
    Cancelled,
}

impl JobState {
    fn from_name(name: &str) -> Self {
        match name {
            "submitted" => JobState::Submitted,
            "running" => JobState::Running,
            "finished" => JobState::Finished,
            _ => JobState::Cancelled,
        }
    }
}

/// A job without its payload and output.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: i64,
    pub board: String,
    pub state: JobState,
    /// When the board last gave a sign of life for it, in seconds since 1970.
    pub seen: Option<f64>,
}

/// One boot of a board that checked in.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    pub token: String,
    pub claim: Claim,
    /// What is wrong with the identity that the board claims.
    pub problem: Option<String>,
    /// Seconds since 1970.
    pub checked_in: f64,
    pub seen: f64,
}

/// The store. Shared between threads; each call is one transaction.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens the store, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(|| {
                format!("cannot make the state directory {}", directory.display())
            })?;
        }
        let failed = || format!("cannot open the lab's store {}", path.display());
        let connection = Connection::open(path).with_context(failed)?;
        connection.busy_timeout(BUSY)?;
        // Two processes at once, readers never waiting for a writer.
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .with_context(failed)?;
        connection.execute_batch(SCHEMA).with_context(failed)?;
        Ok(Store {
            connection: Mutex::new(connection),
        })
    }

    /// Adds a job for a board; `payload` is its tar. Gives its number.
    pub fn submit(&self, board: &str, payload: &[u8]) -> Result<i64> {
        let connection = self.lock();
        connection.execute(
            "INSERT INTO job (board, state, payload, created) VALUES (?1, 'submitted', ?2, ?3)",
            params![board, payload, now()],
        )?;
        Ok(connection.last_insert_rowid())
    }

    pub fn job(&self, id: i64) -> Result<Option<Job>> {
        Ok(self
            .lock()
            .query_row(
                "SELECT id, board, state, seen FROM job WHERE id = ?1",
                [id],
                |row| {
                    Ok(Job {
                        id: row.get(0)?,
                        board: row.get(1)?,
                        state: JobState::from_name(&row.get::<_, String>(2)?),
                        seen: row.get(3)?,
                    })
                },
            )
            .optional()?)
    }

    /// Gives the board its oldest job, with its payload, and marks it running. A boot that asks again, because
    /// the answer was lost or the lab was restarted, gets the same job again.
    pub fn take(&self, boot: &Boot) -> Result<Option<(i64, Vec<u8>)>> {
        let connection = self.lock();
        let found = connection
            .query_row(
                "SELECT id, payload FROM job WHERE board = ?1
                 AND (state = 'submitted' OR (state = 'running' AND boot = ?2)) ORDER BY id LIMIT 1",
                params![boot.claim.board, boot.token],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        if let Some((id, _)) = &found {
            connection.execute(
                "UPDATE job SET state = 'running', boot = ?2, seen = ?3 WHERE id = ?1",
                params![id, boot.token, now()],
            )?;
        }
        Ok(found)
    }

    /// Adds output that begins at byte `start` of the job's output. What is there already is left as it is, so
    /// that a resend does no harm; a gap is refused. Gives how many bytes there are then.
    pub fn append(&self, boot: &Boot, id: i64, start: u64, data: &[u8]) -> Result<Option<u64>> {
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let ours: Option<i64> = transaction
            .query_row(
                "SELECT id FROM job WHERE id = ?1 AND boot = ?2",
                params![id, boot.token],
                |row| row.get(0),
            )
            .optional()?;
        if ours.is_none() {
            return Ok(None);
        }
        let have: u64 = transaction.query_row(
            "SELECT coalesce(max(start + length(data)), 0) FROM output WHERE job = ?1",
            [id],
            |row| row.get(0),
        )?;
        let mut end = have;
        if start <= have && start + data.len() as u64 > have {
            let fresh = &data[usize::try_from(have - start)?..];
            transaction.execute(
                "INSERT INTO output (job, start, data) VALUES (?1, ?2, ?3)",
                params![id, have, fresh],
            )?;
            end = have + fresh.len() as u64;
        }
        transaction.execute("UPDATE job SET seen = ?2 WHERE id = ?1", params![id, now()])?;
        transaction.commit()?;
        Ok(Some(end))
    }

    /// The job's output from byte `start` on, as far as it has come.
    pub fn output(&self, id: i64, start: u64) -> Result<Vec<u8>> {
        let connection = self.lock();
        let mut query =
            connection.prepare("SELECT start, data FROM output WHERE job = ?1 AND start + length(data) > ?2 ORDER BY start")?;
        let mut rows = query.query(params![id, start])?;
        let mut output = Vec::new();
        while let Some(row) = rows.next()? {
            let at: u64 = row.get(0)?;
            let data: Vec<u8> = row.get(1)?;
            output.extend(&data[usize::try_from(start.saturating_sub(at))?..]);
        }
        Ok(output)
    }

    /// The board did all of the job. Nothing happens to a job that another boot has.
    pub fn finish(&self, boot: &Boot, id: i64) -> Result<bool> {
        let changed = self.lock().execute(
            "UPDATE job SET state = 'finished', seen = ?3 WHERE id = ?1 AND boot = ?2 AND state IN ('running', 'finished')",
            params![id, boot.token, now()],
        )?;
        Ok(changed == 1)
    }

    /// Nobody wants the job any more, or its board cannot do it.
    pub fn cancel(&self, id: i64) -> Result<()> {
        self.lock().execute(
            "UPDATE job SET state = 'cancelled' WHERE id = ?1 AND state != 'finished'",
            [id],
        )?;
        Ok(())
    }

    /// Nobody waits for what runs that were killed have left of jobs for this board.
    pub fn cancel_all(&self, board: &str) -> Result<()> {
        self.lock().execute(
            "UPDATE job SET state = 'cancelled' WHERE board = ?1 AND state IN ('submitted', 'running')",
            [board],
        )?;
        Ok(())
    }

    /// Tells a boot, when it asks for work, that there will be none any more.
    pub fn dismiss(&self, boot: &Boot) -> Result<()> {
        self.lock().execute(
            "INSERT OR IGNORE INTO dismissal (token) VALUES (?1)",
            [&boot.token],
        )?;
        Ok(())
    }

    /// Whether there will be no work for this boot any more.
    pub fn is_dismissed(&self, boot: &Boot) -> Result<bool> {
        Ok(self.lock().query_row(
            "SELECT EXISTS (SELECT 1 FROM dismissal WHERE token = ?1)",
            [&boot.token],
            |row| row.get(0),
        )?)
    }

    /// A board says who it is. The same boot that checks in again keeps its token.
    pub fn check_in(&self, claim: &Claim, problem: Option<&str>) -> Result<Boot> {
        let token = token(claim)?;
        let at = now();
        let connection = self.lock();
        connection.execute(
            "INSERT INTO boot (token, claim, board, boot, problem, checked_in, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
             ON CONFLICT (token) DO UPDATE SET seen = ?6, problem = ?5",
            params![token, serde_json::to_string(claim)?, claim.board, claim.boot, problem, at],
        )?;
        drop(connection);
        self.boot(&token)?
            .context("the check-in just stored is gone")
    }

    /// The boot that a token belongs to.
    pub fn boot(&self, token: &str) -> Result<Option<Boot>> {
        let connection = self.lock();
        let row = connection
            .query_row(
                "SELECT token, claim, problem, checked_in, seen FROM boot WHERE token = ?1",
                [token],
                boot_columns,
            )
            .optional()?;
        row.map(boot_from).transpose()
    }

    /// The board's boots that checked in since `since` (seconds since 1970), newest first.
    pub fn boots(&self, board: &str, since: f64) -> Result<Vec<Boot>> {
        self.query_boots(
            "WHERE board = ?1 AND checked_in >= ?2 ORDER BY checked_in DESC",
            params![board, since],
        )
    }

    /// The boots with a problem in their identity, newest first.
    pub fn strangers(&self) -> Result<Vec<Boot>> {
        self.query_boots("WHERE problem IS NOT NULL ORDER BY checked_in DESC", [])
    }

    /// The last boot of every other board that was seen since `since`.
    pub fn others(&self, claim: &Claim, since: f64) -> Result<Vec<Boot>> {
        self.query_boots(
            "WHERE boot != ?1 AND seen >= ?2",
            params![claim.boot, since],
        )
    }

    /// Notes a sign of life.
    pub fn beat(&self, boot: &Boot) -> Result<()> {
        let at = now();
        let connection = self.lock();
        connection.execute(
            "UPDATE boot SET seen = ?2 WHERE token = ?1",
            params![boot.token, at],
        )?;
        connection.execute(
            "UPDATE job SET seen = ?2 WHERE boot = ?1 AND state = 'running'",
            params![boot.token, at],
        )?;
        Ok(())
    }

    /// Keeps a board that has nothing to do from powering itself off, for so many seconds.
    pub fn hold(&self, board: &str, seconds: f64) -> Result<()> {
        self.lock().execute(
            "INSERT INTO hold (board, until) VALUES (?1, ?2) ON CONFLICT (board) DO UPDATE SET until = ?2",
            params![board, now() + seconds],
        )?;
        Ok(())
    }

    /// Whether the board is held, or a job waits for it, or it came or worked within the last `idle` seconds.
    pub fn is_wanted(&self, boot: &Boot, idle: f64) -> Result<bool> {
        let at = now();
        Ok(boot.checked_in > at - idle
            || self.lock().query_row(
                "SELECT EXISTS (SELECT 1 FROM hold WHERE board = ?1 AND until > ?2)
                 OR EXISTS (SELECT 1 FROM job WHERE board = ?1 AND state = 'submitted')
                 OR EXISTS (SELECT 1 FROM job WHERE boot = ?3 AND seen > ?4)",
                params![boot.claim.board, at, boot.token, at - idle],
                |row| row.get(0),
            )?)
    }

    fn query_boots(&self, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Boot>> {
        let connection = self.lock();
        let mut query = connection.prepare(&format!(
            "SELECT token, claim, problem, checked_in, seen FROM boot {condition}"
        ))?;
        let rows = query
            .query_map(parameters, boot_columns)?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(boot_from).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves the connection usable: its transaction was rolled back.
        self.connection
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

type BootRow = (String, String, Option<String>, f64, f64);

fn boot_columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<BootRow> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
    ))
}

fn boot_from((token, claim, problem, checked_in, seen): BootRow) -> Result<Boot> {
    Ok(Boot {
        token,
        claim: serde_json::from_str(&claim)?,
        problem,
        checked_in,
        seen,
    })
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// What a boot shows to prove that it is the one that checked in: the hash of its identity. The boot id, which the kernel
/// draws at random and says to nobody else, makes it unguessable.
fn token(claim: &Claim) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(claim)?);
    Ok(hex::encode(&hash.finalize()[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("lab.sqlite")).unwrap();
        (dir, store)
    }

    fn claim(board: &str, boot: &str) -> Claim {
        Claim {
            board: board.into(),
            boot: boot.into(),
            ..Claim::default()
        }
    }

    #[test]
    fn a_job_goes_to_its_board_once_and_again_to_the_same_boot() {
        let (_dir, store) = store();
        let id = store.submit("neo1", b"tar").unwrap();
        let other = store.check_in(&claim("neo2", "x"), None).unwrap();
        assert_eq!(store.take(&other).unwrap(), None);
        let boot = store.check_in(&claim("neo1", "a"), None).unwrap();
        assert_eq!(store.take(&boot).unwrap(), Some((id, b"tar".to_vec())));
        assert_eq!(store.take(&boot).unwrap(), Some((id, b"tar".to_vec())));
        let reboot = store.check_in(&claim("neo1", "b"), None).unwrap();
        assert_eq!(store.take(&reboot).unwrap(), None);
        assert!(!store.finish(&reboot, id).unwrap());
        assert!(store.finish(&boot, id).unwrap());
        assert_eq!(store.job(id).unwrap().unwrap().state, JobState::Finished);
        assert_eq!(store.take(&boot).unwrap(), None);
    }

    #[test]
    fn output_is_kept_once_however_often_it_is_sent_and_survives_a_restart() {
        let (dir, store) = store();
        let id = store.submit("neo1", b"").unwrap();
        let boot = store.check_in(&claim("neo1", "a"), None).unwrap();
        store.take(&boot).unwrap();
        assert_eq!(store.append(&boot, id, 0, b"hello ").unwrap(), Some(6));
        assert_eq!(store.append(&boot, id, 0, b"hello wor").unwrap(), Some(9));
        assert_eq!(store.append(&boot, id, 20, b"gap").unwrap(), Some(9));
        drop(store);
        let store = Store::open(&dir.path().join("lab.sqlite")).unwrap();
        let boot = store.boot(&boot.token).unwrap().unwrap();
        assert_eq!(store.append(&boot, id, 9, b"ld").unwrap(), Some(11));
        assert_eq!(store.output(id, 0).unwrap(), b"hello world");
        assert_eq!(store.output(id, 7).unwrap(), b"orld");
        let stranger = store.check_in(&claim("neo1", "b"), None).unwrap();
        assert_eq!(store.append(&stranger, id, 11, b"x").unwrap(), None);
    }

    #[test]
    fn a_board_is_wanted_while_it_is_held_or_has_a_job_and_for_a_time_after() {
        let (_dir, store) = store();
        let boot = store.check_in(&claim("neo1", "a"), None).unwrap();
        assert!(store.is_wanted(&boot, 600.0).unwrap());
        assert!(!store.is_wanted(&boot, 0.0).unwrap());
        store.hold("neo1", 60.0).unwrap();
        assert!(store.is_wanted(&boot, 0.0).unwrap());
        store.hold("neo1", -1.0).unwrap();
        let id = store.submit("neo1", b"").unwrap();
        assert!(store.is_wanted(&boot, 0.0).unwrap());
        store.cancel(id).unwrap();
        assert!(!store.is_wanted(&boot, 0.0).unwrap());

        let id = store.submit("neo1", b"").unwrap();
        let long_ago = Boot {
            checked_in: boot.checked_in - 3600.0,
            ..boot.clone()
        };
        assert!(store.take(&boot).unwrap().is_some());
        store.beat(&boot).unwrap();
        assert!(store.finish(&boot, id).unwrap());
        assert!(store.is_wanted(&long_ago, 600.0).unwrap());
        assert!(!store.is_wanted(&long_ago, 0.0).unwrap());
    }
}
