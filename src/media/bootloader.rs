//! Owns getting a board type's bootloader out of a recipe's locked packages, so that media need no build.
//! Never installs a package.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

use anyhow::{Context, Result, anyhow};

use crate::archive::Fetcher;
use crate::error::Fault;
use crate::progress::Progress;
use crate::recipe::{Board, Lock, RecipeFile, Role};

/// Fetches the packages that hold the bootloader of the board's type and puts the files that its blobs name below
/// `build/bootloader/<board type>/`, where `hearth build` would put them.
///
/// # Errors
/// If the recipe's lock has none of the packages, or one cannot be fetched or read.
pub fn unpack(
    board: &Board,
    recipe: &RecipeFile,
    fetcher: &Fetcher,
    build: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(bootloader) = &board.board_type.bootloader else {
        return Ok(());
    };
    let mut lock: Lock = recipe.lock()?;
    lock.packages.retain(|package| {
        package.role == Role::Bootloader && bootloader.packages.contains(&package.name)
    });
    if lock.packages.is_empty() {
        return Err(Fault::input(format!(
            "the lock of {} has no bootloader for {}: {}",
            recipe.name,
            board.type_name,
            bootloader.packages.join(", ")
        ))
        .remedy("name another recipe with --recipe, of the board's architecture")
        .into());
    }
    let directory = recipe.path.parent().unwrap_or(Path::new("."));
    let wanted: Vec<&str> = bootloader
        .blobs
        .iter()
        .filter_map(|blob| blob.file.as_deref())
        .collect();
    let into = build.join("bootloader").join(&board.type_name);
    for package in fetcher.packages(&lock, directory, progress)? {
        take(&package, &wanted, &into)
            .with_context(|| format!("cannot read the package {}", package.display()))?;
    }
    Ok(())
}

/// Copies the wanted files of a `.deb` (deb(5)): paths, or directories' files where a path ends in `/*`.
fn take(package: &Path, wanted: &[&str], into: &Path) -> Result<()> {
    let mut members = ar::Archive::new(File::open(package)?);
    while let Some(member) = members.next_entry() {
        let member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let data: Box<dyn Read> = match name.as_str() {
            "data.tar" => Box::new(member),
            "data.tar.xz" => Box::new(liblzma::read::XzDecoder::new(member)),
            "data.tar.zst" => Box::new(zstd::Decoder::new(member)?),
            "data.tar.gz" => Box::new(flate2::read::GzDecoder::new(member)),
            _ => continue,
        };
        return take_files(data, wanted, into);
    }
    Err(anyhow!("it has no data member"))
}

fn take_files(data: impl Read, wanted: &[&str], into: &Path) -> Result<()> {
    for entry in tar::Archive::new(data).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path);
        let is_wanted = wanted.iter().any(|wanted| match wanted.strip_suffix("/*") {
            Some(directory) => path.parent() == Some(Path::new(directory)),
            None => path == Path::new(wanted),
        });
        let is_below = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !is_wanted || !is_below || !entry.header().entry_type().is_file() {
            continue;
        }
        let to = into.join(path);
        fs::create_dir_all(to.parent().unwrap_or(into))?;
        io::copy(&mut entry, &mut File::create(&to)?)
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}
