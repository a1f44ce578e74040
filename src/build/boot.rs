//! Owns what boards need outside their root file system: kernel, device trees and bootloader files.
//! Never changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};

use crate::archive::deb::Deb;
use crate::archive::limit::{Limited, each_entry};
use crate::error::Fault;
use crate::image::index::{Image, Kind, Number};
use crate::recipe::{Blob, BoardType};
use crate::rootfs::PackageFile;

/// No bootloader comes near this, in bytes; its files are held in memory.
const LARGEST_FILE: u64 = 128 << 20;

/// Copies kernel and device trees of the image at `tar` into `out`, as `vmlinuz` and `dtb/…`;
/// returns the kernel's release, or `None` if the image has no kernel.
///
/// # Errors
/// If the image has several kernels, of which boards can boot only one.
pub fn extract_kernel(tar: &Path, out: &Path) -> Result<Option<String>> {
    let image = Image::open(tar)?;
    let Some(boot) = image.find("boot") else {
        return Ok(None);
    };
    let kernels: Vec<(String, Number)> = image
        .entries(boot.number)
        .iter()
        .filter_map(|entry| {
            let name = std::str::from_utf8(&entry.name).ok()?;
            let release = name
                .strip_prefix("vmlinuz-")
                .or_else(|| name.strip_prefix("vmlinux-"))?;
            Some((release.to_string(), entry.number))
        })
        .collect();
    let (release, number) = match &kernels[..] {
        [] => return Ok(None),
        [one] => one,
        several => {
            let names: Vec<&str> = several
                .iter()
                .map(|(release, _)| release.as_str())
                .collect();
            return Err(Fault::input(format!(
                "the image has {} kernels: {}",
                names.len(),
                names.join(", ")
            ))
            .remedy("leave one in the recipe's `kernel` and `packages`")
            .into());
        }
    };
    copy_out(&image, *number, &out.join("vmlinuz"))?;
    let trees = format!("usr/lib/linux-image-{release}");
    if let Some(found) = image.find(&trees) {
        copy_tree(&image, found.number, &out.join("dtb"))?;
    }
    Ok(Some(release.clone()))
}

/// Copies the files below a directory of an image, without its links.
///
/// # Errors
/// If one cannot be read or written.
pub fn copy_tree(image: &Image, directory: Number, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for entry in image.entries(directory) {
        let target = out.join(std::ffi::OsStr::from_bytes(&entry.name));
        match image.inode(entry.number).map(|inode| &inode.kind) {
            Some(Kind::Directory { .. }) => copy_tree(image, entry.number, &target)?,
            Some(Kind::File { .. }) => copy_out(image, entry.number, &target)?,
            _ => {}
        }
    }
    Ok(())
}

/// Copies a file out of an image.
///
/// # Errors
/// If it cannot be read or written.
pub fn copy_out(image: &Image, number: Number, path: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(failed)?;
    let mut buffer = vec![0; 1 << 16];
    let mut offset = 0;
    loop {
        let read = image.read_at(number, offset, &mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..read]).with_context(failed)?;
        offset += read as u64;
    }
}

/// Copies the bootloader files of board types out of the lock's bootloader packages into `out`, as
/// `bootloader/<board type>/<path in the package>`. Board types whose files are in no package are
/// skipped with a warning, unless the recipe names them (`named`).
///
/// # Errors
/// If no package has a file of a board type that the recipe names.
pub fn extract_bootloaders(
    boards: &BTreeMap<String, BoardType>,
    named: bool,
    packages: &[PackageFile],
    out: &Path,
) -> Result<()> {
    // Grouped by package, so that each is read once.
    let mut wanted: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (board, bootloader) in boards
        .iter()
        .filter_map(|(name, board)| Some((name, board.bootloader.as_ref()?)))
    {
        for package in &bootloader.packages {
            let files = bootloader
                .blobs
                .iter()
                .filter_map(|blob: &Blob| blob.file.as_deref());
            wanted
                .entry(package)
                .or_default()
                .extend(files.map(|file| (board.as_str(), file)));
        }
    }
    let mut missing: BTreeSet<(&str, &str)> = wanted.values().flatten().copied().collect();
    let found = thread::scope(|scope| {
        let extracting: Vec<_> = packages
            .iter()
            .filter_map(|package| {
                let files = wanted.get(package.name.as_str())?;
                Some(scope.spawn(|| extract(package, files, out)))
            })
            .collect();
        extracting
            .into_iter()
            .map(|one| one.join().expect("extracting does not panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    for found in found.iter().flatten() {
        missing.remove(found);
    }
    let mut left_out = BTreeSet::new();
    for (board, file) in missing {
        if named {
            return Err(Fault::input(format!(
                "no bootloader package of the board type {board} has the file {file}"
            ))
            .remedy("take the board type out of the recipe's `boards`, or use a suite whose package has it")
            .into());
        }
        if left_out.insert(board) {
            // `hearth media` fails for such a board type, with a message.
            log::info!("no bootloader for the board type {board}: these suites have no {file}");
        }
        let partial = out.join("bootloader").join(board);
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
    }
    Ok(())
}

/// Extracts files from one package; returns those that it contains.
fn extract<'a>(
    package: &PackageFile,
    wanted: &[(&'a str, &'a str)],
    out: &Path,
) -> Result<BTreeSet<(&'a str, &'a str)>> {
    let mut found = BTreeSet::new();
    let mut deb = Deb::open(&package.deb)?;
    deb.control()?;
    each_entry(deb.data(1)?, |entry| {
        let name = entry.path()?.into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_path_buf();
        if !entry.header().entry_type().is_file() || !is_plain(&name) {
            return Ok(());
        }
        let takers: Vec<_> = wanted
            .iter()
            .filter(|(_, file)| is_meant(file, &name))
            .collect();
        if takers.is_empty() {
            return Ok(());
        }
        let failed = || format!("cannot read {} of {}", name.display(), package.name);
        let mut data = Vec::new();
        Limited::new(
            entry,
            LARGEST_FILE,
            "it is no bootloader's file: it is too large",
        )
        .read_to_end(&mut data)
        .with_context(failed)?;
        for (board, file) in takers {
            let path = out.join("bootloader").join(board).join(&name);
            write_with_parents(&path, &data)
                .with_context(|| format!("cannot write {}", path.display()))?;
            found.insert((*board, *file));
        }
        Ok(())
    })?;
    deb.verify(&package.sha256)?;
    Ok(found)
}

/// Whether a blob's `file` matches this name; a trailing `/*` matches a directory's files.
fn is_meant(file: &str, name: &Path) -> bool {
    match file.strip_suffix("/*") {
        Some(directory) => name.parent() == Some(Path::new(directory)),
        None => name == Path::new(file),
    }
}

fn is_plain(name: &Path) -> bool {
    name.components()
        .all(|component| matches!(component, std::path::Component::Normal(_)))
}

fn write_with_parents(path: &Path, data: &[u8]) -> io::Result<()> {
    let parent: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    fs::create_dir_all(parent)?;
    fs::write(path, data)
}
