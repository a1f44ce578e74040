//! Owns the pipeline's stage that makes the initrd: its key, and the choice of the builder.
//! Never reads an initrd.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::pipeline::{Facts, FinishedStage, Pipeline};
use super::plan::Plan;
use super::publish::collect;
use super::stages::Key;
use crate::error::Fault;
use crate::image::index::Image;
use crate::initrd::{self, Chroot, Hooks};
use crate::output::AtomicFile;
use crate::progress::{Progress, Unit};
use crate::recipe::{Arch, BoardType, Builder, InitrdOptions};
use crate::uboot::bootscript::image_arch;
use crate::uboot::{Kind, write};

/// Raised when the stage's code produces different output from the same inputs.
const REVISION: u32 = 2;

/// A request for an initrd that differs from the recipe's own.
#[derive(Clone, Debug)]
pub struct WantedInitrd {
    pub builder: Builder,
    pub boards: BTreeMap<String, BoardType>,
    /// Whether the user named the board types.
    pub boards_are_named: bool,
}

/// Builds an initrd for the plan's image into the file `path`; builds missing stages of the image.
///
/// # Errors
/// As `build`; and if the image has no kernel.
pub fn build_initrd(
    plan: &Plan,
    wanted: &WantedInitrd,
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let mut pipeline = Pipeline::start(plan, progress)?;
    let unpacked = pipeline.unpack()?;
    let configured = pipeline.configure(&unpacked)?;
    let image = pipeline.image(&configured)?;
    let boot = pipeline.boot(&image)?;
    if boot.facts.kernel.is_none() {
        return Err(
            Fault::input(format!("the image of {} has no kernel", plan.name))
                .remedy("name one in the recipe: kernel = \"…\"")
                .into(),
        );
    }
    let initrd = pipeline.initrd(&unpacked, &image, &boot, wanted)?;
    let made = initrd.artifact("initrd.img");
    let mut from = File::open(&made).with_context(|| format!("cannot open {}", made.display()))?;
    let mut file = AtomicFile::create(path)?;
    io::copy(&mut from, &mut file).with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

impl Pipeline<'_> {
    /// The initrd, plain and as a uImage; empty for an image without a kernel.
    pub(super) fn initrd(
        &mut self,
        unpacked: &FinishedStage,
        image: &FinishedStage,
        boot: &FinishedStage,
        wanted: &WantedInitrd,
    ) -> Result<FinishedStage> {
        let plan = self.plan;
        let (hooks, tools) = match wanted.builder {
            Builder::Native => (Hooks::default(), None),
            Builder::Chroot => (plan.hooks()?, self.tools(unpacked)?),
        };
        let recipe = InitrdOptions {
            builder: wanted.builder,
            ..plan.recipe.initrd.clone()
        };
        let mut key = Key::new("initrd", REVISION)
            .with("stage image", &image.digest)
            .with("date", plan.epoch.to_string())
            .with("kernel", boot.facts.kernel.as_deref().unwrap_or_default())
            .with("options", serde_json::to_vec(&recipe)?)
            .with("hooks", serde_json::to_vec(&hooks)?)
            .with("board types", serde_json::to_vec(&wanted.boards)?);
        if let Some(tools) = &tools {
            key = key.with("stage tools", &tools.digest);
        }
        let tar = image.stored.path.join("rootfs.tar");
        let progress = self.progress;
        self.stage(key, |directory| {
            let stage = progress.stage("initrd", None, Unit::Items);
            let out = directory.join("out");
            fs::create_dir(&out)?;
            if let Some(kernel) = &boot.facts.kernel {
                let options = initrd::Options {
                    arch: plan.recipe.arch,
                    board_types: &wanted.boards,
                    boards_are_named: wanted.boards_are_named,
                    kernel: Some(kernel),
                    device_trees: None,
                    modules: &recipe.modules,
                    binaries: &recipe.binaries,
                    compression: recipe.compression,
                    roots: &recipe.roots,
                };
                let work = directory.join("chroot");
                let chroot = Chroot {
                    layers: &image.layers,
                    tools: tools.as_ref().map(|made| made.stored.path.as_path()),
                    epoch: u64::try_from(plan.epoch)?,
                    hooks: &hooks,
                    module_set: recipe.module_set,
                    limits: &plan.limits(),
                    work: &work,
                };
                let (image, path) = (Image::open(&tar)?, out.join("initrd.img"));
                match wanted.builder {
                    Builder::Native => initrd::build(&image, &options, &path)?,
                    Builder::Chroot => {
                        stage.message("mkinitramfs");
                        fs::create_dir(&work)?;
                        initrd::build_in_chroot(&image, &options, &chroot, &path, progress)?;
                        fs::remove_dir(&work)?;
                    }
                }
                wrap_initrd(&out, plan.recipe.arch, plan.epoch)?;
            }
            let mut artifacts = BTreeMap::new();
            collect(&out, Path::new(""), &mut artifacts)?;
            let size = artifacts.get("initrd.img").map_or(0, |made| made.size);
            stage.finish(&format!("{} KiB", size.div_ceil(1024)));
            Ok(Facts {
                artifacts,
                kernel: None,
                ..Facts::default()
            })
        })
    }
}

impl Plan {
    /// The initrd according to the recipe.
    pub(super) fn initrd(&self) -> WantedInitrd {
        WantedInitrd {
            builder: self.recipe.initrd.builder,
            boards: self.boards.clone(),
            boards_are_named: !self.recipe.boards.is_empty(),
        }
    }

    fn hooks(&self) -> Result<Hooks> {
        let directory =
            |path: &Option<PathBuf>| path.as_ref().map(|path| self.directory().join(path));
        let options = &self.recipe.initrd;
        let (hooks, scripts) = (directory(&options.hooks), directory(&options.scripts));
        Hooks::read(hooks.as_deref(), scripts.as_deref())
    }
}

/// Makes `uInitrd` of `initrd.img` in `out`, dated `epoch` in Unix seconds. U-Boot passes the data on unchanged; the kernel unpacks
/// it.
///
/// # Errors
/// If it cannot be read or written.
pub fn wrap_initrd(out: &Path, arch: Arch, epoch: i64) -> Result<()> {
    let time = u32::try_from(epoch).context("the image's date does not fit a uImage")?;
    let mut image = write::NewImage::new(Kind::RAMDISK, image_arch(arch), time);
    image.name = b"initrd".to_vec();
    write::create(&image, &[out.join("initrd.img")], &out.join("uInitrd"))?;
    Ok(())
}
