//! Owns the jobs in the store: from submission over the hand-out to a board and its output to the end.
//! Never decides which boot is a board: `boots` does.

use rusqlite::{OptionalExtension, Transaction, params};

use super::boots::Boot;
use super::connection::{LabStore, now};
use super::error::StoreError;

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
    /// When the board last gave a sign of life for it, in seconds since the host was started.
    pub seen: Option<f64>,
}

impl LabStore {
    /// Adds a job for a board; `payload` is its tar. Gives its number.
    pub fn submit(&self, board: &str, payload: &[u8]) -> Result<i64, StoreError> {
        let id = self.write(|transaction| {
            transaction.execute(
                "INSERT INTO job (board, state, created) VALUES (?1, 'submitted', ?2)",
                params![board, now()],
            )?;
            let id = transaction.last_insert_rowid();
            // A table of its own: SQLite writes a row as a whole whenever its size changes.
            transaction.execute(
                "INSERT INTO payload (job, data) VALUES (?1, ?2)",
                params![id, payload],
            )?;
            Ok(id)
        })?;
        self.changed();
        Ok(id)
    }

    pub fn job(&self, id: i64) -> Result<Option<JobStatus>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached("SELECT id, board, state, seen FROM job WHERE id = ?1")?
                .query_row([id], |row| {
                    Ok(JobStatus {
                        id: row.get(0)?,
                        board: row.get(1)?,
                        state: JobState::from_name(&row.get::<_, String>(2)?),
                        seen: row.get(3)?,
                    })
                })
                .optional()
        })
    }

    /// Gives the board its oldest job, with its payload, and marks it running, if the board's console has confirmed this
    /// boot. A boot that asks again, because the answer was lost or the lab was restarted, gets the same job again.
    pub fn take(&self, boot: &Boot) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        // Most calls find nothing: they must not wait for the write lock.
        if self
            .read(|transaction| waiting(transaction, boot))?
            .is_none()
        {
            return Ok(None);
        }
        self.write(|transaction| {
            let Some(id) = waiting(transaction, boot)? else {
                return Ok(None);
            };
            let payload =
                transaction.query_row("SELECT data FROM payload WHERE job = ?1", [id], |row| {
                    row.get(0)
                })?;
            transaction.execute(
                "UPDATE job SET state = 'running', boot = ?2, seen = ?3 WHERE id = ?1",
                params![id, boot.id, now()],
            )?;
            Ok(Some((id, payload)))
        })
    }

    /// The boots for which there is something now: a job to take, or the word that there will be none.
    pub(in crate::lab) fn due(&self) -> Result<Vec<i64>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached(
                    "SELECT id FROM boot WHERE dismissed = 1
                     UNION SELECT boot.id FROM job
                     JOIN confirmation ON confirmation.board = job.board
                     JOIN boot ON boot.hash = confirmation.hash AND boot.board = job.board
                     WHERE job.state = 'submitted' AND boot.over = 0",
                )?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// Adds output that begins at byte `start` of the job's output. What is there already is left as it is, so
    /// that a resend does no harm; a gap is refused. Gives how many bytes there are then; `None` if the job is not this
    /// boot's.
    pub fn append(
        &self,
        boot: &Boot,
        id: i64,
        start: u64,
        data: &[u8],
    ) -> Result<Option<u64>, StoreError> {
        self.write(|transaction| {
            let changed = transaction
                .prepare_cached(
                    "UPDATE job SET seen = ?3 WHERE id = ?1 AND boot = ?2 AND state = 'running'",
                )?
                .execute(params![id, boot.id, now()])?;
            if changed == 0 {
                return Ok(None);
            }
            let have: u64 = transaction
                .prepare_cached(
                    "SELECT coalesce((SELECT start + length(data) FROM output WHERE job = ?1
                     ORDER BY start DESC LIMIT 1), 0)",
                )?
                .query_row([id], |row| row.get(0))?;
            let known = have
                .checked_sub(start)
                .and_then(|known| usize::try_from(known).ok());
            let Some(fresh) = known
                .and_then(|known| data.get(known..))
                .filter(|fresh| !fresh.is_empty())
            else {
                return Ok(Some(have));
            };
            transaction
                .prepare_cached("INSERT INTO output (job, start, data) VALUES (?1, ?2, ?3)")?
                .execute(params![id, have, fresh])?;
            Ok(Some(have + fresh.len() as u64))
        })
    }

    /// The job's output from byte `start` on, as far as it has come, and at most a part that is read in a moment.
    pub fn output(&self, id: i64, start: u64) -> Result<Vec<u8>, StoreError> {
        self.read(|transaction| {
            let mut query = transaction.prepare_cached(
                "SELECT start, data FROM output WHERE job = ?1
                 AND start >= coalesce((SELECT max(start) FROM output WHERE job = ?1 AND start <= ?2), 0) ORDER BY start",
            )?;
            let mut rows = query.query(params![id, start])?;
            let mut output = Vec::new();
            while let Some(row) = rows.next()? {
                let at: u64 = row.get(0)?;
                let data: Vec<u8> = row.get(1)?;
                let known = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX);
                output.extend(data.get(known..).unwrap_or_default());
                if output.len() >= LOOK {
                    break;
                }
            }
            Ok(output)
        })
    }

    /// The board did all of the job. Gives `false`, and changes nothing, if another boot has the job or it was cancelled.
    pub fn finish(&self, boot: &Boot, id: i64) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let changed = transaction.execute(
                "UPDATE job SET state = 'finished', seen = ?3 WHERE id = ?1 AND boot = ?2 AND state IN ('running', 'finished')",
                params![id, boot.id, now()],
            )?;
            Ok(changed == 1)
        })
    }

    /// Cancels a job in any state but finished.
    pub fn cancel(&self, id: i64) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE job SET state = 'cancelled' WHERE id = ?1 AND state != 'finished'",
                [id],
            )?;
            Ok(())
        })
    }

    /// Cancels what runs that were killed have left of jobs for this board.
    pub fn cancel_all(&self, board: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE job SET state = 'cancelled' WHERE board = ?1 AND state IN ('submitted', 'running')",
                [board],
            )?;
            Ok(())
        })
    }
}

/// The job that waits for this boot or is already its own.
fn waiting(transaction: &Transaction<'_>, boot: &Boot) -> rusqlite::Result<Option<i64>> {
    transaction
        .prepare_cached(
            "SELECT job.id FROM job, boot WHERE boot.id = ?2 AND boot.over = 0 AND job.board = ?1
             AND boot.hash IN (SELECT hash FROM confirmation WHERE confirmation.board = ?1)
             AND (state = 'submitted' OR (state = 'running' AND job.boot = ?2)) ORDER BY job.id LIMIT 1",
        )?
        .query_row(params![boot.claim.board, boot.id], |row| row.get(0))
        .optional()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{boot, claim, store};
    use super::*;
    use crate::lab::identity::Claim;
    use crate::lab::secret;

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
                .boot(&secret::token("", "", &claim("neo1", "a")))
                .unwrap()
                .is_none()
        );
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
        let other = boot(&store, "neo1", "b");
        assert_eq!(store.append(&other, id, 11, b"x").unwrap(), None);
    }

    const OTHER: &str = "HEARTH_TEST_CANCELS";

    /// The other process of the test below: cancels each job whose number comes on standard input.
    #[test]
    fn the_process_that_cancels() {
        let Some(path) = std::env::var_os(OTHER) else {
            return;
        };
        let store = LabStore::open(std::path::Path::new(&path)).unwrap();
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let (id, wait) = line.split_once(' ').unwrap();
            // Not always at the same moment of the hand-out.
            let wait = std::time::Duration::from_micros(wait.parse().unwrap());
            let end = std::time::Instant::now() + wait;
            while std::time::Instant::now() < end {}
            store.cancel(id.parse().unwrap()).unwrap();
            println!("\ncancelled {id}");
        }
    }

    #[test]
    fn a_cancel_of_another_process_is_never_lost_in_a_hand_out() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        let (dir, store) = store();
        let own = boot(&store, "neo1", "a");
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args([
                "lab::store::jobs::tests::the_process_that_cancels",
                "--exact",
                "--nocapture",
            ])
            .env(OTHER, dir.path().join("lab.sqlite"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut orders = other.stdin.take().unwrap();
        let mut answers = BufReader::new(other.stdout.take().unwrap()).lines();
        let (mut before, mut after, mut finished) = (0, 0, 0);
        for round in 0..1000 {
            let id = store.submit("neo1", b"tar").unwrap();
            writeln!(orders, "{id} {}", round % 50 * 8).unwrap();
            let taken = store.take(&own).unwrap();
            let done = round % 2 == 0 && store.finish(&own, id).unwrap();
            let word = format!("cancelled {id}");
            assert!(answers.by_ref().any(|line| line.unwrap() == word));
            let state = store.job(id).unwrap().unwrap().state;
            // The cancel counts in either order, unless the board had done all of the job.
            let expected = match done {
                true => JobState::Finished,
                false => JobState::Cancelled,
            };
            assert_eq!(state, expected, "round {round}: {taken:?}");
            assert_eq!(store.take(&own).unwrap(), None);
            match taken {
                Some(_) if done => finished += 1,
                Some(_) => after += 1,
                None => before += 1,
            }
        }
        drop(orders);
        assert!(other.wait().unwrap().success());
        // Otherwise the two never met, and the test says nothing.
        assert!(
            before > 20 && after > 20 && finished > 20,
            "{before} {after} {finished}"
        );
    }
}
