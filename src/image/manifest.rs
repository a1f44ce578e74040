//! Owns `manifest.json`: the content of an output directory and its inputs.
//! Never makes what it lists.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::index::Image;
use crate::arch::Arch;
use crate::error::{Fault, InputContext};
use crate::input;

/// The root file system's tar in an output directory.
pub const ROOTFS: &str = "rootfs.tar";

/// The result of `hearth build`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// hearth's version.
    pub hearth: String,
    pub recipe: RecipeReference,
    /// None where no lock was built, but something imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockReference>,
    pub arch: Arch,
    /// Unix seconds; no file of the image is newer.
    pub epoch: i64,
    /// The kernel's release, such as `6.12.48+deb13-armmp`.
    pub kernel: Option<String>,
    /// The image id: the recipe's name and the first 12 hex digits of the SHA-256 of `rootfs.tar`, or of all that boots
    /// where that is not the build's alone.
    pub image: String,
    /// Artifacts by path relative to the output directory.
    pub artifacts: BTreeMap<String, Artifact>,
    /// The artifacts that lie over `rootfs.tar` as layers, bottom first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// What the kernel is told in addition to the board type's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
    /// Where each part that hearth did not build came from, by what it is: `rootfs`, `kernel`, `modules`, ….
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Source>,
}

/// Something that was given to hearth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As it was named.
    pub path: String,
    /// SHA-256 in hex: of a file; of a directory, of what was made of it.
    pub sha256: String,
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
    /// ```
    /// # let out = tempfile::tempdir()?;
    /// # std::fs::write(out.path().join("manifest.json"), common::manifest("trixie-armhf-0123456789ab"))?;
    /// use hearth::image::Manifest;
    ///
    /// let manifest = Manifest::load(out.path())?;
    /// assert_eq!(manifest.image, "trixie-armhf-0123456789ab");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
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

    /// The tars of the image in its output directory, bottom first.
    pub fn tars(&self, directory: &Path) -> Vec<PathBuf> {
        self.tar_names().map(|name| directory.join(name)).collect()
    }

    fn tar_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(ROOTFS).chain(self.layers.iter().map(String::as_str))
    }

    /// Opens the image in its output directory.
    ///
    /// # Errors
    /// If a tar is missing, or has another size than the manifest says; as [`Image::open`].
    pub fn open_image(&self, directory: &Path) -> Result<Image> {
        for name in self.tar_names() {
            let path = directory.join(name);
            let size = fs::metadata(&path)
                .with_context(|| format!("cannot read {}", path.display()))?
                .len();
            let expected = self.artifact(name, directory)?.size;
            if size != expected {
                return Err(Fault::input(format!(
                    "{} has {size} bytes, but its manifest says {expected}",
                    path.display()
                ))
                .remedy("build the image again")
                .into());
            }
        }
        Image::open_stack(&self.tars(directory))
    }

    /// What tells this root file system from all others: the SHA-256 of `rootfs.tar`, or of a stack of layers that of
    /// their SHA-256s, one after the other.
    ///
    /// # Errors
    /// If the manifest in `directory` does not have them.
    pub fn root_digest(&self, directory: &Path) -> Result<[u8; 32]> {
        let mut digests = Vec::new();
        for name in self.tar_names() {
            let mut digest = [0; 32];
            hex::decode_to_slice(&self.artifact(name, directory)?.sha256, &mut digest)
                .with_context(|| format!("the SHA-256 of {name} in the manifest"))?;
            digests.push(digest);
        }
        Ok(match digests[..] {
            [only] => only,
            _ => Sha256::digest(digests.concat()).into(),
        })
    }

    fn artifact(&self, name: &str, directory: &Path) -> Result<&Artifact> {
        self.artifacts.get(name).with_context(|| {
            let path = directory.join(Manifest::FILE);
            format!("the manifest {} does not name {name}", path.display())
        })
    }

    /// The text of the file.
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
