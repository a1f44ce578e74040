//! Owns the way from packages to a master image: unpack, dpkg database, configure, customise, normalise, tar.
//! Never fetches, and never knows of boards.

mod certificates;
pub mod configure;
pub mod index;
