//! Owns initrds: module closure, ELF closure, the native and the chroot builder, cpio.
//! Never wraps them for U-Boot.

mod compress;
mod elf;
mod extract;
mod fdt;
mod glob;
mod kernel;
mod listing;
mod modinfo;
mod native;
mod read;
mod select;
mod tree;

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe::{Arch, BoardType, Compression};
use crate::rootfs::index::Image;

pub use extract::{Extracted, extract};
pub use listing::{Difference, FileLine, Listing, ModuleLine, Total, compare, list};
pub use read::{Archive, Entry, FileType, read};

/// What an initrd shall be.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub arch: Arch,
    /// The board types it is for, by name.
    pub board_types: &'a BTreeMap<String, BoardType>,
    /// The kernel's release; of an image with one kernel it need not be told.
    pub kernel: Option<&'a str>,
    /// Modules beyond those of the board types, written as theirs.
    pub modules: &'a [String],
    /// Programs of the image to take along, absolute.
    pub binaries: &'a [String],
    pub compression: Compression,
}

/// Builds an initrd natively out of an image, and writes it to `out`. The same image and options give the same
/// bytes.
///
/// # Errors
/// If the image lacks something that the initrd needs, or a board type's kernel cannot unpack the compression.
pub fn build_native(image: &Image, options: &Options<'_>, out: &mut dyn Write) -> Result<()> {
    check_compression(options)?;
    let tree = native::assemble(image, options)?;
    let mut out = compress::Encoder::new(out, options.compression)?;
    tree.write_cpio(image, &mut out)?;
    out.finish()
}

fn check_compression(options: &Options<'_>) -> Result<()> {
    for (name, board_type) in options.board_types {
        let known = &board_type.initrd.compression;
        if !known.is_empty() && !known.contains(&options.compression) {
            return Err(Fault::input(format!(
                "the kernel of the board type {name} cannot unpack an initrd with {:?} compression",
                options.compression
            ))
            .remedy("choose another compression under [initrd] in the recipe")
            .into());
        }
    }
    Ok(())
}
