//! Owns gathering what a run is made of, and keeping copies of it in the report's directory.
//! Never fails a run: what cannot be kept is told, and missing in the report.

use std::path::{Path, PathBuf};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::kept_texts;
use super::prepared::{Prepared, Settings};
use super::target::Target;
use crate::image::Manifest;
use crate::job::inputs::{
    BootedFile, GivenPart, JOB, KeptText, LOCK, RECIPE, RunInputs, UsedSettings,
};
use crate::job::{Parameter, kept};
use crate::output::write_atomically;
use crate::recipe::{RecipeFile, boot_values};
use crate::uboot::{BootScript, Templates};

/// Gathers what a run of `job` on `target` is made of; the copies go into `directory`.
pub(super) fn gather(
    target: &Target,
    manifest: &Manifest,
    job: &Prepared,
    directory: &Path,
) -> RunInputs {
    let sources = manifest.sources.iter().map(|(part, source)| GivenPart {
        part: part.clone(),
        path: source.path.clone(),
        sha256: source.sha256.clone(),
    });
    let recipe = target.board.recipe.as_deref();
    let file = recipe.and_then(|recipe| RecipeFile::open(recipe).ok());
    let keep = |name: &str, text: Option<String>| {
        keep(directory, name, text.as_deref().map(str::as_bytes))
    };
    let sha256 = &manifest.recipe.sha256;
    let recipe = KeptText {
        name: manifest.recipe.name.clone(),
        sha256: sha256.clone(),
        kept: keep(RECIPE, recipe_text(sha256, file.as_ref())),
        path: file
            .as_ref()
            .filter(|file| file.name == manifest.recipe.name)
            .map(absolute),
    };
    let lock = manifest.lock.as_ref().map(|lock| KeptText {
        name: format!("{}.lock", manifest.recipe.name),
        sha256: lock.sha256.clone(),
        kept: keep(LOCK, lock_text(&lock.sha256, file.as_ref())),
        path: None,
    });
    RunInputs {
        booted: booted(target, manifest),
        build: std::path::absolute(&target.build).unwrap_or_else(|_| target.build.clone()),
        recipe,
        lock,
        sources: sources.collect(),
        definitions: job.definitions.clone(),
        job: KeptText {
            name: "job".into(),
            sha256: hex::encode(Sha256::digest(&job.tar)),
            kept: kept::compress(&job.tar)
                .ok()
                .and_then(|tar| self::keep(directory, JOB, Some(&tar))),
            path: None,
        },
        settings: UsedSettings {
            kernel_arguments: manifest.kernel_arguments.clone(),
            ..settings(&job.settings, target)
        },
    }
}

/// A built-in recipe stays one.
fn absolute(file: &RecipeFile) -> PathBuf {
    match file.is_built_in() {
        true => file.path.clone(),
        false => std::path::absolute(&file.path).unwrap_or_else(|_| file.path.clone()),
    }
}

/// The recipe's text with this hash: as it was when it was built, else as it is now.
fn recipe_text(sha256: &str, file: Option<&RecipeFile>) -> Option<String> {
    let now = || file.filter(|file| file.digest() == sha256);
    kept_texts::find(sha256).or_else(|| now().map(|file| file.text.clone()))
}

fn lock_text(sha256: &str, file: Option<&RecipeFile>) -> Option<String> {
    let now = || {
        let lock = file?.existing_lock().ok()??;
        (lock.digest() == sha256).then(|| lock.to_toml())
    };
    kept_texts::find(sha256).or_else(now)
}

/// Writes a copy; gives its name if there is one now.
fn keep(directory: &Path, name: &str, content: Option<&[u8]>) -> Option<String> {
    let path = directory.join(name);
    match write_atomically(&path, content?) {
        Ok(()) => Some(name.into()),
        Err(error) => {
            log::warn!("{} is not kept with the report: {error:#}", path.display());
            None
        }
    }
}

fn settings(settings: &Settings, target: &Target) -> UsedSettings {
    UsedSettings {
        parameters: settings.parameters.iter().map(Parameter::text).collect(),
        allow_local: settings.allow_local,
        strict_lava: settings.strict_lava,
        retries: settings.retries,
        timeout: settings.timeout,
        device_tree: target.board.board_type.device_tree.clone(),
        kernel_arguments: Vec::new(),
        lab: target
            .lab
            .path
            .as_deref()
            .and_then(|path| std::path::absolute(path).ok()),
    }
}

/// The files that this board loads, in the order in which it does, with the hashes of the manifest. The bootloader is that
/// of the build; what is on a real board's card is known to nobody here.
fn booted(target: &Target, manifest: &Manifest) -> Vec<BootedFile> {
    let board = &target.board;
    let mut found = Vec::new();
    let mut add = |part: &str, file: &str| {
        if let Some(artifact) = manifest.artifacts.get(file) {
            found.push(BootedFile {
                part: part.into(),
                file: file.into(),
                sha256: artifact.sha256.clone(),
            });
        }
    };
    let bootloader = format!("bootloader/{}/", board.type_name);
    for file in manifest.artifacts.keys() {
        if file.starts_with(&bootloader) {
            add("bootloader", file);
        }
    }
    add("kernel", "vmlinuz");
    if let Some(tree) = &board.board_type.device_tree {
        add("device tree", &format!("dtb/{tree}"));
    }
    add("initrd", "uInitrd");
    add("root", crate::image::ROOTFS);
    for layer in &manifest.layers {
        add("layer", layer);
    }
    match script(target, &manifest.image) {
        Ok(script) => {
            let after_bootloader = found.iter().take_while(|file| file.part == "bootloader");
            found.insert(after_bootloader.count(), script);
        }
        Err(error) => log::info!("the boot script is not in the report: {error:#}"),
    }
    found
}

/// The script that the servers give to the board for this image.
fn script(target: &Target, image: &str) -> Result<BootedFile> {
    let board = &target.board;
    let values = boot_values(board, &target.lab.settings, Some(image));
    let arch = board.board_type.arch;
    let script = BootScript::render(&Templates::load()?, &board.boot_script, &values, arch, 0)?;
    Ok(BootedFile {
        part: "boot script".into(),
        file: values.script,
        sha256: hex::encode(Sha256::digest(&script.image)),
    })
}
