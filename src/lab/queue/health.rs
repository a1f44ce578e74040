//! Owns the health of boards: what the end of a job makes of it, and when a board is checked.
//! Never reads the store or a clock.

use serde::{Deserialize, Serialize};

use super::model::{JobHealth, Kind, named};
use crate::board::FailureClass;

named! {
    /// Whether a board can be trusted with jobs; LAVA's words.
    Health {
        /// Nothing is known yet, or an infrastructure failure has put it in doubt.
        Unknown = "unknown",
        Good = "good",
        /// Checked over and over, because an operator asked for it.
        Looping = "looping",
        /// Failed its check.
        Bad = "bad",
        Maintenance = "maintenance",
        Retired = "retired",
    }
}

impl Health {
    /// Whether only an operator brings the board back.
    pub fn is_out(self) -> bool {
        matches!(self, Health::Bad | Health::Maintenance | Health::Retired)
    }
}

/// What is known of a board's health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoardHealth {
    pub health: Health,
    pub why: String,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// Whether its check goes before any other job.
    pub check: bool,
    /// How many jobs ended on it since its last check.
    pub jobs: u32,
    /// When it passed its last check, in seconds since 1970.
    pub checked: Option<f64>,
}

impl Default for BoardHealth {
    fn default() -> Self {
        BoardHealth {
            health: Health::Unknown,
            why: "not used yet".into(),
            since: 0.0,
            check: false,
            jobs: 0,
            checked: None,
        }
    }
}

/// When boards are checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    /// Whether the board has a check at all.
    pub checks: bool,
    /// Seconds between checks; 0 for none by time.
    pub every: f64,
    /// Jobs between checks; 0 for none by number.
    pub jobs: u32,
}

/// Whether the board is to be checked now; gives why. `now` in seconds since 1970. A clock that was set back delays no
/// check for longer than one interval.
pub fn is_due(board: &BoardHealth, due: Due, now: f64) -> Option<String> {
    if !due.checks || board.health.is_out() {
        return None;
    }
    if board.check {
        return Some(board.why.clone());
    }
    if board.health == Health::Looping {
        return Some("it is checked over and over".into());
    }
    if due.jobs > 0 && board.jobs >= due.jobs {
        return Some(format!("{} jobs since its last check", board.jobs));
    }
    let last = board.checked.unwrap_or(board.since);
    let age = (now - last).abs();
    (due.every > 0.0 && last > 0.0 && age >= due.every)
        .then(|| format!("its last check was {} hours ago", (age / 3600.0).round()))
}

/// The end of a job, as far as it concerns the board's health.
#[derive(Clone, Debug, PartialEq)]
pub struct After<'a> {
    pub job: i64,
    pub kind: Kind,
    pub health: JobHealth,
    /// Whether all tests passed.
    pub passed: bool,
    pub class: Option<FailureClass>,
    pub message: &'a str,
    /// Whether the run was lost with the lab and says nothing of the board.
    pub lost: bool,
}

impl BoardHealth {
    /// The board's health after the job. `checks`: whether the board has a health check.
    #[must_use]
    pub fn after(&self, end: &After<'_>, checks: bool, now: f64) -> BoardHealth {
        let mut next = self.clone();
        if end.lost || end.class == Some(FailureClass::Cancelled) {
            return next;
        }
        match end.kind {
            Kind::Health => next.checked(end, now),
            Kind::Test => next.used(end, checks, now),
        }
        next
    }

    fn checked(&mut self, end: &After<'_>, now: f64) {
        self.check = false;
        self.jobs = 0;
        if end.passed {
            self.checked = Some(now);
            if self.health != Health::Looping
                && !matches!(self.health, Health::Maintenance | Health::Retired)
            {
                self.turn(
                    Health::Good,
                    format!("passed its health check, job {}", end.job),
                    now,
                );
            }
        } else if !matches!(self.health, Health::Maintenance | Health::Retired) {
            let why = format!("failed its health check, job {}: {}", end.job, end.message);
            self.turn(Health::Bad, why, now);
        }
    }

    fn used(&mut self, end: &After<'_>, checks: bool, now: f64) {
        self.jobs = self.jobs.saturating_add(1);
        if end.class == Some(FailureClass::Infrastructure) {
            if matches!(self.health, Health::Good | Health::Unknown) {
                let why = format!(
                    "job {} failed by the infrastructure: {}",
                    end.job, end.message
                );
                self.turn(Health::Unknown, why, now);
                self.check = checks;
            }
        } else if end.health == JobHealth::Complete && self.health == Health::Unknown && !self.check
        {
            self.turn(Health::Good, format!("did job {}", end.job), now);
        }
    }

    fn turn(&mut self, health: Health, why: String, now: f64) {
        if self.health != health {
            self.since = now;
        }
        self.health = health;
        self.why = why;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(kind: Kind, class: Option<FailureClass>) -> After<'static> {
        After {
            job: 7,
            kind,
            health: match class {
                None | Some(FailureClass::Test) => JobHealth::Complete,
                _ => JobHealth::Incomplete,
            },
            passed: class.is_none(),
            class,
            message: "the board is silent",
            lost: false,
        }
    }

    const DUE: Due = Due {
        checks: true,
        every: 3600.0,
        jobs: 3,
    };

    #[test]
    fn an_infrastructure_failure_puts_a_good_board_in_doubt_until_its_check() {
        let good = BoardHealth {
            health: Health::Good,
            ..BoardHealth::default()
        };
        let doubt = good.after(
            &end(Kind::Test, Some(FailureClass::Infrastructure)),
            true,
            9.0,
        );
        assert_eq!((doubt.health, doubt.check), (Health::Unknown, true));
        assert!(
            is_due(&doubt, DUE, 9.0)
                .unwrap()
                .contains("the board is silent")
        );
        let good = doubt.after(&end(Kind::Health, None), true, 10.0);
        assert_eq!(
            (good.health, good.check, good.checked),
            (Health::Good, false, Some(10.0))
        );
        for class in [
            FailureClass::Test,
            FailureClass::Infrastructure,
            FailureClass::Bug,
        ] {
            let bad = doubt.after(&end(Kind::Health, Some(class)), true, 10.0);
            assert_eq!(bad.health, Health::Bad);
            assert_eq!(is_due(&bad, DUE, 1e9), None);
            // Nor does a job that was under way make it good.
            assert_eq!(
                bad.after(&end(Kind::Test, None), true, 11.0).health,
                Health::Bad
            );
        }
    }

    #[test]
    fn tests_that_fail_and_runs_that_were_cancelled_say_nothing_against_a_board() {
        let board = BoardHealth::default();
        let used = board.after(&end(Kind::Test, Some(FailureClass::Test)), true, 1.0);
        assert_eq!((used.health, used.jobs), (Health::Good, 1));
        let cancelled = end(Kind::Health, Some(FailureClass::Cancelled));
        assert_eq!(board.after(&cancelled, true, 1.0), board);
        let lost = After {
            lost: true,
            ..end(Kind::Test, Some(FailureClass::Infrastructure))
        };
        assert_eq!(board.after(&lost, true, 1.0), board);
    }

    #[test]
    fn a_board_is_checked_by_time_and_by_number_of_jobs() {
        let mut board = BoardHealth {
            health: Health::Good,
            checked: Some(1000.0),
            jobs: 2,
            ..BoardHealth::default()
        };
        assert_eq!(is_due(&board, DUE, 4599.0), None);
        assert!(is_due(&board, DUE, 4600.0).is_some());
        // A clock that was set back by a year.
        assert!(is_due(&board, DUE, -3e7).is_some());
        board.jobs = 3;
        assert!(is_due(&board, DUE, 1001.0).is_some());
        let never = Due {
            checks: false,
            ..DUE
        };
        assert_eq!(is_due(&board, never, 1e9), None);
    }
}
