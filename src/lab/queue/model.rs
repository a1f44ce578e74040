//! Owns the words of jobs in the lab: what a submission asks for, and what is known of a job, an attempt and a lease.
//! The words are LAVA's. Never decides anything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a submitter asks for: `job.json` of a submission.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Submission {
    /// As `hearth test` takes them, with paths below `files/` of the submission; or git repositories by https or ssh.
    pub definitions: Vec<String>,
    /// The job's name; by default the first definition's.
    pub name: Option<String>,
    /// The board that it must run on; else one of the type.
    pub board: Option<String>,
    #[serde(rename = "type")]
    pub board_type: Option<String>,
    /// Tags that the board must have, all of them.
    pub tags: Vec<String>,
    pub priority: Priority,
    /// The directory of a build below the lab's images, or an image's id.
    pub image: Option<String>,
    /// A recipe instead of the board's own.
    pub recipe: Option<String>,
    /// `KEY=VALUE` or `NAME:KEY=VALUE`.
    pub parameters: Vec<String>,
    pub strict_lava: bool,
    /// Boots again for each stage; else the board's.
    pub retries: Option<u32>,
    /// Seconds that all tests together may take; else the board's.
    pub timeout: Option<f64>,
    /// Whether the job is kept though no board of the lab fits it.
    pub wait: bool,
}

/// How urgent a job is, from 0 to 100; LAVA's words are low (0), medium (50) and high (100).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "PriorityText", into = "u8")]
pub struct Priority(u8);

#[derive(Deserialize)]
#[serde(untagged)]
enum PriorityText {
    Number(u64),
    Word(String),
}

impl Priority {
    /// The highest that a user may ask for.
    pub const HIGH: Priority = Priority(100);

    pub const fn value(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority(50)
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text {
            "low" => 0,
            "medium" => 50,
            "high" => 100,
            other => other.parse().unwrap_or(u8::MAX),
        };
        match number {
            0..=100 => Ok(Priority(number)),
            _ => Err(format!(
                "`{text}` is not a priority: low, medium, high, or a number from 0 to 100"
            )),
        }
    }
}

impl TryFrom<PriorityText> for Priority {
    type Error = String;

    fn try_from(text: PriorityText) -> Result<Self, String> {
        match text {
            PriorityText::Number(number) => number.to_string().parse(),
            PriorityText::Word(word) => word.parse(),
        }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An enum whose variants have names in the store and in JSON.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(super) use named;

named! {
    /// Where a job is on its way.
    JobPhase {
        /// Waits for a board.
        Submitted = "submitted",
        /// A board is its own, and is not switched on yet.
        Scheduled = "scheduled",
        Running = "running",
        /// To be ended; its board is being switched off.
        Canceling = "canceling",
        Finished = "finished",
    }
}

named! {
    /// How a job ended, whatever its tests said.
    JobHealth {
        /// It has not ended.
        Unknown = "unknown",
        /// The tests ran to their end.
        Complete = "complete",
        Incomplete = "incomplete",
        Canceled = "canceled",
    }
}

named! {
    /// What a job is for.
    Kind {
        /// A user's.
        Test = "test",
        /// The lab's own check of a board.
        Health = "health",
    }
}

/// A job as the lab knows it. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: i64,
    pub kind: Kind,
    pub name: String,
    pub submitter: String,
    pub state: JobPhase,
    pub health: JobHealth,
    pub submitted: f64,
    pub ended: Option<f64>,
    /// The exit code that `hearth test` would have ended with.
    pub exit: Option<u8>,
    /// Why it ended as it did, unless its tests passed.
    pub message: Option<String>,
    /// The board that has it, or had it last.
    pub ran_on: Option<String>,
    /// The directory of its files, below the lab's; jobs with the same files share it.
    pub files: String,
    pub spec: Submission,
    pub attempts: Vec<AttemptInfo>,
}

/// One run of a job on a board. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptInfo {
    /// Its number in the store.
    pub id: i64,
    /// From 1, within its job.
    pub number: u32,
    pub board: String,
    /// Why this board, and why now.
    pub reason: String,
    pub begun: f64,
    pub ended: Option<f64>,
    /// How it ended: `passed`, or the class of the failure.
    pub outcome: Option<String>,
    pub stage: Option<String>,
    pub message: Option<String>,
    pub image: Option<String>,
}

/// A job that waits, as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingJob {
    pub id: i64,
    pub kind: Kind,
    pub board: Option<String>,
    pub board_type: Option<String>,
    pub tags: Vec<String>,
    pub priority: Priority,
    pub submitter: String,
    /// What it counts that younger jobs were started on boards that this one could have used.
    pub overtaken: u32,
    /// Boards on which it failed by the infrastructure.
    pub avoid: Vec<String>,
}

/// A reservation of a board for a person or a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    pub board: String,
    pub holder: String,
    pub why: String,
    /// Seconds since 1970.
    pub since: f64,
    /// Seconds that it has left.
    pub left: f64,
    /// Whether it ends when its holder's signs of life stop.
    pub beats: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_a_word_or_a_number_up_to_100() {
        let read = |text: &str| text.parse::<Priority>().map(Priority::value);
        assert_eq!(read("low"), Ok(0));
        assert_eq!(read("medium"), Ok(50));
        assert_eq!(read("high"), Ok(100));
        assert_eq!(read("73"), Ok(73));
        for wrong in ["101", "-1", "", "urgent", "1e1", "300"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let json = |text: &str| serde_json::from_str::<Priority>(text).ok();
        assert_eq!(json("\"high\""), Some(Priority(100)));
        assert_eq!(json("7"), Some(Priority(7)));
        assert_eq!(json("101"), None);
        assert_eq!(serde_json::to_string(&Priority(7)).unwrap(), "7");
    }

    #[test]
    fn a_submission_with_an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<Submission>(r#"{"definitions": [], "bord": "a"}"#).is_err());
        let some: Submission = serde_json::from_str(r#"{"type": "neo", "tags": ["a"]}"#).unwrap();
        assert_eq!(some.board_type.as_deref(), Some("neo"));
    }
}
