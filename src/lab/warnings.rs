//! Owns how often the log tells of boards whose identity is wrong: once a minute for each, with a count.
//! Never decides what is wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const AGAIN: Duration = Duration::from_secs(60);
/// How many names are told of within that time. Any host can claim any number of names.
const NAMES: usize = 32;

/// What was told of each board, by the name that it claims.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    told: Mutex<HashMap<String, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    /// How many warnings were left out since, and the last one.
    more: u64,
    last: String,
}

impl Warnings {
    /// Logs a warning about a board, or counts it. Must be called inside a Tokio runtime.
    pub(super) fn warn(self: &Arc<Self>, board: &str, text: &str) {
        let lines = self.lines(board, text, Instant::now());
        if lines.is_empty() {
            return;
        }
        log_all(&lines);
        let warnings = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(AGAIN).await;
            log_all(&warnings.counts(Instant::now()));
        });
    }

    /// The counts of those whose minute is over, a line each.
    fn counts(&self, now: Instant) -> Vec<String> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        told.retain(|_, entry| {
            let over = now.duration_since(entry.at) >= AGAIN;
            if over && entry.more > 0 {
                lines.push(format!(
                    "{} ({} more like this in the last minute)",
                    entry.last, entry.more
                ));
            }
            !over
        });
        lines
    }

    /// The lines to be logged now: counts that are due, and the new warning if it is the first of its minute.
    fn lines(&self, board: &str, text: &str, now: Instant) -> Vec<String> {
        let mut lines = self.counts(now);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // One entry for all names beyond the limit.
        let key = match told.contains_key(board) || told.len() < NAMES {
            true => board,
            false => "",
        };
        match told.get_mut(key) {
            Some(entry) => {
                entry.more += 1;
                entry.last = text.into();
            }
            None => {
                let entry = Told {
                    at: now,
                    more: 0,
                    last: text.into(),
                };
                told.insert(key.into(), entry);
                lines.push(text.into());
            }
        }
        lines
    }
}

fn log_all(lines: &[String]) {
    for line in lines {
        log::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_told_of_once_a_minute_with_a_count() {
        let warnings = Warnings::default();
        let begun = Instant::now();
        let at = |second: u64, board: &str| {
            warnings.lines(
                board,
                &format!("{board} is wrong"),
                begun + Duration::from_secs(second),
            )
        };
        assert_eq!(at(0, "a"), ["a is wrong"]);
        for second in 1..60 {
            assert!(at(second, "a").is_empty());
        }
        assert_eq!(at(1, "b"), ["b is wrong"]);
        assert_eq!(
            at(60, "a"),
            [
                "a is wrong (59 more like this in the last minute)",
                "a is wrong"
            ]
        );
    }

    #[test]
    fn a_count_is_told_though_no_other_warning_follows() {
        let warnings = Warnings::default();
        let begun = Instant::now();
        for _ in 0..3 {
            warnings.lines("a", "wrong", begun);
        }
        assert!(warnings.counts(begun + AGAIN / 2).is_empty());
        let told = warnings.counts(begun + AGAIN);
        assert_eq!(told, ["wrong (2 more like this in the last minute)"]);
        assert!(warnings.counts(begun + AGAIN).is_empty());
    }

    #[test]
    fn ten_thousand_names_fill_neither_the_log_nor_the_memory() {
        let warnings = Warnings::default();
        let begun = Instant::now();
        let lines: usize = (0..10_000)
            .map(|number| {
                warnings
                    .lines(&format!("board{number}"), "wrong", begun)
                    .len()
            })
            .sum();
        assert_eq!(lines, NAMES + 1);
        assert_eq!(warnings.told.lock().unwrap().len(), NAMES + 1);
        let later = warnings.lines("board0", "wrong", begun + AGAIN);
        let count = 10_000 - NAMES - 1;
        assert_eq!(
            later,
            [
                format!("wrong ({count} more like this in the last minute)"),
                "wrong".into()
            ]
        );
    }
}
