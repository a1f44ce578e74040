//! Owns how a boot went: its stages with their times, and why it failed if it did.

use serde::{Deserialize, Serialize};

use crate::error::Class;

/// Whose fault a failure is, in LAVA's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// Board, power, console or network.
    Infrastructure,
    /// The lab's description of itself is wrong.
    Configuration,
    /// The job asks for what cannot be.
    Job,
    Test,
    /// hearth's own.
    Bug,
    /// The user stopped it.
    Cancelled,
}

impl FailureClass {
    /// The class that decides hearth's exit code.
    pub const fn exit_class(self) -> Class {
        match self {
            FailureClass::Test => Class::Tests,
            FailureClass::Configuration | FailureClass::Job => Class::Input,
            FailureClass::Infrastructure | FailureClass::Bug | FailureClass::Cancelled => {
                Class::Infrastructure
            }
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            FailureClass::Infrastructure => "infrastructure",
            FailureClass::Configuration => "configuration",
            FailureClass::Job => "job",
            FailureClass::Test => "test",
            FailureClass::Bug => "bug",
            FailureClass::Cancelled => "cancelled",
        }
    }
}

/// Why a run ended before its tests did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailure {
    pub class: FailureClass,
    /// The stage in which it happened, such as `kernel`.
    pub stage: String,
    /// One sentence.
    pub message: String,
    /// The console's last lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

/// One stage of a boot: off, power, bootloader, kernel, userspace, checked-in, running, done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootStage {
    pub name: String,
    /// Seconds since the run began.
    pub at: f64,
    /// Seconds; of the last stage of a run that failed, until it was given up.
    pub duration: f64,
}
