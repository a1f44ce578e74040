//! Owns taking a bootloader: the files that a board type names, out of the directory that U-Boot was built in.
//! Never decides where on a card they go: the board type does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::work::{Work, exists, read_json, write_json};
use crate::arch::Arch;
use crate::build::Key;
use crate::build::compose::Part;
use crate::error::Fault;
use crate::image::Artifact;
use crate::input;
use crate::kernel::config::value;
use crate::kernel::modules::version;
use crate::recipe::{BoardType, Own};

const REVISION: u32 = 1;
const FACTS: &str = "artifacts.json";
/// Where Debian's packages have what was built of U-Boot; other files of a bootloader come from the board's vendor.
const UBOOT: &str = "usr/lib/u-boot/";

/// Takes the bootloader that the user named, if one is.
///
/// # Errors
/// If a file that the board type names is missing, or U-Boot was built for another architecture.
pub fn take(work: &mut Work<'_>, own: &Own, board_type: &BoardType) -> Result<()> {
    if own.bootloader.is_empty() {
        return Ok(());
    }
    let found = files(&own.bootloader, &work.type_name, board_type)?;
    let mut key = Key::new("own bootloader", REVISION);
    for (name, file) in &found {
        key = key.with(name, version(file)?);
    }
    let stage = work.stage(key, |stage| {
        let mut artifacts = BTreeMap::new();
        for (name, file) in &found {
            let target = stage.join(name);
            fs::create_dir_all(target.parent().unwrap_or(stage))?;
            fs::copy(file, &target)
                .with_context(|| format!("cannot copy {} to the cache", file.display()))?;
            artifacts.insert(name.clone(), Artifact::of(&target)?);
        }
        write_json(&stage.join(FACTS), &artifacts)
    })?;
    let artifacts: BTreeMap<String, Artifact> = read_json(&stage.join(FACTS))?;
    for (name, artifact) in artifacts {
        let from = found[&name].clone();
        work.note_source(&name, &from, &artifact.sha256);
        let path = stage.join(&name);
        let name = format!("bootloader/{}/{name}", work.type_name);
        work.change.parts.insert(name, Part { path, artifact });
    }
    Ok(())
}

/// The files for a board type's blobs, by the blobs' paths, out of files and directories that the user named.
///
/// # Errors
/// As [`take`].
pub fn files(
    given: &[PathBuf],
    type_name: &str,
    board_type: &BoardType,
) -> Result<BTreeMap<String, PathBuf>> {
    let blobs = board_type
        .bootloader
        .iter()
        .flat_map(|loader| &loader.blobs);
    let blobs: Vec<&str> = blobs.filter_map(|blob| blob.file.as_deref()).collect();
    if blobs.is_empty() {
        return Err(Fault::input(format!(
            "a {type_name} has no bootloader that hearth installs"
        ))
        .remedy("leave --bootloader out, or describe the bootloader in the board type")
        .into());
    }
    let mut found = BTreeMap::new();
    for path in given {
        exists(path, "bootloader")?;
        match path.is_dir() {
            true => found.extend(of_directory(path, &blobs, type_name, board_type.arch)?),
            false => {
                found.insert(blob_of(path, &blobs, type_name)?, path.clone());
            }
        }
    }
    for path in found.values() {
        input::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(found)
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Which of a board type's files this one is: by its name, or because there is only one.
fn blob_of(path: &Path, blobs: &[&str], type_name: &str) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let mut named = blobs.iter().filter(|blob| Some(name_of(blob)) == name);
    let own: Vec<&&str> = blobs
        .iter()
        .filter(|blob| blob.starts_with(UBOOT))
        .collect();
    let blob = named.next().or(match own[..] {
        [only] => Some(only),
        _ => None,
    });
    blob.map(|blob| (*blob).to_string()).ok_or_else(|| {
        Fault::input(format!(
            "{} is no file of a {type_name}'s bootloader",
            path.display()
        ))
        .remedy(format!("they are called {}", names(blobs)))
        .into()
    })
}

fn names(blobs: &[&str]) -> String {
    let names: Vec<&str> = blobs.iter().map(|blob| name_of(blob)).collect();
    names.join(", ")
}

/// The files in a directory that U-Boot was built in. All that are U-Boot's own must be there: parts of two builds do not
/// go together.
fn of_directory(
    directory: &Path,
    blobs: &[&str],
    type_name: &str,
    arch: Arch,
) -> Result<BTreeMap<String, PathBuf>> {
    check_arch(directory, arch)?;
    let mut found = BTreeMap::new();
    for blob in blobs {
        let places = ["", "spl", "tpl"];
        let mut places = places
            .iter()
            .map(|below| directory.join(below).join(name_of(blob)));
        match places.find(|path| path.is_file()) {
            Some(path) => {
                found.insert((*blob).to_string(), path);
            }
            None if blob.starts_with(UBOOT) => return Err(missing(directory, blob, type_name)),
            None => {}
        }
    }
    if found.is_empty() {
        let first = blobs.first().copied().unwrap_or_default();
        return Err(missing(directory, first, type_name));
    }
    Ok(found)
}

fn missing(directory: &Path, blob: &str, type_name: &str) -> anyhow::Error {
    let name = name_of(blob);
    let is_source = directory.join("Kconfig").is_file() && !directory.join("u-boot.bin").is_file();
    let remedy = match is_source {
        true => "it was never built there: if it was built with O=DIR, give DIR",
        false => "build U-Boot for this board: make NAME_defconfig, then make",
    };
    Fault::input(format!(
        "{} has no {name}, which a {type_name} starts from",
        directory.display()
    ))
    .remedy(remedy)
    .into()
}

/// Compares the configuration of a U-Boot with the board's architecture.
fn check_arch(directory: &Path, arch: Arch) -> Result<()> {
    let Ok(config) = input::read_text(&directory.join(".config")) else {
        return Ok(());
    };
    let is_64 = value(&config, "CONFIG_ARM64") == Some("y");
    let built_for = match value(&config, "CONFIG_SYS_ARCH") {
        Some("\"arm\"") if is_64 => "arm64",
        Some("\"arm\"") => "arm",
        Some("\"riscv\"") => "riscv",
        Some(other) => other.trim_matches('"'),
        None => return Ok(()),
    };
    if built_for == arch.uboot() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the U-Boot in {} was built for {built_for}, but the board is {arch}",
        directory.display()
    ))
    .remedy("build the U-Boot of this board")
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board_type(name: &str) -> BoardType {
        crate::recipe::board_type(name).unwrap()
    }

    fn refusal(path: &Path, name: &str) -> String {
        let found = files(&[path.to_path_buf()], name, &board_type(name));
        found.unwrap_err().to_string()
    }

    #[test]
    fn a_build_of_uboot_gives_the_files_that_the_board_type_names() {
        let dir = tempfile::tempdir().unwrap();
        let neo = "u-boot-sunxi-with-spl.bin";
        assert!(refusal(dir.path(), "nanopi-neo").contains(neo));
        let path = dir.path().join(neo);
        fs::write(&path, "").unwrap();
        fs::write(dir.path().join(".config"), "CONFIG_SYS_ARCH=\"arm\"\n").unwrap();
        let given = [dir.path().to_path_buf()];
        let found = files(&given, "nanopi-neo", &board_type("nanopi-neo")).unwrap();
        assert_eq!(found.into_values().collect::<Vec<_>>(), [path]);
        fs::write(
            dir.path().join(".config"),
            "CONFIG_SYS_ARCH=\"arm\"\nCONFIG_ARM64=y\n",
        )
        .unwrap();
        assert!(refusal(dir.path(), "nanopi-neo").contains("built for arm64"));
    }

    #[test]
    fn parts_of_two_builds_are_not_mixed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("MLO"), "").unwrap();
        assert!(refusal(dir.path(), "beaglebone-black").contains("u-boot.img"));
    }

    #[test]
    fn one_file_of_any_name_will_do_where_there_is_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.bin");
        fs::write(&path, "").unwrap();
        let given = [path.clone()];
        let found = files(&given, "qemu-virt-arm", &board_type("qemu-virt-arm")).unwrap();
        assert_eq!(found.values().collect::<Vec<_>>(), [&path]);
        let error = files(&given, "beaglebone-black", &board_type("beaglebone-black")).unwrap_err();
        assert!(crate::error::help_of(&error).unwrap().contains("MLO"));
        assert!(refusal(&dir.path().join("none"), "qemu-virt-arm").contains("there is no"));
    }
}
