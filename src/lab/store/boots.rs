//! Owns the boots in the store: check-ins, which of them a board's console confirmed, signs of life, and twins.
//! Never hands out a job.

use anyhow::Result;
use rusqlite::types::Type;
use rusqlite::{Row, Transaction, params};

use super::connection::{LabStore, now};
use super::error::StoreError;
use super::file;
use crate::lab::identity::Claim;
use crate::lab::secret;

/// How often a sign of life is written, in seconds.
const BEAT: f64 = 15.0;
/// For how long, in seconds, a superseded boot that gave a sign of life counts as a twin.
const TWIN: f64 = 90.0;
/// How many boots are remembered, and how many of one name whose console the lab did not see.
const BOOTS: u32 = 1024;
const UNCONFIRMED: u32 = 8;

/// Seconds for which the console may still bring the hash of a boot that checked in from the lab's own host.
const PATIENCE: f64 = 10.0;

/// One boot of a board that checked in.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// Its row in the store.
    pub(in crate::lab) id: i64,
    /// The bearer token. Known only when it has just checked in: the store has its hash.
    pub token: String,
    pub claim: Claim,
    /// What is wrong with the identity that the board claims.
    pub problem: Option<String>,
    /// Seconds since the host was started, as all times in the store: setting the clock changes none.
    pub checked_in: f64,
    pub seen: f64,
    /// Whether a console that the lab follows showed the hash of this boot's secret.
    pub confirmed: bool,
}

impl LabStore {
    /// A board says who it is. The same boot that checks in again with the same secret keeps its token. Earlier boots
    /// of this board are superseded; one that still gives signs of life is a twin (see [`LabStore::twin`]).
    pub fn check_in(&self, claim: &Claim, problem: Option<&str>) -> Result<Boot> {
        let at = now();
        let drawn = secret::random()?;
        let hash = secret::hash(&claim.secret);
        let public = Claim {
            secret: String::new(),
            ..claim.clone()
        };
        let public = serde_json::to_string(&public)?;
        let boot = self.write(|transaction| {
            let token = secret::token(&file::key(transaction)?, &drawn, claim);
            let confirmed = is_confirmed(transaction, &hash)?;
            // An unconfirmed boot must not end one that a console confirmed.
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
                    public,
                    claim.board,
                    claim.boot,
                    problem,
                    at
                ],
            )?;
            prune(transaction, &claim.board)?;
            let boot = boot_of(transaction, &token)?;
            boot.ok_or(rusqlite::Error::QueryReturnedNoRows)
        })?;
        Ok(boot)
    }

    /// The boot that a token belongs to.
    pub fn boot(&self, token: &str) -> Result<Option<Boot>, StoreError> {
        self.read(|transaction| boot_of(transaction, token))
    }

    /// The token of the lab's operator. It follows from the lab's key, which only the store's owner can read.
    pub fn operator_token(&self) -> Result<String, StoreError> {
        self.read(|transaction| Ok(secret::operator_token(&file::key(transaction)?)))
    }

    /// The lab has just switched the board on: its earlier boots are over, and what its console showed of them is void.
    pub fn powered_on(&self, board: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM confirmation WHERE board = ?1", [board])?;
            transaction.execute("UPDATE boot SET over = 1 WHERE board = ?1", [board])?;
            Ok(())
        })
    }

    /// Takes a line of this board's own console. If it shows the hash of a secret, the boot that knows the secret is this board's.
    /// A line of a job must not be given: a test could print any hash.
    pub fn confirm_by_console(&self, board: &str, line: &str) -> Result<(), StoreError> {
        match secret::shown(line) {
            Some(hash) => self.confirm(board, hash),
            None => Ok(()),
        }
    }

    /// The console of this board showed the hash of a secret.
    pub fn confirm(&self, board: &str, hash: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO confirmation (board, hash) VALUES (?1, ?2)",
                [board, hash],
            )
        })?;
        self.changed();
        Ok(())
    }

    /// The boot with this secret checked in from the lab's own host.
    pub fn came_from_own_host(&self, secret: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO own_host (hash) VALUES (?1)",
                [secret::hash(secret)],
            )
        })
        .map(drop)
    }

    /// Confirms the boot of a board whose console was followed up to its userspace but did not bring its lines, as when a
    /// serial adapter takes only one direction: the only one of this name, from the lab's own host, `PATIENCE` after it
    /// checked in. From another host it would take the console's word.
    pub fn confirm_own_host(&self, board: &str) -> Result<(), StoreError> {
        // Asked at every look: other writers are not held up while nothing has checked in.
        if self.unconfirmed(board)?.len() != 1 {
            return Ok(());
        }
        let confirmed = self.write(|transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO confirmation (board, hash)
                 SELECT board, hash FROM boot WHERE board = ?1 AND over = 0 AND problem IS NULL AND checked_in <= ?2
                     AND hash IN (SELECT hash FROM own_host)
                     AND (SELECT count(*) FROM boot WHERE board = ?1 AND over = 0) = 1",
                params![board, now() - PATIENCE],
            )
        })?;
        if confirmed > 0 {
            log::warn!(
                "the console of {board} does not bring what its agent writes; the board is taken at its word, since it \
                 called from this host"
            );
            self.changed();
        }
        Ok(())
    }

    /// Whether another boot of the same board still gives signs of life though this one came after it, or this one does
    /// though another came after it: two boards have one name.
    pub fn twin(&self, boot: &Boot) -> Result<bool, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM boot WHERE board = ?1 AND over = 0 AND superseded IS NOT NULL
                     AND seen > superseded AND seen > ?2
                     AND EXISTS (SELECT 1 FROM confirmation WHERE confirmation.hash = boot.hash) = ?3)",
                )?
                .query_row(params![boot.claim.board, now() - TWIN, boot.confirmed], |row| row.get(0))
        })
    }

    /// The boots that this board's console confirmed since it was switched on, newest first, whatever name they claim.
    pub fn confirmed(&self, board: &str) -> Result<Vec<Boot>, StoreError> {
        self.boots(
            "WHERE hash IN (SELECT hash FROM confirmation WHERE confirmation.board = ?1) AND over = 0
             ORDER BY id DESC",
            [board],
        )
    }

    /// The boots that claim this name and that no console confirmed, since the board was last switched on.
    pub fn unconfirmed(&self, board: &str) -> Result<Vec<Boot>, StoreError> {
        self.boots(
            "WHERE board = ?1 AND over = 0 AND hash NOT IN (SELECT hash FROM confirmation) ORDER BY id DESC",
            [board],
        )
    }

    /// The boots with a problem in their identity, newest first.
    pub fn with_problem(&self) -> Result<Vec<Boot>, StoreError> {
        self.boots("WHERE problem IS NOT NULL ORDER BY id DESC", [])
    }

    /// Notes a sign of life, unless one was noted a moment ago.
    pub fn beat(&self, boot: &Boot) -> Result<(), StoreError> {
        let at = now();
        // Most calls change nothing: they must not wait for the write lock.
        if !self.read(|transaction| is_beat_due(transaction, boot, at))? {
            return Ok(());
        }
        self.write(|transaction| {
            if !is_beat_due(transaction, boot, at)? {
                return Ok(());
            }
            transaction
                .prepare_cached("UPDATE boot SET seen = ?2 WHERE id = ?1")?
                .execute(params![boot.id, at])?;
            transaction
                .prepare_cached("UPDATE job SET seen = ?2 WHERE boot = ?1 AND state = 'running'")?
                .execute(params![boot.id, at])?;
            Ok(())
        })
    }

    /// Keeps a board that has nothing to do from powering itself off, for so many seconds.
    pub fn hold(&self, board: &str, seconds: f64) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO hold (board, until) VALUES (?1, ?2) ON CONFLICT (board) DO UPDATE SET until = ?2",
                params![board, now() + seconds],
            )?;
            Ok(())
        })
    }

    /// Whether a boot may stay on without work: it checked in within the last `idle` seconds; or its console confirmed
    /// it, and the board is held, a job waits for it, or it worked within that time. An unconfirmed boot must not learn
    /// any of the latter.
    pub fn is_wanted(&self, boot: &Boot, idle: f64) -> Result<bool, StoreError> {
        let at = now();
        if boot.checked_in > at - idle {
            return Ok(true);
        }
        self.read(|transaction| {
            transaction
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM confirmation, boot WHERE boot.id = ?3 AND confirmation.hash = boot.hash
                         AND confirmation.board = ?1)
                     AND (EXISTS (SELECT 1 FROM hold WHERE board = ?1 AND until > ?2)
                         OR EXISTS (SELECT 1 FROM job WHERE board = ?1 AND state = 'submitted')
                         OR EXISTS (SELECT 1 FROM job WHERE boot = ?3 AND seen > ?4))",
                )?
                .query_row(params![boot.claim.board, at, boot.id, at - idle], |row| row.get(0))
        })
    }

    /// Tells a boot, when it asks for work, that there will be none any more.
    pub fn dismiss(&self, boot: &Boot) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("UPDATE boot SET dismissed = 1 WHERE id = ?1", [boot.id])
        })?;
        self.changed();
        Ok(())
    }

    /// Whether there will be no work for this boot any more.
    pub fn is_dismissed(&self, boot: &Boot) -> Result<bool, StoreError> {
        self.read(|transaction| {
            transaction
                .prepare_cached("SELECT coalesce((SELECT dismissed FROM boot WHERE id = ?1), 1)")?
                .query_row([boot.id], |row| row.get(0))
        })
    }

    fn boots(
        &self,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Boot>, StoreError> {
        self.read(|transaction| query_boots(transaction, condition, parameters))
    }
}

fn boot_of(transaction: &Transaction<'_>, token: &str) -> rusqlite::Result<Option<Boot>> {
    // Looked up by its hash: how long that takes tells nothing of the token.
    let mut boots = query_boots(transaction, "WHERE token = ?1", [secret::hash(token)])?;
    Ok(boots.pop().map(|boot| Boot {
        token: token.into(),
        ..boot
    }))
}

fn query_boots(
    transaction: &Transaction<'_>,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Boot>> {
    transaction
        .prepare_cached(&format!(
            "SELECT id, claim, problem, checked_in, seen,
             EXISTS (SELECT 1 FROM confirmation WHERE confirmation.hash = boot.hash) FROM boot {condition}"
        ))?
        .query_map(parameters, boot_from)?
        .collect()
}

fn boot_from(row: &Row<'_>) -> rusqlite::Result<Boot> {
    let claim: String = row.get(1)?;
    let damaged = |error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error));
    Ok(Boot {
        id: row.get(0)?,
        token: String::new(),
        claim: serde_json::from_str(&claim).map_err(damaged)?,
        problem: row.get(2)?,
        checked_in: row.get(3)?,
        seen: row.get(4)?,
        confirmed: row.get(5)?,
    })
}

fn is_confirmed(transaction: &Transaction<'_>, hash: &str) -> rusqlite::Result<bool> {
    transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM confirmation WHERE hash = ?1)",
        [hash],
        |row| row.get(0),
    )
}

fn is_beat_due(transaction: &Transaction<'_>, boot: &Boot, at: f64) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM boot WHERE id = ?1
             AND (seen <= ?2 OR (superseded IS NOT NULL AND seen <= superseded)))",
        )?
        .query_row(params![boot.id, at - BEAT], |row| row.get(0))
}

/// Deletes old boots, so that check-ins cannot fill the disk. One that a console confirmed is kept.
fn prune(transaction: &Transaction<'_>, board: &str) -> rusqlite::Result<()> {
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
    transaction.execute(
        "DELETE FROM own_host WHERE hash NOT IN (SELECT hash FROM boot)",
        [],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{boot, claim, store};
    use super::*;

    #[test]
    fn only_the_only_boot_of_the_own_host_is_taken_at_its_word_and_not_at_once() {
        let (_dir, store) = store();
        let secret = |boot: &str| Claim {
            secret: format!("secret of {boot}"),
            ..claim("neo1", boot)
        };
        let check_in = |boot: &str, is_own_host: bool| {
            let claim = secret(boot);
            if is_own_host {
                store.came_from_own_host(&claim.secret).unwrap();
            }
            store.check_in(&claim, None).unwrap();
            let long_ago = "UPDATE boot SET checked_in = checked_in - 60";
            move |store: &LabStore| store.write(|it| it.execute(long_ago, [])).map(drop)
        };
        let confirmed = || {
            store.confirm_own_host("neo1").unwrap();
            store.confirmed("neo1").unwrap().len()
        };
        let make_old = check_in("of another host", false);
        make_old(&store).unwrap();
        assert_eq!(confirmed(), 0);
        store.powered_on("neo1").unwrap();
        let make_old = check_in("own", true);
        assert_eq!(confirmed(), 0, "the console has its time");
        make_old(&store).unwrap();
        let _later = check_in("of another host again", false);
        assert_eq!(confirmed(), 0, "one of two");
        store.powered_on("neo1").unwrap();
        let make_old = check_in("own again", true);
        make_old(&store).unwrap();
        assert_eq!(confirmed(), 1);
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
        // An unconfirmed boot makes no twin of a board whose console the lab follows.
        store.powered_on("neo1").unwrap();
        let own = boot(&store, "neo1", "c");
        let unconfirmed = store.check_in(&claim("neo1", "d"), None).unwrap();
        for boot in [&own, &unconfirmed, &own] {
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
