//! Owns the content of one board's card: its type's bootloader, then the board's own files.
//! Never fetches a bootloader: it reads a directory that a build or the archive client has filled.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::fat::{self, FatFile};
use super::image::{CardImage, Extent};
use super::layout::{Layout, RawBlob, SECTOR, TestPartition};
use super::table;
use crate::error::Fault;
use crate::input;
use crate::recipe::{Blob, Board, LabSettings, Media, Place, boot_values};
use crate::uboot::{Templates, script};

/// The parts of a card, before they are placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// In the order of their directory entries.
    pub files: Vec<FatFile>,
    pub raw: Vec<RawBlob>,
    /// The size of the bootloader's part of `files`, in bytes.
    pub bootloader: u64,
}

/// Parameters of a card's image.
#[derive(Clone, Copy, Debug)]
pub struct CardRequest<'a> {
    /// Identifies the card; ids of disk and partitions are derived from it.
    pub identity: &'a str,
    pub media: &'a Media,
    pub test: Option<TestPartition>,
    /// The card's size in bytes, if known: the image then has this size.
    pub card: Option<u64>,
}

/// Directories of a build that a card is made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Contains the bootloader's files under their paths in the packages.
    pub bootloader: &'a Path,
    /// Contains the kernel's device trees.
    pub device_trees: &'a Path,
}

/// Reads the blobs of a board type, and adds the board's `own` files after them.
///
/// # Errors
/// If a blob is missing or not a file.
pub fn contents(blobs: &[Blob], sources: Sources<'_>, own: Vec<FatFile>) -> Result<Contents> {
    let mut contents = Contents::default();
    for blob in blobs.iter().filter(|blob| blob.place != Place::Firmware) {
        let many = blob.file.as_ref().is_some_and(|file| file.ends_with("/*"));
        for (name, data) in read(blob, sources)? {
            match &blob.place {
                Place::Offset(offset) if !many => contents.raw.push(RawBlob {
                    name: describe(blob),
                    offset: *offset,
                    data,
                }),
                Place::Offset(_) => {
                    return Err(Fault::input(format!(
                        "{} is several files, which cannot share one offset",
                        describe(blob)
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

/// The files of one blob, each with its name.
fn read(blob: &Blob, sources: Sources<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    match (&blob.file, &blob.device_tree, &blob.content) {
        (Some(file), _, _) => read_blob(sources.bootloader, file),
        (None, Some(tree), _) => read_blob(sources.device_trees, tree),
        (None, None, text) => {
            let text = text.clone().unwrap_or_default();
            Ok(vec![(String::new(), text.into_bytes())])
        }
    }
}

fn describe(blob: &Blob) -> String {
    let path = blob.file.as_ref().or(blob.device_tree.as_ref());
    format!("the bootloader's {}", path.map_or("text", String::as_str))
}

/// The file `path`, or the files of a directory if it ends in `/*`, sorted; with the name of each.
fn read_blob(root: &Path, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let (directory, single) = match path.strip_suffix("/*") {
        Some(directory) => (directory, None),
        None => path
            .rsplit_once('/')
            .map_or(("", Some(path)), |(d, n)| (d, Some(n))),
    };
    let directory = inside(root, directory)?;
    let names = match single {
        Some(name) => vec![name.to_string()],
        None => list(&directory)?,
    };
    names
        .into_iter()
        .map(|name| {
            let path = directory.join(&name);
            let data = input::read(&path).map_err(|error| missing(&path, &error))?;
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

/// Checks a blob's path: board types may come from untrusted sources.
fn inside(root: &Path, path: &str) -> Result<PathBuf> {
    if path.split('/').any(|part| part == "..") || path.starts_with('/') {
        return Err(Fault::input(format!("the blob path {path} leads out of its package")).into());
    }
    Ok(root.join(path))
}

fn missing(path: &Path, error: &std::io::Error) -> anyhow::Error {
    Fault::input(format!(
        "cannot read the bootloader's {}: {error}",
        path.display()
    ))
    .remedy(
        "take it from a recipe that has the bootloader's packages (`hearth boards show TYPE` names them): --recipe; or \
         correct the board type's `bootloader.blob`",
    )
    .into()
}

/// Places the contents and makes the image.
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
    let mut parts =
        table::build(&layout, request.identity).context("cannot make the partition table")?;
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

/// Inputs of the image of a board's own card.
#[derive(Clone, Copy)]
pub struct BoardCard<'a> {
    pub board: &'a Board,
    pub lab: &'a LabSettings,
    pub templates: &'a Templates,
    /// The output directory of `hearth build`, if there is one. Not needed for boards whose
    /// bootloader is not on the card.
    pub build: Option<&'a Path>,
    pub test: Option<TestPartition>,
    /// The card's size in bytes, if known.
    pub size: Option<u64>,
}

impl BoardCard<'_> {
    /// Makes the image: the bootloader of the board's type, and the `card` boot script rendered for
    /// this board.
    ///
    /// # Errors
    /// If the bootloader is missing, the script cannot be rendered, or the parts do not fit.
    pub fn image(&self) -> Result<CardImage> {
        let board_type = &self.board.board_type;
        let blobs: &[Blob] = match &board_type.bootloader {
            Some(bootloader) => &bootloader.blobs,
            None => &[],
        };
        let needs_build = blobs.iter().any(|blob| {
            blob.place != Place::Firmware && (blob.file.is_some() || blob.device_tree.is_some())
        });
        let build = match self.build {
            Some(build) => build,
            None if needs_build => return Err(no_bootloader(self.board)),
            None => Path::new(""),
        };
        let sources = Sources {
            bootloader: &build.join("bootloader").join(&self.board.type_name),
            device_trees: &build.join("dtb"),
        };
        let contents = contents(blobs, sources, vec![self.script()?])
            .with_context(|| format!("cannot make the card of board `{}`", self.board.name))?;
        let identity = format!("{}/{}", self.lab.name, self.board.name);
        compose(
            &contents,
            CardRequest {
                identity: &identity,
                media: &board_type.media,
                test: self.test,
                card: self.size,
            },
        )
        .with_context(|| format!("cannot make the card of board `{}`", self.board.name))
    }

    /// U-Boot looks for `boot.scr.uimg` and then for `boot.scr`; one of them is enough.
    fn script(&self) -> Result<FatFile> {
        let values = boot_values(self.board, self.lab, None);
        let text = self.templates.script("card", &values)?;
        let arch = self.board.board_type.arch.uboot().parse()?;
        let title = format!("{} card", self.board.name);
        Ok(FatFile {
            path: "boot.scr".into(),
            // A time would make otherwise equal cards differ.
            data: script::wrap(text.as_bytes(), arch, &title, 0)?,
        })
    }
}

fn no_bootloader(board: &Board) -> anyhow::Error {
    Fault::input(format!(
        "the card of board `{}` needs a bootloader, but no recipe is known that has it",
        board.name
    ))
    .remedy("give the board a `recipe` in the lab file, or name one with --recipe")
    .into()
}
