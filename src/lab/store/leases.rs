//! Owns the reservations of boards in the store: leases that end by their time, by release, or with their holder's signs of
//! life. Times are since the host's start, so that setting the clock ends none.

use rusqlite::{OptionalExtension, Row, params};

use super::board_states;
use super::connection::{LabStore, now as since_start};
use super::error::StoreError;
use crate::lab::queue::Lease;
use crate::lab::secret;

/// How many signs of life a holder may miss.
const MISSED: f64 = 3.0;

/// What a holder asks for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub board: &'a str,
    pub holder: &'a str,
    pub why: &'a str,
    pub seconds: f64,
    /// Seconds between the holder's signs of life; without them the lease ends by its time alone.
    pub beat: Option<f64>,
    /// Seconds since 1970.
    pub now: f64,
}

/// What became of the request.
#[derive(Clone, Debug, PartialEq)]
pub enum Granted {
    /// The lease; its token prolongs and ends it.
    Token(String),
    /// Another has it.
    Reserved(Lease),
    /// A job runs on it.
    Busy(i64),
}

impl LabStore {
    /// Reserves a board, unless it is reserved or a job runs on it.
    pub fn reserve(&self, asked: &Asked<'_>) -> anyhow::Result<Granted> {
        let token = secret::random()?;
        let granted = self.write(|transaction| {
            let at = since_start();
            let held = transaction
                .prepare_cached(&format!("{SELECT} WHERE board = ?2 AND {VALID}"))?
                .query_row(params![at, asked.board], lease_from)
                .optional()?;
            if let Some(lease) = held {
                return Ok(Granted::Reserved(lease));
            }
            let busy = transaction
                .prepare_cached("SELECT job FROM attempt WHERE board = ?1 AND ended IS NULL")?
                .query_row([asked.board], |row| row.get(0))
                .optional()?;
            if let Some(job) = busy {
                return Ok(Granted::Busy(job));
            }
            transaction.execute(
                "INSERT OR REPLACE INTO lease (board, token, holder, why, since, seconds, until, beat, alive)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    asked.board,
                    secret::hash(&token),
                    asked.holder,
                    asked.why,
                    asked.now,
                    asked.seconds,
                    at + asked.seconds,
                    asked.beat,
                    asked.beat.map(|beat| at + MISSED * beat),
                ],
            )?;
            let what = match asked.why {
                "" => "reserved".to_string(),
                why => format!("reserved: {why}"),
            };
            board_states::note(transaction, asked.board, &what, asked.holder, asked.now)?;
            Ok(Granted::Token(token))
        })?;
        Ok(granted)
    }

    /// The holder lives; gives whether the lease still holds.
    pub fn prolong(&self, token: &str) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let at = since_start();
            let changed = transaction.execute(
                &format!(
                    "UPDATE lease SET alive = ?1 + {MISSED} * beat WHERE token = ?2 AND {VALID}"
                ),
                params![at, secret::hash(token)],
            )?;
            Ok(changed == 1)
        })
    }

    /// Ends the lease with this token; gives its board.
    pub fn release(&self, token: &str, now: f64) -> Result<Option<String>, StoreError> {
        self.end_leases("token = ?1", &secret::hash(token), "released", now)
            .map(|mut boards| boards.pop())
    }

    /// Ends the lease of a board, whoever has it; gives whether there was one.
    pub fn release_board(&self, board: &str, who: &str, now: f64) -> Result<bool, StoreError> {
        let what = format!("released by {who}");
        self.end_leases("board = ?1", board, &what, now)
            .map(|boards| !boards.is_empty())
    }

    /// Ends the leases whose time is over or whose holder gives no sign of life; gives their boards.
    pub fn end_old_leases(&self, now: f64) -> Result<Vec<String>, StoreError> {
        // Asked often, and mostly in vain: other writers are not held up.
        let at = since_start();
        let old = self.read(|transaction| {
            transaction
                .prepare_cached(&format!("SELECT count(*) FROM lease WHERE NOT ({VALID})"))?
                .query_row([at], |row| row.get::<_, i64>(0))
        })?;
        if old == 0 {
            return Ok(Vec::new());
        }
        self.end_leases(
            &format!("?1 = ?1 AND NOT ({})", VALID.replace("?1", "?2")),
            "",
            "the reservation ended",
            now,
        )
    }

    fn end_leases(
        &self,
        condition: &str,
        value: &str,
        what: &str,
        now: f64,
    ) -> Result<Vec<String>, StoreError> {
        self.write(|transaction| {
            let at = since_start();
            let ended: Vec<(String, String)> = transaction
                .prepare(&format!(
                    "DELETE FROM lease WHERE {condition} AND ?2 = ?2 RETURNING board, holder"
                ))?
                .query_map(params![value, at], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (board, holder) in &ended {
                board_states::note(transaction, board, what, holder, now)?;
                board_states::used(transaction, board, at)?;
            }
            Ok(ended.into_iter().map(|(board, _)| board).collect())
        })
    }

    /// The leases that hold.
    pub fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached(&format!("{SELECT} WHERE {VALID} ORDER BY board"))?
                .query_map([since_start()], lease_from)?
                .collect()
        })
    }

    /// Seconds until the next lease ends if nothing prolongs it.
    pub fn next_lease_end(&self) -> Result<Option<f64>, StoreError> {
        self.read(|transaction| {
            let at: Option<f64> = transaction
                .prepare_cached("SELECT min(min(until, coalesce(alive, until))) FROM lease")?
                .query_row([], |row| row.get(0))?;
            Ok(at.map(|at| (at - since_start()).max(0.0)))
        })
    }
}

/// Whether a lease holds at `?1`.
const VALID: &str = "until > ?1 AND coalesce(alive > ?1, 1)";
const SELECT: &str = "SELECT board, holder, why, since, until - ?1, beat IS NOT NULL FROM lease";

fn lease_from(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        board: row.get(0)?,
        holder: row.get(1)?,
        why: row.get(2)?,
        since: row.get(3)?,
        left: row.get(4)?,
        beats: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    fn asked<'a>(holder: &'a str, seconds: f64, beat: Option<f64>) -> Asked<'a> {
        Asked {
            board: "neo1",
            holder,
            why: "debugging",
            seconds,
            beat,
            now: 1000.0,
        }
    }

    fn token(granted: Granted) -> String {
        match granted {
            Granted::Token(token) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_board_is_reserved_by_one_and_released_by_its_token_or_by_name() {
        let (_dir, store) = store();
        let anna = token(store.reserve(&asked("anna", 60.0, None)).unwrap());
        let told = store.reserve(&asked("bob", 60.0, None)).unwrap();
        assert!(matches!(told, Granted::Reserved(lease) if lease.holder == "anna"));
        assert_eq!(store.release("guess", 1001.0).unwrap(), None);
        assert_eq!(
            store.release(&anna, 1001.0).unwrap().as_deref(),
            Some("neo1")
        );
        token(store.reserve(&asked("bob", 60.0, None)).unwrap());
        assert!(store.release_board("neo1", "admin", 1002.0).unwrap());
        assert!(!store.release_board("neo1", "admin", 1002.0).unwrap());
        let said: Vec<String> = store
            .board_events("neo1", 9)
            .unwrap()
            .into_iter()
            .map(|it| it.what)
            .collect();
        assert_eq!(
            said,
            [
                "released by admin",
                "reserved: debugging",
                "released",
                "reserved: debugging"
            ]
        );
    }

    #[test]
    fn a_lease_ends_by_its_time_and_without_signs_of_life() {
        let (_dir, store) = store();
        token(store.reserve(&asked("anna", 0.05, None)).unwrap());
        let beating = Asked {
            board: "neo2",
            ..asked("bob", 60.0, Some(0.1))
        };
        let bob = token(store.reserve(&beating).unwrap());
        for _ in 0..8 {
            std::thread::sleep(std::time::Duration::from_millis(60));
            assert!(store.prolong(&bob).unwrap());
        }
        assert_eq!(store.end_old_leases(1001.0).unwrap(), ["neo1"]);
        assert_eq!(store.leases().unwrap().len(), 1);
        std::thread::sleep(std::time::Duration::from_millis(400));
        // Too late: a lease that has ended comes back by no sign of life.
        assert!(!store.prolong(&bob).unwrap());
        assert_eq!(store.leases().unwrap(), []);
        assert_eq!(store.end_old_leases(1001.0).unwrap(), ["neo2"]);
        assert_eq!(store.next_lease_end().unwrap(), None);
    }
}
