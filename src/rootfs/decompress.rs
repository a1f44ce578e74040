//! Owns decompressing packages before they can be unpacked. Never looks at what is in them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result};

use super::package::Package;
use crate::archive::deb::Deb;

/// Tar streams of data members, each to be read once: files without a name, by package.
#[derive(Debug)]
pub struct Decompressed(HashMap<String, File>);

impl Decompressed {
    /// A package's data member.
    ///
    /// # Errors
    /// If it is not here.
    pub fn of(&self, package: &Package) -> Result<impl Read> {
        let file = self.0.get(&package.qualified_name());
        let file = file.with_context(|| format!("{} was not decompressed", package.name()))?;
        Ok(BufReader::with_capacity(1 << 17, file))
    }
}

/// Decompresses the data members of `packages` to unnamed files in `directory`. The longest part of unpacking large packages
/// is done then while scripts, which are to run before, leave processors idle.
///
/// # Errors
/// If a package is damaged or is not the one that was asked for, or there is no space.
pub fn decompress(packages: &[&Package], directory: &Path, threads: usize) -> Result<Decompressed> {
    let mut done = HashMap::new();
    for package in packages {
        let mut archive = Deb::open(&package.file.deb)?;
        archive.control()?;
        let mut file = tempfile::tempfile_in(directory)?;
        io::copy(&mut archive.data(threads)?, &mut file).with_context(|| cannot_unpack(package))?;
        archive.verify(&package.file.sha256)?;
        file.rewind()?;
        done.insert(package.qualified_name(), file);
    }
    Ok(Decompressed(done))
}

/// What failed, where a package is damaged or hostile, or there is no space.
pub fn cannot_unpack(package: &Package) -> String {
    let deb = package.file.deb.display();
    format!("cannot unpack {} ({deb})", package.name())
}
