//! Owns the lab's memory: jobs, what boards sent of them, and which boards checked in. One SQLite file, shared
//! by `hearth serve` and every `hearth test` of an instance; each change is a transaction.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::watch;

use super::identity::Claim;
use super::secret;
mod file;

/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(30);
/// How often a sign of life is written, in seconds.
const BEAT: f64 = 15.0;
/// How many boots are remembered, and how many of one name whose console the lab did not see.
const BOOTS: u32 = 1024;
const UNCONFIRMED: u32 = 8;
/// How much of a job's output is read at once, in bytes.
const LOOK: usize = 256 << 10;

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
pub struct JobStatus {
    pub id: i64,
    pub board: String,
    pub state: JobState,
    /// When the board last gave a sign of life for it, in seconds since 1970.
    pub seen: Option<f64>,
}

/// One boot of a board that checked in.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// Its row in the store.
    id: i64,
    /// What the board shows with every call. Known only when it has just checked in: the store has its hash.
    pub token: String,
    pub claim: Claim,
    /// What is wrong with the identity that the board claims.
    pub problem: Option<String>,
    /// Seconds since the host was started, as all times in the store: a clock that is put right changes none.
    pub checked_in: f64,
    pub seen: f64,
    /// Whether a console that the lab follows showed the hash of this boot's secret.
    pub confirmed: bool,
}

/// The store. Shared between threads; each call is one transaction.
#[derive(Debug)]
pub struct LabStore {
    connection: Mutex<Connection>,
    /// Counts the changes that a waiting board wants to know of.
    changes: watch::Sender<u64>,
}

impl LabStore {
    /// Opens the store, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        file::prepare(path)?;
        let failed = || format!("cannot open the lab's store {}", path.display());
        let mut connection = Connection::open(path).with_context(failed)?;
        connection.busy_timeout(BUSY)?;
        // Two processes at once, readers never waiting for a writer, and no wait for the disk at every commit: after a
        // power cut the last moments may be missing, which boards send again or whose run is over.
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .with_context(failed)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        file::migrate(&mut connection).with_context(failed)?;
        Ok(LabStore {
            connection: Mutex::new(connection),
            changes: watch::Sender::new(0),
        })
    }

    /// Tells a waiting board's request to look again.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Another number after another process has changed the store.
    pub(super) fn version(&self) -> Result<i64> {
        let connection = self.lock();
        Ok(connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    /// Adds a job for a board; `payload` is its tar. Gives its number.
    pub fn submit(&self, board: &str, payload: &[u8]) -> Result<i64> {
        let id = {
            let connection = self.lock();
            connection.execute(
                "INSERT INTO job (board, state, payload, created) VALUES (?1, 'submitted', ?2, ?3)",
                params![board, payload, now()],
            )?;
            connection.last_insert_rowid()
        };
        self.changed();
        Ok(id)
    }

    pub fn job(&self, id: i64) -> Result<Option<JobStatus>> {
        Ok(self
            .lock()
            .query_row(
                "SELECT id, board, state, seen FROM job WHERE id = ?1",
                [id],
                |row| {
                    Ok(JobStatus {
                        id: row.get(0)?,
                        board: row.get(1)?,
                        state: JobState::from_name(&row.get::<_, String>(2)?),
                        seen: row.get(3)?,
                    })
                },
            )
            .optional()?)
    }

    /// Gives the board its oldest job, with its payload, and marks it running, if the board's console has confirmed this
    /// boot. A boot that asks again, because the answer was lost or the lab was restarted, gets the same job again.
    pub fn take(&self, boot: &Boot) -> Result<Option<(i64, Vec<u8>)>> {
        let mut connection = self.lock();
        // Most look in vain: they write nothing.
        if waiting(&connection, boot)?.is_none() {
            return Ok(None);
        }
        let transaction = immediate(&mut connection)?;
        let Some(id) = waiting(&transaction, boot)? else {
            return Ok(None);
        };
        let payload =
            transaction.query_row("SELECT payload FROM job WHERE id = ?1", [id], |row| {
                row.get(0)
            })?;
        transaction.execute(
            "UPDATE job SET state = 'running', boot = ?2, seen = ?3 WHERE id = ?1",
            params![id, boot.id, now()],
        )?;
        transaction.commit()?;
        Ok(Some((id, payload)))
    }

    /// Adds output that begins at byte `start` of the job's output. What is there already is left as it is, so
    /// that a resend does no harm; a gap is refused. Gives how many bytes there are then.
    pub fn append(&self, boot: &Boot, id: i64, start: u64, data: &[u8]) -> Result<Option<u64>> {
        let mut connection = self.lock();
        let transaction = immediate(&mut connection)?;
        let ours: Option<i64> = transaction
            .query_row(
                "SELECT id FROM job WHERE id = ?1 AND boot = ?2 AND state = 'running'",
                params![id, boot.id],
                |row| row.get(0),
            )
            .optional()?;
        if ours.is_none() {
            return Ok(None);
        }
        let have: u64 = transaction.query_row(
            "SELECT coalesce((SELECT start + length(data) FROM output WHERE job = ?1
             ORDER BY start DESC LIMIT 1), 0)",
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

    /// The job's output from byte `start` on, as far as it has come, and at most a part that is read in a moment.
    pub fn output(&self, id: i64, start: u64) -> Result<Vec<u8>> {
        let connection = self.lock();
        let mut query =
            connection.prepare(
            "SELECT start, data FROM output WHERE job = ?1
             AND start >= coalesce((SELECT max(start) FROM output WHERE job = ?1 AND start <= ?2), 0) ORDER BY start",
        )?;
        let mut rows = query.query(params![id, start])?;
        let mut output = Vec::new();
        while let Some(row) = rows.next()? {
            let at: u64 = row.get(0)?;
            let data: Vec<u8> = row.get(1)?;
            let from = usize::try_from(start.saturating_sub(at))?.min(data.len());
            output.extend(&data[from..]);
            if output.len() >= LOOK {
                break;
            }
        }
        Ok(output)
    }

    /// The board did all of the job. Nothing happens to a job that another boot has.
    pub fn finish(&self, boot: &Boot, id: i64) -> Result<bool> {
        let changed = self.lock().execute(
            "UPDATE job SET state = 'finished', seen = ?3 WHERE id = ?1 AND boot = ?2 AND state IN ('running', 'finished')",
            params![id, boot.id, now()],
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
        self.lock()
            .execute("UPDATE boot SET dismissed = 1 WHERE id = ?1", [boot.id])?;
        self.changed();
        Ok(())
    }

    /// Whether there will be no work for this boot any more.
    pub fn is_dismissed(&self, boot: &Boot) -> Result<bool> {
        Ok(self.lock().query_row(
            "SELECT coalesce((SELECT dismissed FROM boot WHERE id = ?1), 1)",
            [boot.id],
            |row| row.get(0),
        )?)
    }

    /// The lab has just switched the board on: its boots before that are over, and what its console showed of them counts
    /// no more.
    pub fn powered_on(&self, board: &str) -> Result<()> {
        let mut connection = self.lock();
        let transaction = immediate(&mut connection)?;
        transaction.execute("DELETE FROM confirmation WHERE board = ?1", [board])?;
        transaction.execute("UPDATE boot SET over = 1 WHERE board = ?1", [board])?;
        transaction.commit()?;
        Ok(())
    }

    /// The console of this board showed the hash of a secret: whoever knows the secret is the board.
    pub fn confirm(&self, board: &str, hash: &str) -> Result<()> {
        self.lock().execute(
            "INSERT OR IGNORE INTO confirmation (board, hash) VALUES (?1, ?2)",
            [board, hash],
        )?;
        self.changed();
        Ok(())
    }

    /// A board says who it is. The same boot that checks in again with the same secret keeps its token. Of its earlier
    /// boots none counts any more; one that goes on talking is a twin (see [`LabStore::twin`]).
    pub fn check_in(&self, claim: &Claim, problem: Option<&str>) -> Result<Boot> {
        let at = now();
        let hash = secret::hash(&claim.secret);
        let public = Claim {
            secret: String::new(),
            ..claim.clone()
        };
        let mut connection = self.lock();
        let transaction = immediate(&mut connection)?;
        let token = secret::token(&file::key(&transaction)?, claim)?;
        let confirmed = is_confirmed(&transaction, &hash)?;
        // A stranger must not end the boot of a board that the console showed.
        transaction.execute(
            "UPDATE boot SET superseded = ?3 WHERE board = ?1 AND boot != ?2 AND superseded IS NULL AND over = 0
             AND (?4 OR NOT EXISTS (SELECT 1 FROM confirmation WHERE confirmation.hash = boot.hash))",
            params![claim.board, claim.boot, at, confirmed],
        )?;
        transaction.execute(
            "INSERT INTO boot (token, hash, claim, board, boot, problem, checked_in, seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
             ON CONFLICT (token) DO UPDATE SET seen = ?7, problem = ?6,
                 superseded = NULL, over = 0, dismissed = 0",
            params![
                secret::hash(&token),
                hash,
                serde_json::to_string(&public)?,
                claim.board,
                claim.boot,
                problem,
                at
            ],
        )?;
        prune(&transaction, &claim.board)?;
        transaction.commit()?;
        drop(connection);
        self.boot(&token)?
            .context("the check-in just stored is gone")
    }

    /// Whether another boot of the same board goes on talking though this one came after it, or this one does though
    /// another came after it: two boards have one name.
    pub fn twin(&self, boot: &Boot) -> Result<bool> {
        Ok(self.lock().query_row(
            "SELECT EXISTS (SELECT 1 FROM boot WHERE board = ?1 AND over = 0 AND superseded IS NOT NULL
             AND seen > superseded AND seen > ?2
             AND EXISTS (SELECT 1 FROM confirmation WHERE confirmation.hash = boot.hash) = ?3)",
            params![boot.claim.board, now() - 90.0, boot.confirmed],
            |row| row.get(0),
        )?)
    }

    /// The boot that a token belongs to.
    pub fn boot(&self, token: &str) -> Result<Option<Boot>> {
        // Looked up by its hash: how long that takes tells nothing of the token.
        let mut boots = self.query_boots("WHERE token = ?1", [secret::hash(token)])?;
        Ok(boots.pop().map(|boot| Boot {
            token: token.into(),
            ..boot
        }))
    }

    /// The boots that this board's console confirmed since it was switched on, newest first, whoever they say they are.
    pub fn confirmed(&self, board: &str) -> Result<Vec<Boot>> {
        self.query_boots(
            "WHERE hash IN (SELECT hash FROM confirmation WHERE confirmation.board = ?1) AND over = 0
             ORDER BY id DESC",
            [board],
        )
    }

    /// The boots that call themselves so and that no console confirmed, since the board was last switched on.
    pub fn unconfirmed(&self, board: &str) -> Result<Vec<Boot>> {
        self.query_boots(
            "WHERE board = ?1 AND over = 0 AND hash NOT IN (SELECT hash FROM confirmation) ORDER BY id DESC",
            [board],
        )
    }

    /// The boots with a problem in their identity, newest first.
    pub fn strangers(&self) -> Result<Vec<Boot>> {
        self.query_boots("WHERE problem IS NOT NULL ORDER BY id DESC", [])
    }

    /// Notes a sign of life, unless one was noted a moment ago.
    pub fn beat(&self, boot: &Boot) -> Result<()> {
        let at = now();
        let mut connection = self.lock();
        let due: bool = connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM boot WHERE id = ?1 AND (seen <= ?2 OR (superseded IS NOT NULL AND seen <= superseded)))",
            params![boot.id, at - BEAT],
            |row| row.get(0),
        )?;
        if !due {
            return Ok(());
        }
        let transaction = immediate(&mut connection)?;
        transaction.execute(
            "UPDATE boot SET seen = ?2 WHERE id = ?1",
            params![boot.id, at],
        )?;
        transaction.execute(
            "UPDATE job SET seen = ?2 WHERE boot = ?1 AND state = 'running'",
            params![boot.id, at],
        )?;
        transaction.commit()?;
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
                params![boot.claim.board, at, boot.id, at - idle],
                |row| row.get(0),
            )?)
    }

    fn query_boots(&self, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Boot>> {
        let connection = self.lock();
        let mut query = connection.prepare(&format!(
            "SELECT id, claim, problem, checked_in, seen,
             EXISTS (SELECT 1 FROM confirmation WHERE confirmation.hash = boot.hash) FROM boot {condition}"
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

type BootRow = (i64, String, Option<String>, f64, f64, bool);

fn boot_columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<BootRow> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
    ))
}

fn boot_from((id, claim, problem, checked_in, seen, confirmed): BootRow) -> Result<Boot> {
    Ok(Boot {
        id,
        token: String::new(),
        claim: serde_json::from_str(&claim)?,
        problem,
        checked_in,
        seen,
        confirmed,
    })
}

/// The job that waits for this boot or is already its own.
fn waiting(connection: &Connection, boot: &Boot) -> Result<Option<i64>> {
    Ok(connection
        .query_row(
            "SELECT job.id FROM job, boot WHERE boot.id = ?2 AND boot.over = 0 AND job.board = ?1
             AND boot.hash IN (SELECT hash FROM confirmation WHERE confirmation.board = ?1)
             AND (state = 'submitted' OR (state = 'running' AND job.boot = ?2)) ORDER BY job.id LIMIT 1",
            params![boot.claim.board, boot.id],
            |row| row.get(0),
        )
        .optional()?)
}

fn is_confirmed(connection: &Connection, hash: &str) -> Result<bool> {
    Ok(connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM confirmation WHERE hash = ?1)",
        [hash],
        |row| row.get(0),
    )?)
}

/// Forgets old boots, so that nobody fills the disk by checking in. One that a console confirmed is kept.
fn prune(transaction: &Transaction<'_>, board: &str) -> Result<()> {
    for (condition, keep) in [("board = ?1", UNCONFIRMED), ("?1 = ?1", BOOTS)] {
        transaction.execute(
            &format!(
                "DELETE FROM boot WHERE {condition} AND hash NOT IN (SELECT hash FROM confirmation)
                 AND id NOT IN (SELECT boot FROM job WHERE state = 'running' AND boot IS NOT NULL)
                 AND id NOT IN (SELECT id FROM boot WHERE {condition} ORDER BY id DESC LIMIT ?2)"
            ),
            params![board, keep],
        )?;
    }
    Ok(())
}

/// A transaction that no other process's change can come into.
fn immediate(connection: &mut Connection) -> Result<Transaction<'_>> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// Seconds since the host was started, those of its sleep included.
pub(super) fn now() -> f64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, LabStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LabStore::open(&dir.path().join("lab.sqlite")).unwrap();
        (dir, store)
    }

    fn claim(board: &str, boot: &str) -> Claim {
        Claim {
            board: board.into(),
            boot: boot.into(),
            secret: format!("secret of {boot}"),
            ..Claim::default()
        }
    }

    /// A boot whose console the lab follows.
    fn boot(store: &LabStore, board: &str, boot: &str) -> Boot {
        let claim = claim(board, boot);
        store.confirm(board, &secret::hash(&claim.secret)).unwrap();
        store.check_in(&claim, None).unwrap()
    }

    #[test]
    fn a_job_goes_only_to_who_has_the_secret_that_the_boards_console_showed() {
        let (_dir, store) = store();
        let id = store.submit("neo1", b"tar").unwrap();
        // An attacker that knows everything of the board but the secret, one without a secret, and one on another console.
        let attacker = Claim {
            secret: "guess".into(),
            ..claim("neo1", "a")
        };
        let old = Claim {
            secret: String::new(),
            ..claim("neo1", "a")
        };
        for claim in [&attacker, &old] {
            let boot = store.check_in(claim, None).unwrap();
            assert_eq!(store.take(&boot).unwrap(), None);
            assert_eq!(store.append(&boot, id, 0, b"forged").unwrap(), None);
        }
        store.confirm("neo2", &secret::hash("guess")).unwrap();
        let boot_of_another = store.check_in(&attacker, None).unwrap();
        assert_eq!(store.take(&boot_of_another).unwrap(), None);
        let own = boot(&store, "neo1", "a");
        assert_eq!(store.take(&own).unwrap().unwrap().0, id);
        // Nor does a token follow from what others can know.
        assert!(
            store
                .boot(&secret::token("", &claim("neo1", "a")).unwrap())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_board_that_boots_often_is_not_its_own_twin_and_two_that_keep_talking_are() {
        let (_dir, store) = store();
        for number in 0..5 {
            store.powered_on("neo1").unwrap();
            let own = boot(&store, "neo1", &format!("run {number}"));
            store.beat(&own).unwrap();
            assert!(!store.twin(&own).unwrap());
        }
        // By itself, without the lab's power.
        let first = boot(&store, "neo1", "a");
        let second = boot(&store, "neo1", "b");
        assert!(!store.twin(&second).unwrap());
        store.beat(&first).unwrap();
        assert!(store.twin(&second).unwrap() && store.twin(&first).unwrap());
        // A stranger makes no twin of a board whose console the lab follows.
        store.powered_on("neo1").unwrap();
        let own = boot(&store, "neo1", "c");
        let stranger = store.check_in(&claim("neo1", "d"), None).unwrap();
        for boot in [&own, &stranger, &own] {
            store.beat(boot).unwrap();
        }
        assert!(!store.twin(&own).unwrap());
    }

    #[test]
    fn boots_are_forgotten_and_a_sign_of_life_is_rarely_written() {
        let (_dir, store) = store();
        let own = boot(&store, "neo1", "own");
        for number in 0..100 {
            store
                .check_in(&claim("neo1", &number.to_string()), None)
                .unwrap();
        }
        assert!(store.boot(&own.token).unwrap().is_some());
        assert!(store.unconfirmed("neo1").unwrap().len() <= UNCONFIRMED as usize);
        let written = || {
            store
                .lock()
                .query_row("SELECT total_changes()", [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let before = written();
        for _ in 0..1000 {
            store.beat(&own).unwrap();
            assert_eq!(store.take(&own).unwrap(), None);
        }
        assert_eq!(written(), before);
    }

    #[test]
    fn a_job_goes_to_its_board_once_and_again_to_the_same_boot() {
        let (_dir, store) = store();
        let id = store.submit("neo1", b"tar").unwrap();
        let other = boot(&store, "neo2", "x");
        assert_eq!(store.take(&other).unwrap(), None);
        let own = boot(&store, "neo1", "a");
        assert_eq!(store.take(&own).unwrap(), Some((id, b"tar".to_vec())));
        assert_eq!(store.take(&own).unwrap(), Some((id, b"tar".to_vec())));
        let reboot = boot(&store, "neo1", "b");
        assert_eq!(store.take(&reboot).unwrap(), None);
        assert!(!store.finish(&reboot, id).unwrap());
        assert!(store.finish(&own, id).unwrap());
        assert_eq!(store.job(id).unwrap().unwrap().state, JobState::Finished);
        assert_eq!(store.take(&own).unwrap(), None);
    }

    #[test]
    fn output_is_kept_once_however_often_it_is_sent_and_survives_a_restart() {
        let (dir, store) = store();
        let id = store.submit("neo1", b"").unwrap();
        let own = boot(&store, "neo1", "a");
        store.take(&own).unwrap();
        assert_eq!(store.append(&own, id, 0, b"hello ").unwrap(), Some(6));
        assert_eq!(store.append(&own, id, 0, b"hello wor").unwrap(), Some(9));
        assert_eq!(store.append(&own, id, 20, b"gap").unwrap(), Some(9));
        drop(store);
        let store = LabStore::open(&dir.path().join("lab.sqlite")).unwrap();
        let own = store.boot(&own.token).unwrap().unwrap();
        assert_eq!(store.append(&own, id, 9, b"ld").unwrap(), Some(11));
        assert_eq!(store.output(id, 0).unwrap(), b"hello world");
        assert_eq!(store.output(id, 7).unwrap(), b"orld");
        let stranger = boot(&store, "neo1", "b");
        assert_eq!(store.append(&stranger, id, 11, b"x").unwrap(), None);
    }

    #[test]
    fn a_board_is_wanted_while_it_is_held_or_has_a_job_and_for_a_time_after() {
        let (_dir, store) = store();
        let own = boot(&store, "neo1", "a");
        assert!(store.is_wanted(&own, 600.0).unwrap());
        assert!(!store.is_wanted(&own, 0.0).unwrap());
        store.hold("neo1", 60.0).unwrap();
        assert!(store.is_wanted(&own, 0.0).unwrap());
        store.hold("neo1", -1.0).unwrap();
        let id = store.submit("neo1", b"").unwrap();
        assert!(store.is_wanted(&own, 0.0).unwrap());
        store.cancel(id).unwrap();
        assert!(!store.is_wanted(&own, 0.0).unwrap());

        let id = store.submit("neo1", b"").unwrap();
        let long_ago = Boot {
            checked_in: own.checked_in - 3600.0,
            ..own.clone()
        };
        assert!(store.take(&own).unwrap().is_some());
        store
            .lock()
            .execute("UPDATE job SET seen = ?1", [now()])
            .unwrap();
        assert!(store.finish(&own, id).unwrap());
        assert!(store.is_wanted(&long_ago, 600.0).unwrap());
        assert!(!store.is_wanted(&long_ago, 0.0).unwrap());
    }
}
