//! Owns taking the kernel itself: out of a tree, a package or a file, in the form that the board boots.
//! Never looks at its modules.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::work::{Work, exists, read_artifacts, read_json, write_artifacts, write_json};
use crate::build::Key;
use crate::build::compose::Part;
use crate::error::{Fault, InputContext};
use crate::input;
use crate::kernel::modules::version;
use crate::kernel::{self, Parts, form, package};
use crate::recipe::{BoardType, Own};

const REVISION: u32 = 1;
const KERNEL: &str = "vmlinuz";
const ABOUT: &str = "about.json";

/// A kernel that was taken.
pub struct Given {
    /// Where its other parts are.
    pub parts: Parts,
    /// As `uname -r` prints it; `None` if nothing tells.
    pub release: Option<String>,
    /// The text of its configuration, if it is known.
    pub config: Option<String>,
}

/// What the kernel in a stage says of itself.
#[derive(Serialize, Deserialize)]
struct About {
    release: Option<String>,
    config: Option<String>,
}

/// Takes the kernel that the user named, if one is.
///
/// # Errors
/// If it is none, or one that the board does not boot.
pub fn take(work: &mut Work<'_>, own: &Own, board_type: &BoardType) -> Result<Option<Given>> {
    let Some(path) = &own.kernel else {
        return Ok(None);
    };
    exists(path, "kernel")?;
    let parts = locate(work, path, board_type)?;
    let about = take_image(work, &parts.image, board_type)
        .input_context(|| format!("the kernel {}", parts.image.display()))?;
    let config = match &parts.config {
        Some(file) => Some(
            input::read_text(file).with_context(|| format!("cannot read {}", file.display()))?,
        ),
        None => about.config,
    };
    if let (Some(of_image), Some(of_parts)) = (&about.release, &parts.release)
        && of_image != of_parts
    {
        return Err(Fault::input(format!(
            "the kernel {} is {of_image}, but what is beside it is of {of_parts}",
            parts.image.display()
        ))
        .remedy(
            "build the whole kernel again: make zImage modules dtbs, or make Image modules dtbs",
        )
        .into());
    }
    let release = about.release.or_else(|| parts.release.clone());
    if release.is_some() {
        work.change.kernel.clone_from(&release);
    }
    let sha256 = work.change.parts[KERNEL].artifact.sha256.clone();
    work.note_source("kernel", path, &sha256);
    Ok(Some(Given {
        parts,
        release,
        config,
    }))
}

/// Finds the parts of a kernel, for which a package is unpacked.
fn locate(work: &mut Work<'_>, path: &Path, board_type: &BoardType) -> Result<Parts> {
    let (arch, kind) = (board_type.arch, board_type.image);
    if path.is_dir() {
        return kernel::locate(path, arch, kind);
    }
    if !package::is_package(path)? {
        return Ok(Parts::of_file(path));
    }
    let directory = unpacked(work, path)?;
    kernel::locate(&directory, arch, kind)
        .with_context(|| format!("the package {}", path.display()))
}

/// The directory to which a package of a kernel or of modules was unpacked.
pub fn unpacked(work: &mut Work<'_>, path: &Path) -> Result<std::path::PathBuf> {
    let key = Key::new("own package", REVISION).with("package", version(path)?);
    work.stage(key, |stage| package::extract(path, stage))
}

/// Puts the kernel into a stage in the form that the board boots.
fn take_image(work: &mut Work<'_>, image: &Path, board_type: &BoardType) -> Result<About> {
    let (arch, kind) = (board_type.arch, board_type.image);
    let key = Key::new("own kernel", REVISION)
        .with("kernel", version(image)?)
        .with("form", format!("{arch} {}", kind.boot_command()));
    let stage = work.stage(key, |stage| {
        let size = std::fs::metadata(image)?.len();
        if size > form::LARGEST {
            return Err(Fault::input("it is far too large for a kernel").into());
        }
        let kernel = form::read(input::read(image)?, arch, kind)?;
        std::fs::write(stage.join(KERNEL), &kernel.data).context("cannot write it to the cache")?;
        let about = About {
            release: kernel.about.release,
            config: kernel.about.config,
        };
        write_json(&stage.join(ABOUT), &about)?;
        write_artifacts(stage, &[KERNEL])
    })?;
    for (name, artifact) in read_artifacts(&stage)? {
        let path = stage.join(&name);
        work.change.parts.insert(name, Part { path, artifact });
    }
    read_json(&stage.join(ABOUT))
}
