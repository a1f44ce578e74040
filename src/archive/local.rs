//! Owns a recipe's own `.deb` files as candidates of the resolver.
//! Never installs them.

use std::path::Path;

use anyhow::{Result, anyhow};
use deb822_fast::borrowed::parse_borrowed;
use sha2::Digest;

use super::deb::Deb;
use super::hash::hash_rest;
use super::index::{Index, Package};
use crate::error::InputContext;
use crate::input;
use crate::recipe::{RecipeFile, Step, at};

/// Adds a recipe's local packages to the index, before all others of their names; returns their
/// names.
///
/// # Errors
/// If a file is no package or is for another architecture.
pub fn add_local(index: &mut Index, file: &RecipeFile) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (number, relative) in file.recipe.debs.iter().enumerate() {
        let package = read(file, relative)?;
        let arch = file.recipe.arch.debian();
        if &*package.arch != arch && &*package.arch != "all" {
            let path = [Step::Key("debs"), Step::Index(number)];
            let message = format!(
                "this package is for {}, the recipe for {arch}",
                package.arch
            );
            return Err(at(&file.path, &file.text, &path, message).into());
        }
        names.push(package.name.to_string());
        index.insert(package);
    }
    Ok(names)
}

fn read(file: &RecipeFile, relative: &Path) -> Result<Package> {
    let path = file.directory().join(relative);
    let failed = || format!("cannot read {}", path.display());
    let (hash, size) = input::open(&path)
        .and_then(|mut deb| hash_rest(&mut deb))
        .input_context(failed)?;
    let name = relative
        .to_str()
        .ok_or_else(|| anyhow!("the path is no UTF-8"))
        .input_context(failed)?;
    describe(&path, name, size, &hex::encode(hash.finalize()))
}

/// The package in a file, as an index that calls it `name` would have it.
///
/// # Errors
/// If it is no package.
pub(super) fn describe(path: &Path, name: &str, size: u64, sha256: &str) -> Result<Package> {
    let control = Deb::open(path)?.control()?;
    let failed = || format!("cannot read {}", path.display());
    // Fields of an index that a package's own control file lacks.
    let stanza = format!(
        "{}\nFilename: {name}\nSize: {size}\nSHA256: {sha256}\n",
        control.paragraph.trim_end()
    );
    let paragraphs = parse_borrowed(&stanza).map_err(|error| anyhow!("{error}"));
    paragraphs
        .input_context(failed)?
        .first()
        .and_then(|fields| Package::read(fields, None))
        .ok_or_else(|| anyhow!("its control file lacks a name, version or architecture"))
        .input_context(failed)
}
