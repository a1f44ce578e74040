//! Owns importing a root file system that others made: its tar, what boards boot from, and the output directory of both.
//! Never reads a format: see `import`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::import_boot::{self, BootFiles, BootParts, Given};
use super::import_kept::{self, Kept, Tar, source};
use crate::arch::Arch;
use crate::build::{Key, SideStages, publish, set_date};
use crate::error::{Fault, InputContext};
use crate::image::index::Image;
use crate::image::{Artifact, Manifest, ROOTFS, RecipeReference, Source};
use crate::import::root::{Architecture, Init, architecture, init};
use crate::import::{Converted, Options, Rootfs};
use crate::kernel::layer::{self, Layer};
use crate::kernel::{modules, package};
use crate::output::refuse_no_output;
use crate::progress::{Progress, Unit};

/// Raised when the same inputs give other bytes.
const REVISION: u32 = 1;

/// What to import.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// What the output is called, as a recipe's name.
    pub name: &'a str,
    pub rootfs: &'a Path,
    pub options: Options,
    /// The architecture, where no program of the root tells it.
    pub arch: Option<Arch>,
    pub boot: BootFiles<'a>,
    /// A kernel's modules, which become a layer over the root: what `make modules_install` wrote, or a tar of it.
    pub modules: Option<&'a Path>,
}

/// What an import made.
#[derive(Clone, Debug)]
pub struct Imported {
    pub manifest: Manifest,
    /// What the user should know, such as what was left out.
    pub notes: Vec<String>,
    /// Whether the output directory was written; otherwise it was up to date.
    pub written: bool,
}

/// The record of the stage that made the tar.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RootStage {
    converted: Converted,
    arch: Result<Arch, String>,
    /// Where it has modules, or would have them: `usr/lib/modules`, or `lib/modules` where `/usr` is not merged.
    modules: String,
    notes: Vec<String>,
}

/// Imports a root file system into the output directory `out`. What was made of the same input before comes from the cache.
///
/// # Errors
/// If a part cannot be read or does not fit the others. `out` is unchanged then.
pub fn import(
    import: &Import<'_>,
    out: &Path,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<Imported> {
    check_name(import.name)?;
    refuse_no_output(out)?;
    let rootfs = Rootfs::open(import.rootfs, &import.options)?;
    let mut boot = import_boot::open(&import.boot)?;
    let mut stages = SideStages::open(cache, &import.inputs(), progress)?;
    let root = root_stage(import, rootfs, &mut stages, progress)?;
    let (arch, root_notes) = arch_of(import, &root.facts)?;
    let tar = &root.facts.converted.written.tar;
    let newest = root.facts.converted.written.newest;
    let kernel = import_boot::kernel_stage(&boot, arch, &mut stages)?;
    if let Some(kernel) = &kernel {
        boot.release.clone_from(&kernel.facts.release);
        boot.kernel = Some(kernel.path.join(import_boot::KERNEL));
    }
    let modules = match import.modules {
        Some(path) => Some(import.modules_stage(path, &root.facts, arch, &boot, &mut stages)?),
        None => None,
    };
    let mut tars = vec![(ROOTFS.to_string(), root.path.join(ROOTFS), tar.clone())];
    if let (Some(made), Some(path)) = (&modules, import.modules) {
        let layer = &made.facts.layer.tar;
        let name = format!("layers/{}.tar", &layer.sha256[..12]);
        tars.push((name, made.path.join(LAYER), layer.clone()));
        let from = Source {
            path: path.display().to_string(),
            sha256: layer.sha256.clone(),
        };
        boot.sources.insert("modules".into(), from);
        boot.release = Some(made.facts.release.clone());
    }
    let parts = import_boot::stage(&boot, &tars, arch, newest, &mut stages)?;
    let manifest = import.manifest(arch, &root.facts, &boot.sources, &tars, &parts.facts);
    let all_tars = tars
        .iter()
        .map(|(name, path, _)| (name.as_str(), path.clone()));
    let artifacts = all_tars.chain(
        parts
            .facts
            .artifacts
            .keys()
            .map(|name| (name.as_str(), parts.path.join("out").join(name))),
    );
    let written = publish(&manifest, artifacts, out, newest)?;
    // The links have changed what their seals are of.
    root.seal()?;
    parts.seal()?;
    if let Some(modules) = &modules {
        modules.seal()?;
    }
    stages.finish()?;
    let notes = [root_notes, parts.facts.notes].concat();
    Ok(Imported {
        manifest,
        notes,
        written,
    })
}

impl Import<'_> {
    /// The files and directories that were given, the root first.
    fn inputs(&self) -> Vec<PathBuf> {
        std::iter::once(self.rootfs)
            .chain(self.boot.paths())
            .chain(self.modules)
            .map(Path::to_path_buf)
            .collect()
    }

    fn manifest(
        &self,
        arch: Arch,
        root: &RootStage,
        sources: &BTreeMap<String, Source>,
        tars: &[Tar],
        parts: &BootParts,
    ) -> Manifest {
        let mut sources = sources.clone();
        let rootfs = Source {
            path: self.rootfs.display().to_string(),
            sha256: root.converted.source.clone(),
        };
        sources.insert("rootfs".into(), rootfs);
        let mut artifacts = parts.artifacts.clone();
        for (name, _, artifact) in tars {
            artifacts.insert(name.clone(), artifact.clone());
        }
        Manifest {
            hearth: env!("CARGO_PKG_VERSION").into(),
            recipe: RecipeReference {
                name: self.name.into(),
                sha256: digest(&sources),
            },
            lock: None,
            arch,
            epoch: root.converted.written.newest,
            kernel: parts.kernel.clone(),
            image: format!("{}-{}", self.name, id(&artifacts)),
            artifacts,
            layers: tars[1..].iter().map(|(name, ..)| name.clone()).collect(),
            kernel_arguments: parts.kernel_arguments.clone(),
            sources,
        }
    }
}

/// 12 hex digits of the SHA-256 of all that boots.
fn id(artifacts: &BTreeMap<String, Artifact>) -> String {
    let mut hash = Sha256::new();
    for (name, artifact) in artifacts {
        hash.update(format!("{name}\0{}\0", artifact.sha256));
    }
    hex::encode(hash.finalize())[..12].to_string()
}

/// The SHA-256 of what was given, whatever it is called.
fn digest(sources: &BTreeMap<String, Source>) -> String {
    let mut hash = Sha256::new();
    for (what, source) in sources {
        hash.update(format!("{what}\0{}\0", source.sha256));
    }
    hex::encode(hash.finalize())
}

/// The stage with the tar: found by what tells its input from others, without reading that.
fn root_stage(
    import: &Import<'_>,
    rootfs: Rootfs,
    stages: &mut SideStages<'_>,
    progress: &dyn Progress,
) -> Result<Kept<RootStage>> {
    let key = Key::new("import", REVISION)
        .with("input", rootfs.stamp()?)
        .with("options", format!("{:?}", import.options));
    import_kept::stage(stages, key, |directory| {
        let tar = directory.join(ROOTFS);
        let converted = rootfs.convert(directory, &tar, progress)?;
        set_date(&tar, converted.written.newest)?;
        let image = Image::open(&tar)?;
        let mut notes = converted.notes.clone();
        notes.extend(init_note(init(&image)));
        Ok(RootStage {
            arch: match architecture(&image) {
                Architecture::Known(arch) => Ok(arch),
                Architecture::Foreign(name) => Err(format!("its programs are for {name}")),
                Architecture::None => Err("it has no program that tells its architecture".into()),
            },
            modules: place_of_modules(&image).into(),
            notes,
            converted,
        })
    })
}

/// The layer in the directory of its stage.
const LAYER: &str = "modules.tar";

/// The record of the stage with the modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ModulesStage {
    layer: Layer,
    release: String,
}

impl Import<'_> {
    /// The layer with the modules at `path`, and what depmod makes of them.
    fn modules_stage(
        &self,
        path: &Path,
        root: &RootStage,
        arch: Arch,
        boot: &Given<'_>,
        stages: &mut SideStages<'_>,
    ) -> Result<Kept<ModulesStage>> {
        fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let release = self.boot.release.or(boot.release.as_deref());
        let newest = root.converted.written.newest;
        let input = match path.is_dir() {
            true => modules::installed(path, release)?.fingerprint()?,
            false => source(path)?.sha256,
        };
        let key = Key::new("import-modules", REVISION)
            .with("input", input)
            .with("release", release.unwrap_or_default())
            .with("architecture", arch.debian())
            .with("place", &root.modules)
            .with("date", newest.to_string());
        let progress = stages.progress();
        import_kept::stage(stages, key, |directory| {
            let stage = progress.stage("modules", None, Unit::Items);
            let unpacked = tempfile::tempdir_in(directory).context("cannot write in the cache")?;
            let mut below = path;
            if !path.is_dir() {
                package::extract(path, unpacked.path())
                    .input_context(|| format!("cannot take the modules of {}", path.display()))?;
                below = unpacked.path();
            }
            let files = modules::installed(below, release)
                .with_context(|| format!("cannot take the modules of {}", path.display()))?;
            let contents = layer::Contents {
                modules: &files,
                arch,
                config: None,
                directory: &root.modules,
            };
            let layer = layer::write(&contents, &directory.join(LAYER))?;
            set_date(&directory.join(LAYER), newest)?;
            stage.finish(&format!("{} of {}", layer.modules, files.release));
            Ok(ModulesStage {
                layer,
                release: files.release,
            })
        })
    }
}

fn place_of_modules(image: &Image) -> &'static str {
    let lib = image.follow("lib");
    match lib.is_some_and(|lib| lib.path == b"lib") {
        true => "lib/modules",
        false => "usr/lib/modules",
    }
}

fn init_note(init: Init) -> Option<String> {
    match init {
        Init::Usual => None,
        Init::Other(path) => Some(format!(
            "the root has no /sbin/init: boards start it only with init={path} among their kernel arguments"
        )),
        Init::Missing => Some(
            "the root has no init (/sbin/init, /etc/init, /bin/init, /init): no board can start it as it is".into(),
        ),
    }
}

/// The architecture, and what is to be told of the root.
fn arch_of(import: &Import<'_>, root: &RootStage) -> Result<(Arch, Vec<String>)> {
    match (import.arch, &root.arch) {
        (Some(asked), Ok(found)) if asked != *found => Err(Fault::input(format!(
            "the programs of {} are for {found}, not for {asked}",
            import.rootfs.display()
        ))
        .remedy("leave --arch out")
        .into()),
        (_, Ok(found)) => Ok((*found, root.notes.clone())),
        (Some(asked), Err(_)) => Ok((asked, root.notes.clone())),
        (None, Err(sentence)) => {
            let all: Vec<&str> = Arch::ALL.iter().map(|arch| arch.debian()).collect();
            Err(Fault::input(format!(
                "cannot import {}: {sentence}",
                import.rootfs.display()
            ))
            .remedy(format!(
                "boards of hearth's are {}; --arch says which, where no program does",
                all.join(", ")
            ))
            .into())
        }
    }
}

/// Refuses a name that paths, addresses of the servers and image ids cannot have.
fn check_name(name: &str) -> Result<()> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_fit)
        && name.len() <= 100;
    if is_name {
        return Ok(());
    }
    Err(
        Fault::input(format!("`{name}` cannot be the name of an image"))
            .remedy("use letters, digits, `-` and `_`, such as yocto-armhf")
            .into(),
    )
}
