//! Owns initrds: module closure, ELF closure, the native and the chroot builder, cpio.
//! Never wraps them for U-Boot.

#[cfg(test)]
mod bad_input;
mod chroot;
mod compress;
mod elf;
mod extract;
mod fdt;
mod glob;
mod kernel;
mod listing;
pub mod modinfo;
pub mod module_name;
mod native;
mod options;
mod read;
mod rewrite;
mod select;
mod tree;
mod whole;

use std::path::Path;

use anyhow::Result;

use crate::error::Fault;
use crate::image::index::Image;
use crate::output::AtomicFile;
use crate::progress::Progress;

pub(crate) use chroot::STEPS;
pub use chroot::{Chroot, Hooks};
pub use extract::{Extracted, extract};
pub use fdt::root_compatible;
pub use listing::{Difference, FileLine, Listing, ModuleLine, Total, compare, list};
pub use options::Options;
pub use read::{Archive, CpioEntry, FileType, read};
pub use whole::whole;

/// Builds an initrd from an image's own files and writes it atomically to `path`. The same image
/// and options give the same bytes.
///
/// # Errors
/// If the image lacks something that the initrd needs, or a kernel or bootloader cannot decompress
/// it.
pub fn build(image: &Image, options: &Options<'_>, path: &Path) -> Result<()> {
    check_compression(options)?;
    let tree = native::assemble(image, options)?;
    let mut file = AtomicFile::create(path)?;
    let mut out = compress::Encoder::new(&mut file, options.compression)?;
    tree.write_cpio(image, &mut out)?;
    out.finish()?;
    file.commit()
}

/// As [`build`], with the distribution's mkinitramfs.
///
/// # Errors
/// As [`build`]; and if mkinitramfs fails, with its output.
pub fn build_in_chroot(
    image: &Image,
    options: &Options<'_>,
    chroot: &Chroot<'_>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    check_compression(options)?;
    let mut file = AtomicFile::create(path)?;
    chroot::write(image, options, chroot, &mut file, progress)?;
    file.commit()
}

fn check_compression(options: &Options<'_>) -> Result<()> {
    for (name, board_type) in options.board_types {
        let known = &board_type.initrd.compression;
        if !known.is_empty() && !known.contains(&options.compression) {
            let sentence = format!(
                "the kernel of the board type {name} cannot unpack an initrd with {:?} compression",
                options.compression
            );
            if !options.boards_are_named {
                log::warn!("{sentence}");
                continue;
            }
            return Err(Fault::input(sentence)
                .remedy("choose another compression under [initrd] in the recipe")
                .into());
        }
    }
    Ok(())
}
