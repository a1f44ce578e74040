//! Owns the examination of the host: what hearth needs, whether it is there, and what to do if not.
//! Never changes the host; all it knows of it comes through a [`Probe`].

mod checks;
mod probe;

pub use checks::{examine, is_able};
pub(crate) use probe::STEPS;
pub use probe::{Account, Endpoint, Host, Probe};

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Good,
    /// Some commands work, others do not: the remedy's text says which.
    Limited,
    /// Master images cannot be built here.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Check {
            name,
            state: State::Good,
            found: found.into(),
            remedy: None,
        }
    }

    fn limited(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check {
            state: State::Limited,
            remedy: Some(remedy.into()),
            ..Check::good(name, found)
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check {
            state: State::Missing,
            ..Check::limited(name, found, remedy)
        }
    }
}
