//! Owns dpkg's diversions (dpkg-divert(1)), as its database holds them.
//! Never makes one: maintainer scripts do.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;

use super::tree::Tree;

/// Where they are kept.
pub const DIVERSIONS: &str = "var/lib/dpkg/diversions";

/// Diverted files (dpkg-divert(1)).
#[derive(Clone, Debug, Default)]
pub struct Diversions(HashMap<String, (PathBuf, String)>);

impl Diversions {
    /// Reads the tree's diversions: three lines each: original path, diverted path, and the package
    /// that keeps the original path.
    pub fn load(tree: &mut Tree) -> Result<Self> {
        let text = tree.read_text(DIVERSIONS)?;
        let lines: Vec<&str> = text.lines().collect();
        Ok(Diversions(
            lines
                .chunks_exact(3)
                .map(|three| {
                    let to = PathBuf::from(three[1].trim_start_matches('/'));
                    (three[0].to_string(), (to, three[2].to_string()))
                })
                .collect(),
        ))
    }

    /// The diverted path for a package's file `path`, if it is diverted.
    pub fn place(&self, path: &str, package: &str) -> Option<PathBuf> {
        let (to, keeper) = self.0.get(path)?;
        (keeper != package).then(|| to.clone())
    }

    /// Whether a package diverts the file `path` of all others, so that its own file may have that
    /// path.
    pub fn keeps(&self, path: &str, package: &str) -> bool {
        self.0
            .get(path)
            .is_some_and(|(_, keeper)| keeper == package)
    }
}
