//! Owns the way from packages to a master image: unpack, dpkg database, configure, customise, normalise, tar.
//! Never fetches, and never knows of boards.

mod ahead;
mod boot;
mod build;
mod certificates;
pub mod configure;
mod customise;
pub mod diff;
mod dpkg;
pub(crate) mod fallback;
pub mod index;
mod initrd;
mod install;
mod locale;
mod manifest;
mod normalise;
mod package;
mod publish;
mod sbom;
mod secrets;
mod steps;
mod store;
mod strip;
mod tarball;
pub(crate) mod tools;
mod tree;
mod unpack;
mod users;
pub mod verify;

use std::path::Path;

use anyhow::{Context, Result};

pub use boot::extract_bootloaders;
pub use build::{Built, Plan, StageReport, Until, build, layers};
pub use initrd::{WantedInitrd, build_initrd};
pub use manifest::{Artifact, LockReference, Manifest, RecipeReference};
pub use package::PackageFile;
pub(crate) use steps::Mounted;
pub(crate) use steps::STEPS;
use tree::{Attributes, Tree};

/// Directories that are links into `/usr`.
const MERGED_USR: [&str; 3] = ["bin", "lib", "sbin"];

/// Makes `/bin`, `/lib` and `/sbin` links into `/usr`. Trixie's base-files brings these very links, and
/// bookworm's expects them; they have to be there before anything is unpacked.
fn merged_usr(tree: &mut Tree) -> Result<()> {
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
