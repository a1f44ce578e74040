//! Owns dpkg's diversions (dpkg-divert(1)), as its database holds them.
//! Never makes one: maintainer scripts do.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;

use super::tree::Tree;

/// Where they are kept.
pub const DIVERSIONS: &str = "var/lib/dpkg/diversions";

/// Files that packages have put elsewhere (dpkg-divert(1)).
#[derive(Clone, Debug, Default)]
pub struct Diversions(HashMap<String, (PathBuf, String)>);

impl Diversions {
    /// Reads the tree's diversions: three lines each, from, to, and the package that keeps the name.
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

    /// Where the file `path` of a package goes instead, if it is diverted.
    pub fn place(&self, path: &str, package: &str) -> Option<PathBuf> {
        let (to, keeper) = self.0.get(path)?;
        (keeper != package).then(|| to.clone())
    }

    /// Whether a package has diverted everybody else's file `path`, so that its own may stand there.
    pub fn keeps(&self, path: &str, package: &str) -> bool {
        self.0
            .get(path)
            .is_some_and(|(_, keeper)| keeper == package)
    }
}
