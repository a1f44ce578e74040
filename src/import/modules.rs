//! Owns a kernel's modules as a layer over a root: out of a directory or a tar, as `make modules_install` writes them.
//! Never looks into a module, and never makes what depmod makes.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::directory::{self, Directory};
use super::format::Format;
use super::tree::{Content, Kind, Place, ROOT, Tree};
use super::write::{Source, Written, write};
use super::{tar, unpacked};
use crate::error::{Fault, InputContext};
use crate::image::Artifact;
use crate::input;
use crate::progress::{Progress, Unit};

/// A layer with modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modules {
    pub written: Written,
    /// Of the kernels that it has modules of, sorted.
    pub releases: Vec<String>,
    /// SHA-256 in hex: of the file; of a directory, of the layer that was made of it.
    pub source: String,
    pub notes: Vec<String>,
}

/// Modules that somebody installed.
pub struct GivenModules {
    path: std::path::PathBuf,
    what: What,
}

enum What {
    Directory(Box<Directory>),
    File(std::fs::File),
}

/// Where modules are below what is given.
const PLACES: [&[u8]; 3] = [b"lib/modules", b"usr/lib/modules", b"modules"];
/// A file that is in every directory of modules, and one that depmod makes.
const ORDER: &[u8] = b"modules.order";
const DEPENDENCIES: &[u8] = b"modules.dep";

impl GivenModules {
    /// Looks at a directory or a tar: a root with `lib/modules/RELEASE`, that directory, or one above it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let what = match path.is_dir() {
            // Whoever installed them: on a board they are root's.
            true => What::Directory(Box::new(directory::walk(path, true)?)),
            false => What::File(input::open(path).with_context(failed)?),
        };
        Ok(GivenModules {
            path: path.to_path_buf(),
            what,
        })
    }

    /// As [`super::Rootfs::stamp`].
    ///
    /// # Errors
    /// If the file cannot be looked at.
    pub fn stamp(&self) -> Result<Vec<u8>> {
        match &self.what {
            What::Directory(directory) => Ok(directory.stamp.as_bytes().to_vec()),
            What::File(file) => super::convert::stamp_of(file),
        }
    }

    /// Writes the layer into the new file `layer`, with the modules below `place`, such as `usr/lib/modules`.
    ///
    /// # Errors
    /// If there are no modules in it; as [`super::Rootfs::convert`].
    pub fn convert(
        self,
        place: &str,
        work: &Path,
        layer: &Path,
        progress: &dyn Progress,
    ) -> Result<Modules> {
        let path = self.path;
        let in_place = || format!("cannot take the modules of {}", path.display());
        let stage = progress.stage("modules", None, Unit::Bytes);
        let name = path
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.as_bytes().to_vec()))
            .unwrap_or_default();
        let made = match self.what {
            What::Directory(mut directory) => {
                let tree = std::mem::take(&mut directory.tree);
                let found = Found::of(tree, &name, place).input_context(in_place)?;
                let written = found.write(&*directory, layer, &*stage)?;
                let source = written.tar.sha256.clone();
                found.done(written, source)
            }
            What::File(file) => {
                let unpacked = unpacked::unpack(file, work).input_context(in_place)?;
                if unpacked.format != Some(Format::Tar) {
                    return Err(Fault::input(format!("{} is no tar", path.display()))
                        .remedy(
                            "give what `make modules_install` wrote: a directory, or a tar of it",
                        )
                        .into());
                }
                let tree = tar::tree(&unpacked.file).input_context(in_place)?;
                let found = Found::of(tree, &name, place).input_context(in_place)?;
                let bytes = Bytes(&unpacked.file);
                let written = found
                    .write(&bytes, layer, &*stage)
                    .input_context(in_place)?;
                found.done(written, Artifact::of(&path)?.sha256)
            }
        };
        stage.finish(&made.releases.join(", "));
        Ok(made)
    }
}

/// Modules that were found in a tree.
struct Found {
    /// With the modules in their place in the root.
    tree: Tree,
    releases: Vec<String>,
    notes: Vec<String>,
    /// What paths begin with in the layer, and in the source.
    renamed: (Vec<u8>, Vec<u8>),
}

impl Found {
    /// `name` is that of the source, which may be a release.
    fn of(mut tree: Tree, name: &[u8], place: &str) -> Result<Self> {
        let missing = || {
            Fault::input("there are no modules in it").remedy(
                "give what `make modules_install` wrote: a directory with lib/modules/RELEASE in it, or a tar of that",
            )
        };
        let place = place.as_bytes();
        let (top, to, from) = if is_of_release(&tree, ROOT) {
            (ROOT, [place, b"/", name].concat(), Vec::new())
        } else {
            let found = PLACES.iter().find_map(|path| {
                let found = tree.find(path).ok()?;
                has_releases(&tree, found)
                    .then(|| (found, place.to_vec(), [path, &b"/"[..]].concat()))
            });
            let itself = || has_releases(&tree, ROOT).then(|| (ROOT, place.to_vec(), Vec::new()));
            let itself = itself();
            found.or(itself).ok_or_else(missing)?
        };
        let releases_in = |tree: &Tree, place: Place| -> Vec<(String, Place)> {
            match &tree.node(place).kind {
                Kind::Directory(entries) => entries
                    .iter()
                    .filter(|(_, place)| is_of_release(tree, **place))
                    .map(|(name, &place)| (String::from_utf8_lossy(name).into_owned(), place))
                    .collect(),
                _ => Vec::new(),
            }
        };
        let of = match is_of_release(&tree, top) {
            true => vec![(String::from_utf8_lossy(name).into_owned(), top)],
            false => releases_in(&tree, top),
        };
        let notes = of
            .iter()
            .filter(|(_, place)| tree.entry(*place, DEPENDENCIES).is_none())
            .map(|(release, _)| format!("the modules of {release} have no modules.dep, without which a board loads none: run `depmod`"))
            .collect();
        let tree = tree.grafted(top, &to)?;
        Ok(Found {
            tree,
            releases: of.into_iter().map(|(release, _)| release).collect(),
            notes,
            renamed: ([&to, &b"/"[..]].concat(), from),
        })
    }

    fn write(
        &self,
        source: &dyn Source,
        layer: &Path,
        stage: &dyn crate::progress::Stage,
    ) -> Result<Written> {
        let renamed = Renamed {
            source,
            to: &self.renamed.0,
            from: &self.renamed.1,
        };
        write(&self.tree, &renamed, layer, stage)
    }

    fn done(self, written: Written, source: String) -> Modules {
        Modules {
            written,
            releases: self.releases,
            source,
            notes: self.notes,
        }
    }
}

fn is_of_release(tree: &Tree, place: Place) -> bool {
    [ORDER, DEPENDENCIES]
        .iter()
        .any(|name| tree.entry(place, name).is_some())
}

fn has_releases(tree: &Tree, place: Place) -> bool {
    match &tree.node(place).kind {
        Kind::Directory(entries) => entries.values().any(|&place| is_of_release(tree, place)),
        _ => false,
    }
}

/// A source whose files have other paths in the layer.
struct Renamed<'a> {
    source: &'a dyn Source,
    to: &'a [u8],
    from: &'a [u8],
}

impl Source for Renamed<'_> {
    fn open<'a>(
        &'a self,
        path: &[u8],
        content: &'a Content,
        size: u64,
    ) -> Result<Box<dyn Read + 'a>> {
        let below = path
            .strip_prefix(self.to)
            .context("it is not of the layer")?;
        self.source
            .open(&[self.from, below].concat(), content, size)
    }
}
