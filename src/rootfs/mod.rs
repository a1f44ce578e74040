//! Owns filling a tree with packages: unpack, dpkg database, configure, customise, strip, normalise.
//! Never fetches, and never knows of boards or of the image's format.

mod ahead;
mod berkeley_db;
mod certificates;
pub(crate) mod configure;
pub(crate) mod customise;
mod diversions;
mod dpkg;
pub(crate) mod fallback;
mod install;
mod locale;
mod merged_usr;
mod mounted;
pub(crate) mod normalise;
mod package;
mod secrets;
mod steps;
mod strip;
pub(crate) mod tools;
pub(crate) mod tree;
mod unpack;
mod users;

pub(crate) use ahead::LAYERS_BELOW;
pub(crate) use mounted::Mounted;
pub use package::{PackageFile, PackagesInput};
pub(crate) use steps::{CONFIGURE, STEPS, TOOLS, UNPACK};
