//! Owns kernels that a user brings: their forms, what their trees and packages hold, and depmod.
//! Never builds one, and never knows of an image.

pub mod config;
pub mod depmod;
pub mod form;
pub mod layer;
pub mod module;
pub mod modules;
pub mod package;
pub mod tree;
pub mod unpack;

use std::path::{Path, PathBuf};

use anyhow::Result;

use self::modules::ModuleFiles;
use crate::arch::Arch;
use crate::recipe::ImageKind;

/// The parts of a kernel, wherever they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The kernel itself, in any form.
    pub image: PathBuf,
    /// As `uname -r` prints it, if a file tells.
    pub release: Option<String>,
    /// The kernel's configuration.
    pub config: Option<PathBuf>,
    /// Directories in which its device trees are.
    pub device_trees: Vec<PathBuf>,
    /// `None` if only the kernel itself was given.
    pub modules: Option<ModuleFiles>,
}

impl Parts {
    /// Those in a directory: a tree that a kernel was built in, or what was installed of one.
    ///
    /// # Errors
    /// If a part is missing.
    pub fn of_directory(directory: &Path, arch: Arch, kind: ImageKind) -> Result<Self> {
        if tree::is_tree(directory) {
            tree::locate(directory, arch, kind)
        } else {
            package::locate(directory)
        }
    }

    /// A file that is the kernel alone.
    pub fn of_file(file: &Path) -> Self {
        Parts {
            image: file.to_path_buf(),
            release: None,
            config: None,
            device_trees: Vec::new(),
            modules: None,
        }
    }

    /// A device tree by the path that a board type has for it.
    pub fn device_tree(&self, wanted: &str) -> Option<PathBuf> {
        let mut directories = self.device_trees.iter();
        directories.find_map(|directory| tree::device_tree(directory, wanted))
    }
}
