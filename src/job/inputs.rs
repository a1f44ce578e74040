//! Owns what a run was made of, as its report names it: what was booted, the definitions, the settings.
//! Never gathers it: see `ops`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that a run depended on and hearth knows of. Hashes are SHA-256 in hex.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInputs {
    /// In the order in which a board gets them.
    pub booted: Vec<BootedFile>,
    /// The output directory that was booted, absolute.
    pub build: PathBuf,
    pub recipe: KeptText,
    /// None where no lock was built, but something imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<KeptText>,
    /// Parts that hearth did not build: what they are, and where they came from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<GivenPart>,
    pub definitions: Vec<UsedDefinition>,
    /// The tar that the board got, in the report's directory: [`JOB`].
    pub job: KeptText,
    pub settings: UsedSettings,
}

/// The job's tar in a report's directory, compressed with gzip.
pub const JOB: &str = "job.tar.gz";
/// The recipe's text in a report's directory.
pub const RECIPE: &str = "recipe.toml";
/// The lock's text in a report's directory.
pub const LOCK: &str = "image.lock";

/// A file that the board loaded, or of which its root is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootedFile {
    /// `root`, `layer`, `kernel`, `initrd`, `device tree`, `boot script` or `bootloader`.
    pub part: String,
    /// Relative to the output directory; for what is made on request, as boards ask for it.
    pub file: String,
    pub sha256: String,
}

/// A file by its hash, with the copy of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptText {
    /// As the user names it.
    pub name: String,
    pub sha256: String,
    /// The copy in the report's directory; none where the content was not there to be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Where it was read, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A part of an image that a user gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenPart {
    pub part: String,
    pub path: String,
    pub sha256: String,
}

/// A test definition of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedDefinition {
    /// As it was named on the command line; of a directory's, with its path in it.
    pub source: String,
    pub suite: String,
    /// Of its text.
    pub sha256: String,
    /// The commit, of one from a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// How the run was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsedSettings {
    /// `KEY=VALUE` or `NAME:KEY=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
    #[serde(default)]
    pub allow_local: bool,
    #[serde(default)]
    pub strict_lava: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// The device tree's file below the image's `dtb/`, on boards that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<String>,
    /// In addition to the board type's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
    /// The lab file, absolute; none for a board type's emulated board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<PathBuf>,
}
