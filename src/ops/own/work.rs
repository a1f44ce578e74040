//! Owns the change of an output directory in the making, and what its stages note of themselves.
//! Never reads a part that the user named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::compose::Change;
use crate::build::{Key, SideStages, Stored};
use crate::error::Fault;
use crate::image::{Artifact, Manifest, Source};
use crate::recipe::BoardType;

/// The change of an output directory in the making.
pub(super) struct Work<'a> {
    pub base: &'a Path,
    /// The base's.
    pub manifest: Manifest,
    /// Name of the board type.
    pub type_name: String,
    pub stages: SideStages<'a>,
    pub change: Change,
    /// Stages that parts of the change are in, until it is made.
    pub held: Vec<Stored>,
}

impl Work<'_> {
    pub fn check_arch(&self, board_type: &BoardType) -> Result<()> {
        if self.manifest.arch == board_type.arch {
            return Ok(());
        }
        Err(Fault::input(format!(
            "the image {} is for {}, but a {} is {}",
            self.manifest.image, self.manifest.arch, self.type_name, board_type.arch
        ))
        .remedy("choose an image of the board's architecture with --image or --recipe")
        .into())
    }

    /// Makes files in a stage, or finds it, and holds it.
    pub fn stage(&mut self, key: Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let stored = self.stages.stage(key, make)?;
        let path = stored.path.clone();
        self.held.push(stored);
        Ok(path)
    }

    /// Notes where a part came from.
    pub fn note_source(&mut self, what: &str, path: &Path, sha256: &str) {
        let source = Source {
            path: path.display().to_string(),
            sha256: sha256.to_string(),
        };
        self.change.sources.insert(what.to_string(), source);
    }
}

/// Artifacts of a stage by file name, as [`write_artifacts`] has noted them.
pub(super) type Artifacts = BTreeMap<String, Artifact>;

const ARTIFACTS: &str = "artifacts.json";

/// Notes the sizes and hashes of a stage's files in it, so that they need not be hashed again.
pub(super) fn write_artifacts(stage: &Path, names: &[&str]) -> Result<()> {
    let mut artifacts = Artifacts::new();
    for name in names {
        artifacts.insert((*name).to_string(), Artifact::of(&stage.join(name))?);
    }
    write_json(&stage.join(ARTIFACTS), &artifacts)
}

pub(super) fn read_artifacts(stage: &Path) -> Result<Artifacts> {
    read_json(&stage.join(ARTIFACTS))
}

pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    std::fs::write(path, serde_json::to_vec(value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let failed = || format!("cannot read {}", path.display());
    let text = std::fs::read(path).with_context(failed)?;
    serde_json::from_slice(&text).with_context(failed)
}

/// Refuses a path that is not there, by the option that it was given with.
pub(super) fn exists(path: &Path, what: &str) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Fault::input(format!(
            "there is no {what} {}",
            path.display()
        ))
        .remedy("correct the path")
        .into()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the {what} {}", path.display()))
        }
    }
}
