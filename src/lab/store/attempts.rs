//! Owns the attempts at jobs in the store: one open attempt on a board at most, and what its end makes of the job and of
//! the board, in one transaction. Never runs one.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::board_states;
use super::columns::word;
use super::connection::{LabStore, now as since_start};
use super::error::StoreError;
use crate::lab::queue::{After, BoardHealth};
use crate::lab::queue::{AttemptInfo, JobHealth, JobPhase, Kind, Next, Outcome, next};

/// An attempt that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAttempt {
    pub id: i64,
    pub job: i64,
    pub number: u32,
    pub board: String,
    /// Whether the job is to be cancelled.
    pub cancel: bool,
}

/// What the end of an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub job: i64,
    pub board: String,
    pub next: Next,
    /// The board's health before and after.
    pub health: (BoardHealth, BoardHealth),
}

impl LabStore {
    /// Gives a waiting job a board: its next attempt. `None` if it does not wait any more or the board is taken.
    pub fn begin_attempt(
        &self,
        job: i64,
        board: &str,
        reason: &str,
        now: f64,
    ) -> Result<Option<OpenAttempt>, StoreError> {
        self.write(|transaction| {
            let changed = transaction.execute(
                "UPDATE lab_job SET state = 'scheduled', ran_on = ?2 WHERE id = ?1 AND state = 'submitted'
                 AND NOT EXISTS (SELECT 1 FROM attempt WHERE board = ?2 AND ended IS NULL)
                 AND NOT EXISTS (SELECT 1 FROM lease WHERE board = ?2)",
                params![job, board],
            )?;
            if changed == 0 {
                return Ok(None);
            }
            let number: u32 = transaction.query_row(
                "SELECT coalesce(max(number), 0) + 1 FROM attempt WHERE job = ?1",
                [job],
                |row| row.get(0),
            )?;
            transaction.execute(
                "INSERT INTO attempt (job, number, board, reason, begun) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![job, number, board, reason, now],
            )?;
            Ok(Some(OpenAttempt {
                id: transaction.last_insert_rowid(),
                job,
                number,
                board: board.into(),
                cancel: false,
            }))
        })
    }

    /// The attempts that have not ended, the oldest first.
    pub fn open_attempts(&self) -> Result<Vec<OpenAttempt>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached(
                    "SELECT attempt.id, job, number, attempt.board, state = 'canceling' FROM attempt
                     JOIN lab_job ON lab_job.id = job WHERE attempt.ended IS NULL ORDER BY attempt.id",
                )?
                .query_map([], |row| {
                    Ok(OpenAttempt {
                        id: row.get(0)?,
                        job: row.get(1)?,
                        number: row.get(2)?,
                        board: row.get(3)?,
                        cancel: row.get(4)?,
                    })
                })?
                .collect()
        })
    }

    /// The image that each of these boards booted last, by the board's name.
    pub fn last_images<'a>(
        &self,
        boards: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        self.read(|transaction| {
            // One look into the index for each: the table may be long.
            let mut query = transaction.prepare_cached(
                "SELECT image FROM attempt WHERE board = ?1 AND image IS NOT NULL ORDER BY id DESC LIMIT 1",
            )?;
            let mut images = BTreeMap::new();
            for board in boards {
                if let Some(image) = query.query_row([board], |row| row.get(0)).optional()? {
                    images.insert(board.to_string(), image);
                }
            }
            Ok(images)
        })
    }

    /// Ends an attempt, and with it, or back into the queue, its job; and notes what it means for the board. Gives `None`,
    /// and changes nothing, if it had ended already. `checks`: whether the board has a health check.
    pub fn end_attempt(
        &self,
        attempt: i64,
        outcome: &Outcome,
        checks: bool,
        now: f64,
    ) -> Result<Option<Settled>, StoreError> {
        self.write(|transaction| {
            let Some(open) = open(transaction, attempt)? else {
                return Ok(None);
            };
            transaction.execute(
                "UPDATE attempt SET ended = ?2, outcome = ?3, stage = ?4, message = ?5, image = ?6 WHERE id = ?1",
                params![
                    attempt,
                    now,
                    outcome.name(),
                    outcome.stage,
                    outcome.message,
                    outcome.image
                ],
            )?;
            let next = next(outcome, open.kind, &open.earlier, open.cancel);
            settle(transaction, open.job, &next, outcome, now)?;
            let before = board_states::health(transaction, &open.board)?;
            let after = before.after(&end_of(&open, outcome), checks, now);
            board_states::set_health(transaction, &open.board, &before, &after, now, "hearth")?;
            board_states::used(transaction, &open.board, since_start())?;
            Ok(Some(Settled {
                job: open.job,
                board: open.board,
                next,
                health: (before, after),
            }))
        })
    }
}

/// An open attempt with what its end is judged by.
struct Open {
    job: i64,
    board: String,
    kind: Kind,
    cancel: bool,
    earlier: Vec<String>,
}

fn open(transaction: &Transaction<'_>, attempt: i64) -> rusqlite::Result<Option<Open>> {
    let found = transaction
        .query_row(
            "SELECT job, attempt.board, kind, state FROM attempt JOIN lab_job ON lab_job.id = job
             WHERE attempt.id = ?1 AND attempt.ended IS NULL",
            [attempt],
            |row| {
                Ok(Open {
                    job: row.get(0)?,
                    board: row.get(1)?,
                    kind: word(row, 2, Kind::from_name)?,
                    cancel: word(row, 3, JobPhase::from_name)? == JobPhase::Canceling,
                    earlier: Vec::new(),
                })
            },
        )
        .optional()?;
    let Some(mut open) = found else {
        return Ok(None);
    };
    open.earlier = transaction
        .prepare_cached("SELECT outcome FROM attempt WHERE job = ?1 AND ended IS NOT NULL")?
        .query_map([open.job], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(open))
}

fn settle(
    transaction: &Transaction<'_>,
    job: i64,
    next: &Next,
    outcome: &Outcome,
    now: f64,
) -> rusqlite::Result<()> {
    match next {
        Next::Again => transaction.execute("UPDATE lab_job SET state = 'submitted' WHERE id = ?1", [job])?,
        Next::Finished(health) => transaction.execute(
            "UPDATE lab_job SET state = 'finished', health = ?2, ended = ?3, exit = ?4,
             message = CASE WHEN ?2 = 'canceled' THEN coalesce(message, ?5) ELSE ?5 END WHERE id = ?1",
            params![job, health.name(), now, outcome.exit, outcome.message],
        )?,
    };
    Ok(())
}

fn end_of<'a>(open: &Open, outcome: &'a Outcome) -> After<'a> {
    let is_whole = matches!(outcome.class, None | Some(crate::board::FailureClass::Test));
    After {
        job: open.job,
        kind: open.kind,
        health: match is_whole {
            true => JobHealth::Complete,
            false => JobHealth::Incomplete,
        },
        passed: outcome.class.is_none(),
        class: outcome.class,
        message: outcome.message.as_deref().unwrap_or("its tests failed"),
        lost: outcome.lost,
    }
}

/// All attempts of a job, the first one first.
pub(super) fn of_job(
    transaction: &Transaction<'_>,
    job: i64,
) -> rusqlite::Result<Vec<AttemptInfo>> {
    transaction
        .prepare_cached(
            "SELECT id, number, board, reason, begun, ended, outcome, stage, message, image FROM attempt WHERE job = ?1
             ORDER BY number",
        )?
        .query_map([job], info_from)?
        .collect()
}

fn info_from(row: &Row<'_>) -> rusqlite::Result<AttemptInfo> {
    Ok(AttemptInfo {
        id: row.get(0)?,
        number: row.get(1)?,
        board: row.get(2)?,
        reason: row.get(3)?,
        begun: row.get(4)?,
        ended: row.get(5)?,
        outcome: row.get(6)?,
        stage: row.get(7)?,
        message: row.get(8)?,
        image: row.get(9)?,
    })
}

/// The boards on which a job failed by the infrastructure.
pub(super) fn boards_that_failed(
    transaction: &Transaction<'_>,
    job: i64,
) -> rusqlite::Result<Vec<String>> {
    transaction
        .prepare_cached(
            "SELECT DISTINCT board FROM attempt WHERE job = ?1 AND outcome = 'infrastructure' ORDER BY board",
        )?
        .query_map([job], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Cancelled, NewJob};
    use super::super::testing::store;
    use super::*;
    use crate::board::FailureClass;
    use crate::lab::queue::{Health, Submission};

    fn add(store: &LabStore, kind: Kind) -> i64 {
        store
            .enqueue(&NewJob {
                kind,
                name: "smoke",
                submitter: "a",
                spec: &Submission::default(),
                files: "0",
                now: 1.0,
            })
            .unwrap()
    }

    fn outcome(class: Option<FailureClass>) -> Outcome {
        Outcome {
            class,
            stage: None,
            message: class.map(|class| format!("{} it was", class.name())),
            exit: class.map_or(0, |class| class.exit_class().exit_code()),
            image: None,
            lost: false,
        }
    }

    fn begin(store: &LabStore, job: i64, board: &str) -> OpenAttempt {
        store.begin_attempt(job, board, "", 2.0).unwrap().unwrap()
    }

    #[test]
    fn a_board_has_one_attempt_at_a_time_and_a_job_too() {
        let (_dir, store) = store();
        let (one, two) = (add(&store, Kind::Test), add(&store, Kind::Test));
        let first = begin(&store, one, "neo1");
        assert_eq!(store.begin_attempt(one, "neo2", "", 2.0).unwrap(), None);
        assert_eq!(store.begin_attempt(two, "neo1", "", 2.0).unwrap(), None);
        assert_eq!(store.open_attempts().unwrap(), std::slice::from_ref(&first));
        let end = store
            .end_attempt(first.id, &outcome(None), true, 3.0)
            .unwrap()
            .unwrap();
        assert_eq!(end.next, Next::Finished(JobHealth::Complete));
        // The same end twice is one result.
        let again = store.end_attempt(first.id, &outcome(Some(FailureClass::Test)), true, 4.0);
        assert_eq!(again.unwrap(), None);
        let job = store.lab_job(one).unwrap().unwrap();
        assert_eq!(
            (job.health, job.exit, job.ended),
            (JobHealth::Complete, Some(0), Some(3.0))
        );
        begin(&store, two, "neo1");
    }

    #[test]
    fn an_infrastructure_failure_sends_the_job_elsewhere_and_the_board_to_its_check() {
        let (_dir, store) = store();
        let job = add(&store, Kind::Test);
        let infrastructure = outcome(Some(FailureClass::Infrastructure));
        for (number, board) in ["neo1", "neo2", "neo3"].into_iter().enumerate() {
            let attempt = begin(&store, job, board);
            assert_eq!(attempt.number as usize, number + 1);
            let end = store
                .end_attempt(attempt.id, &infrastructure, true, 3.0)
                .unwrap()
                .unwrap();
            assert!(end.health.1.check);
            assert_eq!(end.health.1.health, Health::Unknown);
            if number < 2 {
                assert_eq!(end.next, Next::Again);
                assert_eq!(store.waiting().unwrap()[0].avoid.len(), number + 1);
            } else {
                assert_eq!(end.next, Next::Finished(JobHealth::Incomplete));
            }
        }
        let job = store.lab_job(job).unwrap().unwrap();
        assert_eq!(job.attempts.len(), 3);
        assert_eq!(
            (job.exit, job.message.as_deref()),
            (Some(4), Some("infrastructure it was"))
        );
        let history = store.board_events("neo1", 10).unwrap();
        assert!(history[0].what.contains("unknown"), "{history:?}");
    }

    #[test]
    fn a_cancelled_run_ends_its_job_and_a_stopped_lab_does_not() {
        let (_dir, store) = store();
        let cancelled = outcome(Some(FailureClass::Cancelled));
        let job = add(&store, Kind::Test);
        let attempt = begin(&store, job, "neo1");
        let end = store
            .end_attempt(attempt.id, &cancelled, true, 3.0)
            .unwrap()
            .unwrap();
        assert_eq!(end.next, Next::Again);
        let attempt = begin(&store, job, "neo1");
        let told = store.cancel_lab_job(job, "b", 4.0).unwrap();
        assert_eq!(told, Cancelled::Running(attempt.id));
        let end = store
            .end_attempt(attempt.id, &cancelled, true, 5.0)
            .unwrap()
            .unwrap();
        assert_eq!(end.next, Next::Finished(JobHealth::Canceled));
        let job = store.lab_job(job).unwrap().unwrap();
        assert_eq!(job.message.as_deref(), Some("cancelled by b"));
    }
}
