//! Owns the overlay of a stage over the layers of earlier ones.
//! Never decides which layers those are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use super::tools;
use crate::sandbox::overlay;

/// An overlay whose upperdir is `upper` in a stage's directory and whose lowerdirs are earlier
/// layers.
pub(crate) struct Mounted {
    /// The mount point.
    pub root: PathBuf,
    layers: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
}

impl Mounted {
    pub fn new(directory: &Path, layers: &[PathBuf]) -> Result<Self> {
        let [upper, work, root] = ["upper", "work", "root"].map(|name| directory.join(name));
        for path in [&upper, &work, &root] {
            fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        overlay(layers, &upper, &work, &root)?;
        Ok(Mounted {
            root,
            layers: layers.to_vec(),
            upper,
            work,
        })
    }

    /// The same with the layer of native tools as the topmost lowerdir.
    pub fn with_tools(directory: &Path, tools: Option<&Path>, layers: &[PathBuf]) -> Result<Self> {
        let tools = tools.map(tools::layer).into_iter();
        let layers: Vec<PathBuf> = tools.chain(layers.iter().cloned()).collect();
        Mounted::new(directory, &layers)
    }

    /// The layer of the changes.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Remounts it with one more lowerdir below all others.
    pub fn lay_below(&self, layer: &Path) -> Result<()> {
        self.unmount()?;
        // The kernel refuses a workdir that was used by another `volatile` mount.
        fs::remove_dir_all(&self.work)?;
        fs::create_dir(&self.work)?;
        let mut layers = self.layers.clone();
        layers.push(layer.to_path_buf());
        overlay(&layers, &self.upper, &self.work, &self.root)
    }

    fn unmount(&self) -> Result<()> {
        umount2(&self.root, MntFlags::empty()).context("cannot unmount the image's overlay")
    }

    /// Unmounts, and removes all but the upperdir.
    pub fn close(self) -> Result<()> {
        self.unmount()?;
        fs::remove_dir(&self.root)?;
        fs::remove_dir_all(&self.work)?;
        Ok(())
    }

    /// Unmounts, and removes everything.
    pub fn discard(self) -> Result<()> {
        let upper = self.upper.clone();
        self.close()?;
        fs::remove_dir_all(&upper).with_context(|| format!("cannot remove {}", upper.display()))
    }
}
