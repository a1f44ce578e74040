//! Owns kernels that a user brings: their forms, what their trees and packages hold, and depmod.
//! Never builds one, and never knows of an image.

pub mod config;
pub mod depmod;
pub mod form;
pub mod layer;
pub mod module;
pub mod modules;
pub mod package;
mod parts;
pub mod tree;
pub mod unpack;

use std::path::Path;

use anyhow::Result;

use crate::arch::Arch;
use crate::recipe::ImageKind;

pub use parts::{Parts, device_tree};

/// The parts in a directory: a tree that a kernel was built in, or what was installed of one.
///
/// # Errors
/// If a part is missing.
pub fn locate(directory: &Path, arch: Arch, kind: ImageKind) -> Result<Parts> {
    match tree::is_tree(directory) {
        true => tree::locate(directory, arch, kind),
        false => package::locate(directory),
    }
}
