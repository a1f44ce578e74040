//! Owns what a kernel consists of, wherever its parts were found.
//! Never looks for them.

use std::fs;
use std::path::{Path, PathBuf};

use super::modules::ModuleFiles;

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
        directories.find_map(|directory| device_tree(directory, wanted))
    }
}

/// A device tree by the path that a board type has for it, such as `sun8i-h3-nanopi-neo.dtb`. Since Linux 6.5 those of
/// 32-bit ARM are in a directory for each vendor, but are installed without.
pub fn device_tree(directory: &Path, wanted: &str) -> Option<PathBuf> {
    let direct = directory.join(wanted);
    if direct.is_file() {
        return Some(direct);
    }
    let name = Path::new(wanted).file_name()?;
    let vendors = fs::read_dir(directory).ok()?;
    let mut found: Vec<PathBuf> = vendors
        .filter_map(|entry| Some(entry.ok()?.path().join(name)))
        .chain([directory.join(name)])
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.into_iter().next()
}
