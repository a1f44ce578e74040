//! Owns the causes of failures by which the caller of a step decides what to do next.
//! Never decides it, and never words an error.

use serde::{Deserialize, Serialize};

/// Why a step failed, where its caller may do it in another way. Given to a [`crate::error::Fault`] by `because`, it
/// reaches the caller's process with the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Maintainer scripts failed, in this order.
    Scripts(Vec<FailedScript>),
    /// Another program of the image failed.
    Program,
    /// A program of the image has taken a file of the host along.
    HostsFile,
}

/// A maintainer script that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedScript {
    /// The package's name, without an architecture.
    pub package: String,
    /// `preinst` or `postinst`.
    pub script: String,
    /// How it ended, as dpkg says it.
    pub reason: String,
    /// The last lines of its output.
    pub lines: Vec<String>,
}
