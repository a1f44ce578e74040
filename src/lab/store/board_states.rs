//! Owns what the store knows of a lab's boards: their health, their history, and when they were last used or switched off.
//! Never judges a board: `queue` does.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::columns::{json, to_json};
use super::connection::{LabStore, now as since_start};
use super::error::StoreError;
use crate::lab::queue::BoardHealth;

/// How many events of a board are kept.
const KEPT: u32 = 1000;

/// Something that happened to a board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoardEvent {
    /// Seconds since 1970.
    pub at: f64,
    pub what: String,
    pub who: String,
}

/// When a board was switched off by the lab and when it was used, in seconds since the host was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PowerState {
    pub off: Option<f64>,
    /// The end of its last job or reservation, or the last sign of life of a board that was switched on otherwise.
    pub used: Option<f64>,
    /// Its last check-in.
    pub seen: Option<f64>,
}

impl LabStore {
    pub fn board_health(&self, board: &str) -> Result<BoardHealth, StoreError> {
        self.read(|transaction| health(transaction, board))
    }

    /// The health of all boards that the store knows, by name.
    pub fn board_healths(&self) -> Result<BTreeMap<String, BoardHealth>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached("SELECT name, health FROM lab_board")?
                .query_map([], |row| Ok((row.get(0)?, json(row, 1)?)))?
                .collect()
        })
    }

    /// Changes a board's health, and notes it in the board's history.
    pub fn change_board_health(
        &self,
        board: &str,
        change: impl FnOnce(&BoardHealth) -> BoardHealth,
        who: &str,
        now: f64,
    ) -> Result<BoardHealth, StoreError> {
        self.write(|transaction| {
            let before = health(transaction, board)?;
            let after = change(&before);
            set_health(transaction, board, &before, &after, now, who)?;
            Ok(after)
        })
    }

    pub fn note_board_event(
        &self,
        board: &str,
        what: &str,
        who: &str,
        now: f64,
    ) -> Result<(), StoreError> {
        self.write(|transaction| note(transaction, board, what, who, now))
    }

    /// The history of a board, the newest event first.
    pub fn board_events(&self, board: &str, limit: u32) -> Result<Vec<BoardEvent>, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached(
                    "SELECT at, what, who FROM board_event WHERE board = ?1 ORDER BY id DESC LIMIT ?2",
                )?
                .query_map(params![board, limit.min(KEPT)], |row| {
                    Ok(BoardEvent {
                        at: row.get(0)?,
                        what: row.get(1)?,
                        who: row.get(2)?,
                    })
                })?
                .collect()
        })
    }

    /// When boards were used and switched off last, by name. A board that checked in is used.
    pub fn board_powers(&self) -> Result<BTreeMap<String, PowerState>, StoreError> {
        self.read(|transaction| {
            let mut powers: BTreeMap<String, PowerState> = transaction
                .prepare_cached("SELECT board, off, used FROM power")?
                .query_map([], |row| {
                    let (off, used) = (row.get(1)?, row.get(2)?);
                    Ok((
                        row.get(0)?,
                        PowerState {
                            off,
                            used,
                            seen: None,
                        },
                    ))
                })?
                .collect::<rusqlite::Result<_>>()?;
            let seen = transaction
                .prepare_cached(
                    "SELECT board, max(checked_in) FROM boot WHERE problem IS NULL GROUP BY board",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(String, f64)>>>()?;
            for (board, at) in seen {
                let power = powers.entry(board).or_default();
                power.seen = Some(at);
                power.used = Some(power.used.map_or(at, |used| used.max(at)));
            }
            Ok(powers)
        })
    }

    /// Seconds since the host was started, as those of [`PowerState`].
    pub fn since_start(&self) -> f64 {
        since_start()
    }

    /// The lab has switched the board off.
    pub fn board_is_off(&self, board: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO power (board, off) VALUES (?1, ?2) ON CONFLICT (board) DO UPDATE SET off = ?2",
                params![board, since_start()],
            )?;
            Ok(())
        })
    }

    /// Something has used the board up to now.
    pub fn board_was_used(&self, board: &str) -> Result<(), StoreError> {
        self.write(|transaction| used(transaction, board, since_start()))
    }
}

pub(super) fn used(transaction: &Transaction<'_>, board: &str, at: f64) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO power (board, used) VALUES (?1, ?2) ON CONFLICT (board) DO UPDATE SET used = ?2",
        params![board, at],
    )?;
    Ok(())
}

pub(super) fn health(transaction: &Transaction<'_>, board: &str) -> rusqlite::Result<BoardHealth> {
    let known = transaction
        .prepare_cached("SELECT health FROM lab_board WHERE name = ?1")?
        .query_row([board], |row| json(row, 0))
        .optional()?;
    Ok(known.unwrap_or_default())
}

pub(super) fn set_health(
    transaction: &Transaction<'_>,
    board: &str,
    before: &BoardHealth,
    after: &BoardHealth,
    now: f64,
    who: &str,
) -> rusqlite::Result<()> {
    if before == after {
        return Ok(());
    }
    transaction.execute(
        "INSERT INTO lab_board (name, health) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET health = ?2",
        params![board, to_json(after)],
    )?;
    if (before.health, before.check) != (after.health, after.check) {
        note(
            transaction,
            board,
            &format!("{}: {}", after.health, after.why),
            who,
            now,
        )?;
    }
    Ok(())
}

pub(super) fn note(
    transaction: &Transaction<'_>,
    board: &str,
    what: &str,
    who: &str,
    now: f64,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO board_event (board, at, what, who) VALUES (?1, ?2, ?3, ?4)",
        params![board, now, what, who],
    )?;
    transaction.execute(
        "DELETE FROM board_event WHERE board = ?1 AND id <=
         (SELECT id FROM board_event WHERE board = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        params![board, KEPT],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{boot, store};
    use super::*;
    use crate::lab::queue::Health;

    #[test]
    fn a_change_of_health_is_in_the_boards_history_and_a_count_is_not() {
        let (_dir, store) = store();
        assert_eq!(store.board_health("neo1").unwrap(), BoardHealth::default());
        let retire = |before: &BoardHealth| BoardHealth {
            health: Health::Retired,
            why: "its SD slot is worn".into(),
            ..before.clone()
        };
        store
            .change_board_health("neo1", retire, "anna", 5.0)
            .unwrap();
        let count = |before: &BoardHealth| BoardHealth {
            jobs: before.jobs + 1,
            ..before.clone()
        };
        store
            .change_board_health("neo1", count, "anna", 6.0)
            .unwrap();
        assert_eq!(store.board_health("neo1").unwrap().jobs, 1);
        let history = store.board_events("neo1", 10).unwrap();
        assert_eq!(
            history,
            [BoardEvent {
                at: 5.0,
                what: "retired: its SD slot is worn".into(),
                who: "anna".into()
            }]
        );
    }

    #[test]
    fn the_history_of_a_board_is_bounded() {
        let (_dir, store) = store();
        for n in 0..KEPT + 20 {
            store
                .note_board_event("neo1", &n.to_string(), "a", 0.0)
                .unwrap();
        }
        let history = store.board_events("neo1", u32::MAX).unwrap();
        assert_eq!(history.len(), KEPT as usize);
        assert_eq!(history[0].what, (KEPT + 19).to_string());
    }

    #[test]
    fn a_board_that_checked_in_was_used() {
        let (_dir, store) = store();
        store.board_is_off("neo1").unwrap();
        assert_eq!(store.board_powers().unwrap()["neo1"].used, None);
        boot(&store, "neo1", "a");
        let power = store.board_powers().unwrap()["neo1"];
        assert!(power.used > power.off, "{power:?}");
    }
}
