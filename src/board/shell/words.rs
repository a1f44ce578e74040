//! Owns the words in which a board's shell answers, and why it may refuse a job.
//! Never decides what follows.

use std::sync::LazyLock;

use regex::Regex;

use super::super::failure::FailureClass;

/// An answer of a program on the board: `hearth-WORD-`, with up to two numbers behind it.
static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"hearth-([a-z]+|\d+)-(?:(\d+)-)?(?:(\d+)-)?").expect("the pattern is a constant")
});

/// The word of an answer in a line of the console, and the number behind it.
pub(super) fn answer(line: &str) -> Option<(&str, Option<u64>)> {
    let found = ANSWER.captures(line)?;
    Some((found.get(1)?.as_str(), number(&found, 2)))
}

/// The second number of an answer.
pub(super) fn length(line: &str) -> Option<u64> {
    number(&ANSWER.captures(line)?, 3)
}

fn number(found: &regex::Captures<'_>, index: usize) -> Option<u64> {
    found.get(index)?.as_str().parse().ok()
}

/// A command that tells the last one's status. Its echo is no answer.
pub(super) fn probe(serial: u64) -> String {
    format!("echo hearth-$?-{serial}-")
}

/// Why a board runs no job over its console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Of the board or its console.
    Board(String),
    /// Of what the lab says about the board.
    Settings(String),
}

impl Refusal {
    /// Whose fault it is, and one sentence.
    pub(super) fn told(self) -> (FailureClass, String) {
        match self {
            Refusal::Board(message) => (FailureClass::Infrastructure, message),
            Refusal::Settings(message) => (FailureClass::Configuration, message),
        }
    }
}
