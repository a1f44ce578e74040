//! Owns the links of a merged `/usr`.
//! Never moves a file.

use std::path::Path;

use anyhow::{Context, Result};

use super::tree::{Attributes, Tree};

/// Directories that are links into `/usr`.
pub const MERGED_USR: [&str; 3] = ["bin", "lib", "sbin"];

/// Makes `/bin`, `/lib` and `/sbin` links into `/usr`. Trixie's base-files contains these links,
/// and bookworm's expects them; they have to exist before anything is unpacked.
pub fn merged_usr(tree: &mut Tree) -> Result<()> {
    for name in MERGED_USR {
        let target = Path::new("usr").join(name);
        let attributes = Attributes {
            uid: 0,
            gid: 0,
            mode: 0o777,
            mtime: 0,
        };
        tree.make_directory(&target)
            .and_then(|_| tree.symlink(Path::new(name), &target, attributes))
            .with_context(|| format!("cannot make /{name} of the image"))?;
    }
    Ok(())
}
