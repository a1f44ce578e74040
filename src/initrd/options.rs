//! Owns what an initrd is asked to hold, for either builder.
//! Never looks at an image.

use std::collections::BTreeMap;
use std::path::Path;

use crate::arch::Arch;
use crate::recipe::{BoardType, Compression, RootKind};

/// The content of an initrd.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub arch: Arch,
    /// The board types that it supports, by name.
    pub board_types: &'a BTreeMap<String, BoardType>,
    /// Whether the user named these board types. Otherwise types that the kernel has no drivers for
    /// are skipped with a warning.
    pub boards_are_named: bool,
    /// The kernel's release; optional if the image has one kernel.
    pub kernel: Option<&'a str>,
    /// Where device trees are, by the board types' paths; instead of the image's.
    pub device_trees: Option<&'a Path>,
    /// Modules in addition to those of the board types, in the same syntax.
    pub modules: &'a [String],
    /// Programs of the image to add, as absolute paths.
    pub binaries: &'a [String],
    pub compression: Compression,
    /// The kinds of root file system that it can mount.
    pub roots: &'a [RootKind],
}
