//! Owns taking a kernel's modules: which ones belong to it, and the layer that they become.
//! Never chooses those of an initrd.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kernel::{Given, unpacked};
use super::work::{Work, exists, read_json, write_json};
use crate::arch::Arch;
use crate::build::Key;
use crate::build::compose::Part;
use crate::error::Fault;
use crate::image::index::{Image, Kind};
use crate::kernel::layer::{self, Layer};
use crate::kernel::modules::{self, ModuleFiles};
use crate::kernel::package;
use crate::progress::Unit;
use crate::recipe::Own;

const REVISION: u32 = 1;
const TAR: &str = "layer.tar";
const FACTS: &str = "layer.json";

/// The kernel that boots, after its modules were taken.
pub struct Kernel {
    pub release: String,
    /// The text of its configuration, if it is known.
    pub config: Option<String>,
    /// How many loadable modules it has; `None` if they are the image's.
    pub modules: Option<usize>,
}

/// Takes the modules of the given kernel, or those that were given for the image's. `None` if the image keeps both.
///
/// # Errors
/// If modules are damaged, missing, or of another kernel.
pub fn take(
    work: &mut Work<'_>,
    own: &Own,
    given: Option<Given>,
    arch: Arch,
) -> Result<Option<Kernel>> {
    let (named, release, config) = match given {
        None if own.modules.is_none() => return Ok(None),
        None => (None, work.manifest.kernel.clone(), None),
        Some(given) => (given.parts.modules, given.release, given.config),
    };
    let files = match &own.modules {
        Some(path) => Some(find(work, path, release.as_deref())?),
        None => named,
    };
    let of_files = files.as_ref().map(|files| files.release.clone());
    let Some(release) = release.or(of_files).filter(|release| !release.is_empty()) else {
        return Err(no_release(own));
    };
    let Some(mut files) = files else {
        return of_image_or_none(work, own, &release, config, arch).map(Some);
    };
    if files.release.is_empty() {
        files.release.clone_from(&release);
    }
    if files.release != release {
        return Err(Fault::input(format!(
            "the modules in {} are of the kernel {}, but the kernel is {release}",
            own.modules.as_deref().unwrap_or(Path::new("")).display(),
            files.release
        ))
        .remedy("give the modules that were built with this kernel")
        .into());
    }
    let modules = lay(work, &files, config.as_deref(), arch)?;
    if let Some(path) = &own.modules {
        let sha256 = work
            .change
            .layers
            .last()
            .map(|part| part.artifact.sha256.clone());
        work.note_source("modules", path, &sha256.unwrap_or_default());
    }
    Ok(Some(Kernel {
        release,
        config,
        modules: Some(modules),
    }))
}

fn no_release(own: &Own) -> anyhow::Error {
    let kernel = own.kernel.as_deref().unwrap_or(Path::new(""));
    Fault::input(format!(
        "{} does not tell its release: it is packed in a way that hearth cannot unpack",
        kernel.display()
    ))
    .remedy("give the kernel's tree, or its modules with --modules")
    .into()
}

/// The modules that the user named.
fn find(work: &mut Work<'_>, path: &Path, release: Option<&str>) -> Result<ModuleFiles> {
    exists(path, "directory or tar of modules")?;
    if path.is_dir() {
        return modules::installed(path, release);
    }
    if !package::is_package(path)? {
        return Err(Fault::input(format!(
            "{} is neither a directory of modules nor a tar of one",
            path.display()
        ))
        .remedy("give what `make modules_install INSTALL_MOD_PATH=DIR` wrote")
        .into());
    }
    let directory: PathBuf = unpacked(work, path)?;
    modules::installed(&directory, release).with_context(|| format!("the tar {}", path.display()))
}

/// A kernel that came alone: it has the image's modules if they are of its release; else none.
fn of_image_or_none(
    work: &mut Work<'_>,
    own: &Own,
    release: &str,
    config: Option<String>,
    arch: Arch,
) -> Result<Kernel> {
    let image = work.manifest.open_image(work.base)?;
    let has_modules = image.follow(format!("usr/lib/modules/{release}")).is_some()
        || image.follow(format!("lib/modules/{release}")).is_some();
    let modules = match has_modules {
        true => None,
        false => {
            warn_of_no_modules(work, own, release);
            Some(lay(
                work,
                &ModuleFiles::none(release),
                config.as_deref(),
                arch,
            )?)
        }
    };
    Ok(Kernel {
        release: release.to_string(),
        config,
        modules,
    })
}

fn warn_of_no_modules(work: &Work<'_>, own: &Own, release: &str) {
    let image = work.manifest.kernel.as_deref().unwrap_or("no kernel");
    let mut note = format!(
        "the kernel {release} has no modules: the image has those of {image}; what the board needs must be built in"
    );
    let tree = own
        .kernel
        .as_deref()
        .and_then(|path| path.ancestors().nth(4));
    if let Some(tree) = tree.filter(|tree| tree.join("modules.order").is_file()) {
        note += &format!(" (--kernel {} takes those of its tree too)", tree.display());
    }
    work.stages.progress().note(&note);
}

/// Makes the layer, or finds it, and returns how many modules are in it.
fn lay(
    work: &mut Work<'_>,
    files: &ModuleFiles,
    config: Option<&str>,
    arch: Arch,
) -> Result<usize> {
    let directory = modules_directory(work)?;
    let key = Key::new("own modules", REVISION)
        .with("modules", files.fingerprint()?)
        .with("configuration", config.unwrap_or_default())
        .with("architecture", arch.debian())
        .with("directory", directory);
    let progress = work.stages.progress();
    let stage = work.stage(key, |stage| {
        let shown = progress.stage("modules", None, Unit::Items);
        let contents = layer::Contents {
            modules: files,
            arch,
            config: config.map(str::as_bytes),
            directory,
        };
        let layer = layer::write(&contents, &stage.join(TAR))?;
        shown.finish(&format!("{} of {}", layer.modules, files.release));
        write_json(&stage.join(FACTS), &layer)
    })?;
    let layer: Layer = read_json(&stage.join(FACTS))?;
    work.change.layers.push(Part {
        path: stage.join(TAR),
        artifact: layer.tar,
    });
    Ok(layer.modules)
}

/// Where the image has modules: its `/lib` is a link, or, as before Debian 12 and in other systems, a directory.
fn modules_directory(work: &Work<'_>) -> Result<&'static str> {
    let image: Image = work.manifest.open_image(work.base)?;
    let lib = image
        .find("lib")
        .and_then(|found| image.inode(found.number));
    let is_directory = lib.is_some_and(|inode| matches!(inode.kind, Kind::Directory { .. }));
    Ok(match is_directory {
        true => "lib/modules",
        false => "usr/lib/modules",
    })
}
