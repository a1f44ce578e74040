//! Owns laying out the image of an output directory in the cache, for programs of it that are run by hand.
//! Never changes the output directory, and never runs a program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::build::{Key, SideStages, Stored};
use crate::image::Manifest;
use crate::image::index::Image;
use crate::netboot::provision::{Devices, extract};
use crate::progress::{Progress, Unit};
use crate::sandbox::{Namespaces, owners, steps};

/// Raised when the same image gives another tree.
const REVISION: u32 = 1;
/// The tree in the directory of its stage.
const TREE: &str = "tree";

steps! {
    LAY_OUT = "image-tree": lay_out, LayOut => ();
}

/// Input of `image-tree`.
#[derive(Debug, Serialize, Deserialize)]
pub struct LayOut {
    tars: Vec<PathBuf>,
    directory: PathBuf,
}

/// An image as a directory, which stays in the cache while this lives.
#[derive(Debug)]
pub struct ImageTree {
    pub arch: Arch,
    pub directory: PathBuf,
    /// Unix seconds; no file of the image is newer.
    pub epoch: i64,
    _stored: Stored,
}

/// Lays out the image of an output directory, or finds it in the cache. Device nodes are left out: a sandbox has its own.
///
/// # Errors
/// If it is no output directory, or the namespaces or the disk space for the tree cannot be had.
pub fn image_tree(output: &Path, cache: &Path, progress: &dyn Progress) -> Result<ImageTree> {
    let manifest = Manifest::load(output)?;
    let mut stages = SideStages::open(cache, &[output.join(Manifest::FILE)], progress)?;
    let key = Key::new("image-tree", REVISION)
        .with("image", manifest.root_digest(output)?)
        .with("owners", owners()?);
    let stored = stages.stage(key, |directory| {
        let input = LayOut {
            tars: manifest
                .tars(output)
                .iter()
                .map(fs::canonicalize)
                .collect::<Result<_, _>>()
                .with_context(|| format!("cannot read {}", output.display()))?,
            directory: directory.join(TREE),
        };
        Namespaces::new().step(&LAY_OUT, &input, progress)
    })?;
    stages.finish()?;
    Ok(ImageTree {
        arch: manifest.arch,
        directory: stored.path.join(TREE),
        epoch: manifest.epoch,
        _stored: stored,
    })
}

/// Runs inside, where the files get the owners that they have in the image.
fn lay_out(input: LayOut, progress: &dyn Progress) -> Result<()> {
    let image = Image::open_stack(&input.tars)?;
    let stage = progress.stage("lay out", Some(image.count()), Unit::Items);
    fs::create_dir(&input.directory)?;
    let root = File::open(&input.directory)?;
    extract(&image, &root, Devices::LeftOut, &*stage)?;
    stage.finish(&format!("{} files", image.count()));
    Ok(())
}
