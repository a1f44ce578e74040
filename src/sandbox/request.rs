//! Owns how hearth calls itself for work inside.
//! Never starts a process.

use serde::{Deserialize, Serialize};

/// hearth, even if its file was replaced meanwhile.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";

/// The hidden subcommand.
pub(super) const HIDDEN: &str = "__sandbox";

/// Which step, and how much of what it logs is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StepName {
    pub(super) name: String,
    pub(super) log: String,
}

impl StepName {
    pub fn new(name: &str) -> Self {
        StepName {
            name: name.to_owned(),
            log: log::max_level().to_string(),
        }
    }
}
