//! Owns `manifest.json`: what is in an output directory, and what it was made from.
//! Never makes what it lists.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Fault, InputContext};
use crate::input;
use crate::recipe::Arch;

/// What `hearth build` made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// hearth's version.
    pub hearth: String,
    pub recipe: RecipeReference,
    pub lock: LockReference,
    pub arch: Arch,
    /// Unix seconds; no file of the image is newer.
    pub epoch: i64,
    /// The kernel's release, such as `6.12.48+deb13-armmp`.
    pub kernel: Option<String>,
    /// The image id: the recipe's name and the first 12 hex digits of the SHA-256 of `rootfs.tar`.
    pub image: String,
    /// By path relative to the output directory.
    pub artifacts: BTreeMap<String, Artifact>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeReference {
    pub name: String,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReference {
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl Manifest {
    pub const FILE: &'static str = "manifest.json";

    /// Reads the manifest of an output directory.
    ///
    /// # Errors
    /// If the directory has none, or it is damaged.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(Manifest::FILE);
        let text = match input::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let sentence = format!("{} is not what `hearth build` made", directory.display());
                return Err(Fault::input(sentence)
                    .remedy("run `hearth build RECIPE` first, or name its output directory")
                    .into());
            }
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text).input_context(|| format!("{} is damaged", path.display()))
    }

    /// As written to the file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is always JSON");
        text.push('\n');
        text
    }
}

impl Artifact {
    /// Hashes a file.
    pub fn of(path: &Path) -> Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let mut file = input::open(path).with_context(failed)?;
        let mut hash = Sha256::new();
        let size = io::copy(&mut file, &mut HashWriter(&mut hash)).with_context(failed)?;
        Ok(Artifact {
            sha256: hex::encode(hash.finalize()),
            size,
        })
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
