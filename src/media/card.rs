//! Owns what goes onto the card of one board: its type's bootloader, then the board's own files.
//! Never fetches a bootloader: it reads the directory that a build or the archive client filled.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::fat::{self, FatFile};
use super::image::{CardImage, Extent};
use super::layout::{Layout, RawBlob, TestPartition};
use super::{SECTOR, table};
use crate::error::Fault;
use crate::recipe::{Blob, Media, Place};

/// What a card is made of, apart from where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// In the order in which they get their directory entries.
    pub files: Vec<FatFile>,
    pub raw: Vec<RawBlob>,
    /// How many bytes of `files` are the bootloader's.
    pub bootloader: u64,
}

/// Asks for the image of one card.
#[derive(Clone, Copy, Debug)]
pub struct CardRequest<'a> {
    /// Names the card; ids of disk and partitions are made of it.
    pub identity: &'a str,
    pub media: &'a Media,
    pub test: Option<TestPartition>,
    /// The card's size in bytes, where it is known: the image has this size then.
    pub card: Option<u64>,
}

/// Reads the blobs of a board type out of `bootloader`, where they have the paths they have in their
/// packages, and adds the board's `own` files behind them.
///
/// # Errors
/// If a blob is missing, or is no file.
pub fn contents(blobs: &[Blob], bootloader: &Path, own: Vec<FatFile>) -> Result<Contents> {
    let mut contents = Contents::default();
    for blob in blobs {
        let read = match (&blob.file, &blob.content) {
            (Some(file), _) => read_blob(bootloader, file)?,
            (None, Some(text)) => vec![(String::new(), text.clone().into_bytes())],
            (None, None) => {
                return Err(Fault::input("a blob of the board type has neither `file` nor `content`").into());
            }
        };
        let many = blob.file.as_ref().is_some_and(|file| file.ends_with("/*"));
        for (name, data) in read {
            match &blob.place {
                Place::Offset(offset) if !many => contents.raw.push(RawBlob {
                    name: blob.file.clone().unwrap_or_else(|| "a blob's text".into()),
                    offset: *offset,
                    data,
                }),
                Place::Offset(_) => {
                    return Err(Fault::input(format!(
                        "the blob {} is several files, which cannot share one offset",
                        blob.file.as_deref().unwrap_or_default()
                    ))
                    .into());
                }
                Place::Fat(path) => {
                    contents.bootloader += data.len() as u64;
                    let path = match (many, path.trim_matches('/')) {
                        (false, path) => path.to_string(),
                        (true, "") => name,
                        (true, directory) => format!("{directory}/{name}"),
                    };
                    contents.files.push(FatFile { path, data });
                }
                Place::Firmware => {}
            }
        }
    }
    contents.files.extend(own);
    Ok(contents)
}

/// The file `path`, or the files of a directory if it ends in `/*`, sorted; with the name of each.
fn read_blob(bootloader: &Path, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let (directory, single) = match path.strip_suffix("/*") {
        Some(directory) => (directory, None),
        None => path.rsplit_once('/').map_or(("", Some(path)), |(d, n)| (d, Some(n))),
    };
    let directory = inside(bootloader, directory)?;
    let names = match single {
        Some(name) => vec![name.to_string()],
        None => list(&directory)?,
    };
    names
        .into_iter()
        .map(|name| {
            let path = directory.join(&name);
            let data = fs::read(&path).map_err(|error| missing(&path, &error))?;
            Ok((name, data))
        })
        .collect()
}

fn list(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| missing(directory, &error))? {
        let entry = entry?;
        if fs::metadata(entry.path())?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Blob paths come from a board type, which somebody may have got from elsewhere.
fn inside(root: &Path, path: &str) -> Result<PathBuf> {
    if path.split('/').any(|part| part == "..") || path.starts_with('/') {
        return Err(Fault::input(format!("the blob path {path} leads out of its package")).into());
    }
    Ok(root.join(path))
}

fn missing(path: &Path, error: &std::io::Error) -> anyhow::Error {
    Fault::input(format!("cannot read the bootloader's {}: {error}", path.display()))
        .remedy("build the recipe again, or correct the board type's `bootloader.blob`")
        .into()
}

/// Lays the contents out and makes the image.
///
/// # Errors
/// If parts overlap, or do not fit.
pub fn compose(contents: &Contents, request: CardRequest<'_>) -> Result<CardImage> {
    let layout = Layout::plan(
        request.media,
        &contents.raw,
        contents.bootloader,
        request.test,
        request.card,
    )?;
    let volume = fat::build(
        &contents.files,
        layout.fat.end - layout.fat.start,
        layout.fat.start / SECTOR,
        u32::from_le_bytes(table::id(request.identity, "volume")),
    )?;
    let mut parts = table::build(&layout, request.identity)
        .context("cannot make the partition table")?;
    parts.push(Extent {
        offset: layout.fat.start,
        data: volume,
    });
    parts.extend(contents.raw.iter().map(|blob| Extent {
        offset: blob.offset,
        data: blob.data.clone(),
    }));
    Ok(CardImage::new(layout, parts))
}
