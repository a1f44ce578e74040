//! Owns boots from memory alone: which images are roots of that kind, and the initrd that such a root becomes.
//! Never makes an initrd that mounts another root: see `initrd`.

use std::path::Path;

use anyhow::Result;

use crate::build::compose::{Change, Derived, Part, derive};
use crate::build::{Key, SideStages, wrap_initrd};
use crate::error::Fault;
use crate::image::Manifest;
use crate::image::index::Image;
use crate::initrd;
use crate::progress::Progress;

/// Raised when the same image gives another initrd.
const REVISION: u32 = 1;
/// The artifacts that boards load.
const INITRD: [&str; 2] = ["initrd.img", "uInitrd"];

/// Whether an image was imported and is an initramfs: the kernel starts `/init` of its initrd.
pub fn is_imported_initramfs(manifest: &Manifest, image: &Image) -> bool {
    manifest.sources.contains_key("rootfs") && image.follow("init").is_some()
}

/// The output directory `build` with the image itself as the initrd.
///
/// # Errors
/// If the image has no `/init`; if it cannot be read, or the cache cannot be written to.
pub fn with_root_as_initrd(
    build: &Path,
    manifest: &Manifest,
    image: &Image,
    progress: &dyn Progress,
) -> Result<Derived> {
    if image.follow("init").is_none() {
        return Err(Fault::input(format!(
            "a board that boots from memory has its root in the initrd, and the image {} has no /init to be one",
            manifest.image
        ))
        .remedy("give an initramfs (cpio or uInitrd) with --initrd FILE")
        .into());
    }
    let mut stages = SideStages::open(&crate::dirs::cache(), &[build.to_path_buf()], progress)?;
    let key = Key::new("root as initrd", REVISION).with("root", manifest.root_digest(build)?);
    let stored = stages.stage(key, |directory| {
        initrd::whole(image, &directory.join(INITRD[0]))?;
        wrap_initrd(directory, manifest.arch, manifest.epoch)
    })?;
    let mut change = Change::default();
    for name in INITRD {
        change
            .parts
            .insert(name.into(), Part::of(&stored.path.join(name))?);
    }
    let derived = derive(build, &change, &mut stages)?;
    stages.finish()?;
    Ok(derived)
}
