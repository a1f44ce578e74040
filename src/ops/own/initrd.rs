//! Owns the initrd of an own kernel: the user's, or one that is built anew over the image and its layers.
//! Never runs the image's own mkinitramfs.

use std::path::Path;

use anyhow::{Context, Result};

use super::modules::Kernel;
use super::needs;
use super::work::{Work, exists, read_artifacts, write_artifacts};
use crate::build::compose::Part;
use crate::build::{Key, wrap_initrd};
use crate::error::{Fault, InputContext};
use crate::image::index::Image;
use crate::initrd::{self, Options};
use crate::input;
use crate::kernel::modules::version;
use crate::kernel::unpack::Packing;
use crate::progress::Unit;
use crate::recipe::{BoardType, InitrdOptions, Own, RecipeFile};
use crate::uboot::uimage;

const REVISION: u32 = 1;
const INITRD: &str = "initrd.img";
const WRAPPED: &str = "uInitrd";

/// Takes the user's initrd, or builds the board's for a kernel, over the image and the layers of the change.
///
/// # Errors
/// If the user's is none; if the kernel lacks what the board or the root file system needs.
pub fn take(
    work: &mut Work<'_>,
    own: &Own,
    kernel: Option<Kernel>,
    trees: Option<&Path>,
    board_type: &BoardType,
) -> Result<()> {
    if let Some(kernel) = &kernel {
        needs::check(work, kernel, board_type, own.initrd.is_none())?;
    }
    if let Some(path) = &own.initrd {
        return take_given(work, path, board_type);
    }
    let release = match (&kernel, &work.manifest.kernel) {
        (Some(kernel), _) => kernel.release.clone(),
        (None, Some(release)) => release.clone(),
        (None, None) => return Ok(()),
    };
    let config = kernel.and_then(|kernel| kernel.config);
    build(work, &release, config.as_deref(), trees, board_type)
}

/// The recipe's options, if it is known, is the one that the image was built from, and the builder is one that runs here.
fn recipe_options(work: &Work<'_>) -> InitrdOptions {
    let recipe = &work.manifest.recipe;
    match RecipeFile::open(&recipe.name) {
        Ok(file) if file.digest() == recipe.sha256 => file.recipe.initrd,
        _ => InitrdOptions::default(),
    }
}

fn build(
    work: &mut Work<'_>,
    release: &str,
    config: Option<&str>,
    trees: Option<&Path>,
    board_type: &BoardType,
) -> Result<()> {
    let recipe = recipe_options(work);
    let compression = needs::compression(config, release, recipe.compression)?;
    let root = work.manifest.root_digest(work.base)?;
    let mut key = Key::new("own initrd", REVISION)
        .with("image", root)
        .with("date", work.manifest.epoch.to_string())
        .with("kernel", release)
        .with("options", serde_json::to_vec(&recipe)?)
        .with("compression", format!("{compression:?}"))
        .with("board type", serde_json::to_vec(board_type)?);
    for (number, layer) in work.change.layers.iter().enumerate() {
        key = key.with(format!("layer {number}"), &layer.artifact.sha256);
    }
    for (name, part) in &work.change.parts {
        if name.starts_with("dtb/") {
            key = key.with(name, &part.artifact.sha256);
        }
    }
    let in_image = work.base.join("dtb");
    let trees = trees.map(Path::to_path_buf).or_else(|| {
        let is_there = |tree: &String| in_image.join(tree).is_file();
        board_type
            .device_tree
            .as_ref()
            .filter(|tree| is_there(tree))?;
        Some(in_image.clone())
    });
    let tars = work.manifest.tars(work.base);
    let layers = work.change.layers.iter().map(|layer| layer.path.clone());
    let tars: Vec<_> = tars.into_iter().chain(layers).collect();
    let (arch, epoch) = (board_type.arch, work.manifest.epoch);
    let board_types = [(work.type_name.clone(), board_type.clone())].into();
    let progress = work.stages.progress();
    let stage = work.stage(key, |stage| {
        let shown = progress.stage("initrd", None, Unit::Items);
        let image = Image::open_stack(&tars)?;
        let options = Options {
            arch,
            board_types: &board_types,
            boards_are_named: true,
            kernel: Some(release),
            device_trees: trees.as_deref(),
            modules: &recipe.modules,
            binaries: &recipe.binaries,
            compression,
            roots: &recipe.roots,
        };
        initrd::build(&image, &options, &stage.join(INITRD))?;
        wrap_initrd(stage, arch, epoch)?;
        shown.finish(&format!("for {release}"));
        write_artifacts(stage, &[INITRD, WRAPPED])
    })?;
    take_stage(work, &stage)
}

/// The user's initrd, plain and as a uImage.
fn take_given(work: &mut Work<'_>, path: &Path, board_type: &BoardType) -> Result<()> {
    exists(path, "initrd")?;
    let (arch, epoch) = (board_type.arch, work.manifest.epoch);
    let key = Key::new("own initrd file", REVISION)
        .with("initrd", version(path)?)
        .with("date", epoch.to_string())
        .with("architecture", arch.debian());
    let stage = work.stage(key, |stage| {
        let data = input::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let data = plain(data).input_context(|| format!("the initrd {}", path.display()))?;
        std::fs::write(stage.join(INITRD), data).context("cannot write it to the cache")?;
        wrap_initrd(stage, arch, epoch)?;
        write_artifacts(stage, &[INITRD, WRAPPED])
    })?;
    take_stage(work, &stage)?;
    let sha256 = work.change.parts[INITRD].artifact.sha256.clone();
    work.note_source("initrd", path, &sha256);
    Ok(())
}

fn take_stage(work: &mut Work<'_>, stage: &Path) -> Result<()> {
    for (name, artifact) in read_artifacts(stage)? {
        let path = stage.join(&name);
        work.change.parts.insert(name, Part { path, artifact });
    }
    Ok(())
}

/// An initrd as the kernel takes it, out of the uImage that it may be in.
fn plain(data: Vec<u8>) -> Result<Vec<u8>> {
    let data = match data.starts_with(&uimage::MAGIC) {
        true => data.get(uimage::HEADER_LEN..).unwrap_or_default().to_vec(),
        false => data,
    };
    let is_cpio = ["070701", "070702", "0707"]
        .iter()
        .any(|magic| data.starts_with(magic.as_bytes()));
    if is_cpio || Packing::of(&data).is_some() || data.starts_with(b"BZh") {
        return Ok(data);
    }
    Err(
        Fault::input("it is no initrd: neither a cpio archive nor a packed one")
            .remedy("give what mkinitramfs, dracut or gen_init_cpio made, packed or not")
            .into(),
    )
}
