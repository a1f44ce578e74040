//! Owns what is known of a run: cases, suites, the boot's stages, and the verdict over all of it.
//! Never drops a case: one that cannot be understood is kept with the reason.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::inputs::RunInputs;
use crate::board::{BootStage, FailureClass, RunFailure};

/// How a test case ended; the four results that LAVA knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Pass,
    Fail,
    Skip,
    Unknown,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Skip => "skip",
            Outcome::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pass" => Ok(Outcome::Pass),
            "fail" => Ok(Outcome::Fail),
            "skip" => Ok(Outcome::Skip),
            "unknown" => Ok(Outcome::Unknown),
            _ => Err(format!(
                "`{text}` is not a result: pass, fail, skip or unknown"
            )),
        }
    }
}

/// One test case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub id: String,
    pub outcome: Outcome,
    /// The test set it belongs to (`lava-test-set start NAME`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// A decimal number as the board wrote it, so that no digit is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// Seconds since the run began at which the result came.
    pub at: f64,
    /// Seconds between the case's start and end signals, where it sent them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Why the outcome is unknown, or what else is wrong with what the board sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Where the case points to (`lava-test-reference`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The last lines of output between the case's start and its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

impl Case {
    /// `SET/ID`, or the id of a case in no set.
    pub fn full_name(&self) -> String {
        match &self.set {
            Some(set) => format!("{set}/{}", self.id),
            None => self.id.clone(),
        }
    }
}

/// The cases of one test definition's run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// As in the start signal: `0_smoke`.
    pub name: String,
    /// Seconds since the run began.
    pub at: f64,
    /// Seconds; absent while, or if, the end signal did not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    pub cases: Vec<Case>,
    /// The shell that its steps ran under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// The message of `lava-test-raise`, which ends a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raised: Option<String>,
    /// What went wrong with the suite as a whole, such as a failed installation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl Suite {
    /// Whether it ran to its end and nothing in it failed or stayed unknown.
    pub fn passed(&self) -> bool {
        self.duration.is_some()
            && self.raised.is_none()
            && self.problems.is_empty()
            && self
                .cases
                .iter()
                .all(|case| matches!(case.outcome, Outcome::Pass | Outcome::Skip))
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.cases
            .iter()
            .filter(|case| case.outcome == outcome)
            .count()
    }
}

/// One attempt to boot the board and run the tests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub stages: Vec<BootStage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RunFailure>,
}

/// Who the board said it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The name that the card's boot script gave it.
    pub board: Option<String>,
    pub mac: Option<String>,
    /// `serial-number` of the device tree.
    pub serial: Option<String>,
    /// `model` of the device tree.
    pub model: Option<String>,
    pub soc: Option<String>,
    /// CID register of the SD card.
    pub card: Option<String>,
    pub boot: Option<String>,
    /// The image id it booted.
    pub image: Option<String>,
}

/// What a run of tests on one board came to. This is `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Format of this file, at most [`Report::VERSION`]. Version 1 has no `inputs`.
    pub version: u32,
    pub hearth: String,
    pub board: String,
    pub board_type: String,
    pub image: String,
    /// When the run began, RFC 3339 in UTC.
    pub started: String,
    /// Seconds.
    pub duration: f64,
    #[serde(default)]
    pub identity: Identity,
    pub attempts: Vec<AttemptRecord>,
    pub suites: Vec<Suite>,
    /// What was malformed on the way and belongs to no case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What went wrong on the way and cost no result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the run was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<RunInputs>,
}

/// The verdict over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed(FailureClass),
}

impl Report {
    pub const VERSION: u32 = 2;

    /// Why the run as a whole failed, if it did: the last attempt's failure.
    pub fn failure(&self) -> Option<&RunFailure> {
        self.attempts.last()?.failure.as_ref()
    }

    /// A run passes if no infrastructure failed, every suite ran to its end, and at least one case passed or
    /// was skipped while none failed or stayed unknown.
    pub fn verdict(&self) -> Verdict {
        if let Some(failure) = self.failure() {
            return Verdict::Failed(failure.class);
        }
        let passed = self.problems.is_empty()
            && self.suites.iter().any(|suite| !suite.cases.is_empty())
            && self.suites.iter().all(Suite::passed);
        if passed {
            Verdict::Passed
        } else {
            Verdict::Failed(FailureClass::Test)
        }
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.suites.iter().map(|suite| suite.count(outcome)).sum()
    }
}
