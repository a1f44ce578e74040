//! Owns the result of one check.
//! Never looks at the host.

use serde::Serialize;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Good,
    /// Some commands work, others do not; the remedy says which.
    Limited,
    /// Master images cannot be built on this host.
    Missing,
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub found: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    pub(super) fn good(name: &'static str, found: impl Into<String>) -> Self {
        Check {
            name,
            state: State::Good,
            found: found.into(),
            remedy: None,
        }
    }

    pub(super) fn limited(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Check {
            state: State::Limited,
            remedy: Some(remedy.into()),
            ..Check::good(name, found)
        }
    }

    pub(super) fn missing(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Check {
            state: State::Missing,
            ..Check::limited(name, found, remedy)
        }
    }
}
