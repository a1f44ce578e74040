//! Owns the lab's queue in the store: jobs from their submission to their end, and what the scheduler reads.
//! Never decides which job goes where.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter};

use super::attempts;
use super::columns::{json, to_json, word};
use super::connection::LabStore;
use super::error::StoreError;
use crate::lab::queue::{Job, JobHealth, JobPhase, Kind, Submission, WaitingJob};

/// How many attempts count as a submitter's share of late.
const LATELY: u32 = 64;
/// The most jobs in one listing.
const PAGE: u32 = 1000;

const COLUMNS: &str = "id, kind, name, submitter, state, health, submitted, ended, exit, message, ran_on, files, spec";

/// A job that is to be added.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    pub kind: Kind,
    pub name: &'a str,
    pub submitter: &'a str,
    pub spec: &'a Submission,
    /// The directory of its files, below the lab's.
    pub files: &'a str,
    /// Seconds since 1970.
    pub now: f64,
}

/// Which jobs are listed; all of what is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<JobPhase>,
    pub health: Option<JobHealth>,
    /// The board that it asks for or that it ran on.
    pub board: Option<String>,
    pub board_type: Option<String>,
    pub submitter: Option<String>,
    pub kind: Option<Kind>,
    /// Only jobs with smaller numbers.
    pub before: Option<i64>,
    pub limit: u32,
}

/// What became of a cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    Unknown,
    /// It had ended before.
    TooLate,
    /// It waited, and is finished.
    Done,
    /// It runs in this attempt, which is to be ended.
    Running(i64),
}

impl LabStore {
    /// Adds a job at the end of the queue; gives its number.
    pub fn enqueue(&self, job: &NewJob<'_>) -> Result<i64, StoreError> {
        let tags = to_json(&job.spec.tags);
        let spec = to_json(job.spec);
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO lab_job (kind, name, submitter, board, type, tags, priority, spec, files, state, health, submitted)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'submitted', 'unknown', ?10)",
                params![
                    job.kind.name(),
                    job.name,
                    job.submitter,
                    job.spec.board,
                    job.spec.board_type,
                    tags,
                    job.spec.priority.value(),
                    spec,
                    job.files,
                    job.now,
                ],
            )?;
            Ok(transaction.last_insert_rowid())
        })
    }

    /// A job with its attempts.
    pub fn lab_job(&self, id: i64) -> Result<Option<Job>, StoreError> {
        self.read(|transaction| {
            let job = transaction
                .prepare_cached(&format!("SELECT {COLUMNS} FROM lab_job WHERE id = ?1"))?
                .query_row([id], job_from)
                .optional()?;
            job.map(|job| with_attempts(transaction, job)).transpose()
        })
    }

    /// Jobs, the newest first, each with its attempts.
    pub fn lab_jobs(&self, filter: &Filter) -> Result<Vec<Job>, StoreError> {
        let (condition, values) = condition(filter);
        let limit = filter.limit.clamp(1, PAGE);
        self.read(|transaction| {
            let jobs: Vec<Job> = transaction
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM lab_job WHERE {condition} ORDER BY id DESC LIMIT {limit}"
                ))?
                .query_map(params_from_iter(values), job_from)?
                .collect::<rusqlite::Result<_>>()?;
            jobs.into_iter()
                .map(|job| with_attempts(transaction, job))
                .collect()
        })
    }

    /// The jobs that wait, the oldest first.
    pub fn waiting(&self) -> Result<Vec<WaitingJob>, StoreError> {
        self.read(|transaction| {
            let mut waiting = transaction
                .prepare_cached(
                    "SELECT id, kind, board, type, tags, spec, submitter, overtaken FROM lab_job
                     WHERE state != 'finished' AND state = 'submitted' ORDER BY id",
                )?
                .query_map([], waiting_from)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            for job in &mut waiting {
                job.avoid = attempts::boards_that_failed(transaction, job.id)?;
            }
            Ok(waiting)
        })
    }

    /// How many jobs wait, and how many are on boards.
    pub fn counts(&self) -> Result<(u64, u64), StoreError> {
        self.read(|transaction| {
            transaction.query_row(
                "SELECT coalesce(sum(state = 'submitted'), 0), coalesce(sum(state != 'submitted'), 0) FROM lab_job
                 WHERE state != 'finished'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        })
    }

    /// How much of the lab each submitter has: what runs counts 1, what was begun lately a tenth.
    pub fn shares(&self) -> Result<BTreeMap<String, f64>, StoreError> {
        self.read(|transaction| {
            let mut shares = BTreeMap::new();
            for (query, weight) in [
                (
                    "SELECT submitter, count(*) FROM lab_job WHERE id IN (SELECT job FROM attempt WHERE ended IS NULL)
                     AND kind = 'test' GROUP BY submitter"
                        .to_string(),
                    1.0,
                ),
                (
                    format!(
                        "SELECT submitter, count(*) FROM (SELECT job FROM attempt ORDER BY id DESC LIMIT {LATELY}) AS late
                         JOIN lab_job ON lab_job.id = late.job WHERE kind = 'test' GROUP BY submitter"
                    ),
                    0.1,
                ),
            ] {
                let mut statement = transaction.prepare_cached(&query)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let count: f64 = row.get::<_, i64>(1)? as f64;
                    *shares.entry(row.get(0)?).or_insert(0.0) += weight * count;
                }
            }
            Ok(shares)
        })
    }

    /// Notes that waiting jobs were overtaken, and by how much that counts.
    pub fn overtaken(&self, jobs: &[(i64, u32)]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut statement = transaction
                .prepare_cached("UPDATE lab_job SET overtaken = overtaken + ?2 WHERE id = ?1")?;
            for (id, by) in jobs {
                statement.execute(params![id, by])?;
            }
            Ok(())
        })
    }

    /// Cancels a job; `who` for its message.
    pub fn cancel_lab_job(&self, id: i64, who: &str, now: f64) -> Result<Cancelled, StoreError> {
        let message = format!("cancelled by {who}");
        self.write(|transaction| {
            let state: Option<String> = transaction
                .query_row("SELECT state FROM lab_job WHERE id = ?1", [id], |row| row.get(0))
                .optional()?;
            Ok(match state.as_deref().and_then(JobPhase::from_name) {
                None => Cancelled::Unknown,
                Some(JobPhase::Finished) => Cancelled::TooLate,
                Some(JobPhase::Submitted) => {
                    transaction.execute(
                        "UPDATE lab_job SET state = 'finished', health = 'canceled', ended = ?2, exit = 4, message = ?3
                         WHERE id = ?1",
                        params![id, now, message],
                    )?;
                    Cancelled::Done
                }
                Some(JobPhase::Scheduled | JobPhase::Running | JobPhase::Canceling) => {
                    transaction.execute(
                        "UPDATE lab_job SET state = 'canceling', message = ?2 WHERE id = ?1",
                        params![id, message],
                    )?;
                    let attempt = transaction.query_row(
                        "SELECT id FROM attempt WHERE job = ?1 AND ended IS NULL",
                        [id],
                        |row| row.get(0),
                    )?;
                    Cancelled::Running(attempt)
                }
            })
        })
    }

    /// The board of this job is on: it runs.
    pub fn lab_job_runs(&self, id: i64) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE lab_job SET state = 'running' WHERE id = ?1 AND state = 'scheduled'",
                [id],
            )?;
            Ok(())
        })
    }

    /// The boards of which a health check waits or runs.
    pub fn boards_in_check(&self) -> Result<BTreeSet<String>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached(
                    "SELECT board FROM lab_job WHERE state != 'finished' AND kind = 'health' AND board IS NOT NULL",
                )?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }
}

fn condition(filter: &Filter) -> (String, Vec<rusqlite::types::Value>) {
    let mut conditions = vec!["1".to_string()];
    let mut values: Vec<rusqlite::types::Value> = Vec::new();
    let mut add = |text: &str, value: rusqlite::types::Value| {
        values.push(value);
        conditions.push(text.replace('?', &format!("?{}", values.len())));
    };
    if let Some(state) = filter.state {
        // The first part lets SQLite take the index of open jobs.
        let text = match state {
            JobPhase::Finished => "state = ?",
            _ => "state != 'finished' AND state = ?",
        };
        add(text, state.name().to_string().into());
    }
    if let Some(health) = filter.health {
        add("health = ?", health.name().to_string().into());
    }
    if let Some(board) = &filter.board {
        add("(ran_on = ? OR board = ?)", board.clone().into());
    }
    if let Some(name) = &filter.board_type {
        add("type = ?", name.clone().into());
    }
    if let Some(name) = &filter.submitter {
        add("submitter = ?", name.clone().into());
    }
    if let Some(kind) = filter.kind {
        add("kind = ?", kind.name().to_string().into());
    }
    if let Some(before) = filter.before {
        add("id < ?", before.into());
    }
    (conditions.join(" AND "), values)
}

fn with_attempts(transaction: &Transaction<'_>, mut job: Job) -> rusqlite::Result<Job> {
    job.attempts = attempts::of_job(transaction, job.id)?;
    Ok(job)
}

fn job_from(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        kind: word(row, 1, Kind::from_name)?,
        name: row.get(2)?,
        submitter: row.get(3)?,
        state: word(row, 4, JobPhase::from_name)?,
        health: word(row, 5, JobHealth::from_name)?,
        submitted: row.get(6)?,
        ended: row.get(7)?,
        exit: row.get(8)?,
        message: row.get(9)?,
        ran_on: row.get(10)?,
        files: row.get(11)?,
        spec: json(row, 12)?,
        attempts: Vec::new(),
    })
}

fn waiting_from(row: &Row<'_>) -> rusqlite::Result<WaitingJob> {
    let spec: Submission = json(row, 5)?;
    Ok(WaitingJob {
        id: row.get(0)?,
        kind: word(row, 1, Kind::from_name)?,
        board: row.get(2)?,
        board_type: row.get(3)?,
        tags: json(row, 4)?,
        priority: spec.priority,
        submitter: row.get(6)?,
        overtaken: row.get(7)?,
        avoid: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    fn spec(text: &str) -> Submission {
        serde_json::from_str(text).unwrap()
    }

    fn add(store: &LabStore, submitter: &str, spec: &Submission) -> i64 {
        store
            .enqueue(&NewJob {
                kind: Kind::Test,
                name: "smoke",
                submitter,
                spec,
                files: "0",
                now: 1000.0,
            })
            .unwrap()
    }

    #[test]
    fn a_job_comes_back_as_it_was_submitted_whatever_is_in_its_names() {
        let (_dir, store) = store();
        let name = "Robert'); DROP TABLE lab_job;-- <script>alert(1)</script> \u{1b}[31m";
        let spec = Submission {
            name: Some(name.into()),
            board: Some(name.into()),
            tags: vec!["'".into(), "\"".into()],
            ..Submission::default()
        };
        let id = add(&store, name, &spec);
        let job = store.lab_job(id).unwrap().unwrap();
        assert_eq!((job.submitter.as_str(), &job.spec), (name, &spec));
        assert_eq!(job.files, "0");
        assert_eq!(store.waiting().unwrap()[0].tags, spec.tags);
        for submitter in [name, "' OR 1=1 --"] {
            let filter = Filter {
                submitter: Some(submitter.into()),
                limit: 10,
                ..Filter::default()
            };
            let found = store.lab_jobs(&filter).unwrap().len();
            assert_eq!(found, usize::from(submitter == name));
        }
    }

    #[test]
    fn jobs_are_found_by_what_is_asked_and_in_pages() {
        let (_dir, store) = store();
        let neo = spec(r#"{"type": "neo"}"#);
        let named = spec(r#"{"board": "neo1"}"#);
        let ids: Vec<i64> = (0..7)
            .map(|n| {
                add(
                    &store,
                    if n % 2 == 0 { "a" } else { "b" },
                    if n < 5 { &neo } else { &named },
                )
            })
            .collect();
        store.cancel_lab_job(ids[0], "a", 1001.0).unwrap();
        let found = |filter: Filter| -> Vec<i64> {
            let jobs = store.lab_jobs(&filter).unwrap();
            jobs.iter().map(|job| job.id).collect()
        };
        let all = Filter {
            limit: 3,
            ..Filter::default()
        };
        assert_eq!(found(all.clone()), [ids[6], ids[5], ids[4]]);
        let more = Filter {
            before: Some(ids[4]),
            ..all.clone()
        };
        assert_eq!(found(more), [ids[3], ids[2], ids[1]]);
        let of_board = Filter {
            board: Some("neo1".into()),
            submitter: Some("a".into()),
            ..all.clone()
        };
        assert_eq!(found(of_board), [ids[6]]);
        let finished = Filter {
            state: Some(JobPhase::Finished),
            health: Some(JobHealth::Canceled),
            ..all
        };
        assert_eq!(found(finished), [ids[0]]);
        assert_eq!(store.counts().unwrap(), (6, 0));
    }

    #[test]
    fn a_job_that_waits_is_cancelled_once() {
        let (_dir, store) = store();
        let id = add(&store, "a", &Submission::default());
        assert_eq!(
            store.cancel_lab_job(id, "b", 1001.0).unwrap(),
            Cancelled::Done
        );
        assert_eq!(
            store.cancel_lab_job(id, "b", 1002.0).unwrap(),
            Cancelled::TooLate
        );
        assert_eq!(
            store.cancel_lab_job(id + 1, "b", 1002.0).unwrap(),
            Cancelled::Unknown
        );
        let job = store.lab_job(id).unwrap().unwrap();
        assert_eq!((job.health, job.ended), (JobHealth::Canceled, Some(1001.0)));
        assert_eq!(job.message.as_deref(), Some("cancelled by b"));
        assert_eq!(store.waiting().unwrap(), []);
    }
}
