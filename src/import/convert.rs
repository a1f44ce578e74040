//! Owns an import from beginning to end: what a path is, what is in it, and hearth's tar of it.
//! Never decides where the tar goes, nor what else belongs to an image.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::directory::{self, Directory};
use super::disk::{self, Partition};
use super::format::Format;
use super::guard::guarded;
use super::shared::{Input, Notes, SOCKETS, listed};
use super::tree::{Kind, ROOT, Tree};
use super::unpacked::{self, Unpacked};
use super::window::Cursor;
use super::write::{Source, Written, write};
use super::{cpio, ext4, squashfs, tar};
use crate::error::{Fault, InputContext};
use crate::image::Artifact;
use crate::input;
use crate::progress::{NoProgress, Progress, Stage, Unit};

/// How to read a root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which partition of a disk the root is in, from 1; else the only one that can be.
    pub partition: Option<u32>,
    /// Of a directory, whether what belongs to the caller becomes root's.
    pub owner_root: bool,
}

/// A root file system that somebody made.
pub struct Rootfs {
    path: PathBuf,
    options: Options,
    what: What,
}

enum What {
    Directory(Box<Directory>),
    File(File),
}

/// What was made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    pub written: Written,
    /// SHA-256 in hex: of the file; of a directory, of the tar that was made of it.
    pub source: String,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Rootfs {
    /// Looks at a path: walks a directory, but reads nothing of a file yet.
    ///
    /// # Errors
    /// If it cannot be read, or is neither a directory nor a file.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let meta = fs::metadata(path).with_context(failed)?;
        let what = if meta.is_dir() {
            if options.partition.is_some() {
                return Err(Fault::input(format!(
                    "{} is a directory, which has no partitions",
                    path.display()
                ))
                .remedy("leave --partition out")
                .into());
            }
            What::Directory(Box::new(directory::walk(path, options.owner_root)?))
        } else {
            if options.owner_root {
                return Err(Fault::input(format!(
                    "--owner-root is for a directory, and {} is none",
                    path.display()
                ))
                .remedy("the owners in a file are as its maker wrote them: leave it out")
                .into());
            }
            if meta.file_type().is_block_device() {
                return Err(Fault::input(format!("{} is a disk", path.display()))
                    .remedy(
                        "copy it into a file first, so that nothing changes it while it is read",
                    )
                    .into());
            }
            What::File(input::open(path).with_context(failed)?)
        };
        Ok(Rootfs {
            path: path.to_path_buf(),
            options: options.clone(),
            what,
        })
    }

    /// Tells this input from any other without reading all of it: by name, size, times and inode.
    ///
    /// # Errors
    /// If the file cannot be looked at.
    pub fn stamp(&self) -> Result<Vec<u8>> {
        let mut stamp = self.path.as_os_str().as_bytes().to_vec();
        stamp.push(0);
        match &self.what {
            What::Directory(directory) => stamp.extend_from_slice(directory.stamp.as_bytes()),
            What::File(file) => stamp.extend(stamp_of(file)?),
        }
        Ok(stamp)
    }

    /// Writes it as hearth's tar into the new file `tar`. What has to be unpacked before goes into the directory `work`.
    ///
    /// # Errors
    /// If it cannot be read, is damaged or cut short, or the disk is full.
    pub fn convert(self, work: &Path, tar: &Path, progress: &dyn Progress) -> Result<Converted> {
        let stage = progress.stage("import", None, Unit::Bytes);
        let path = self.path.display().to_string();
        let in_place = || format!("cannot import {path}");
        match self.what {
            What::Directory(directory) => {
                let written =
                    write(&directory.tree, &*directory, tar, &*stage).input_context(in_place)?;
                finish(stage, "directory", &written);
                Ok(Converted {
                    source: written.tar.sha256.clone(),
                    notes: directory.notes,
                    written,
                })
            }
            What::File(file) => {
                let converting = Converting {
                    options: &self.options,
                    work,
                    tar,
                    stage: &*stage,
                };
                let (converted, source) = thread::scope(|scope| {
                    let hashing = scope.spawn(|| Artifact::of(&self.path));
                    let converted = converting.file(file).input_context(in_place);
                    (converted, hashing.join().expect("hashing does not panic"))
                });
                let (written, what, notes) = converted?;
                finish(stage, &what, &written);
                Ok(Converted {
                    source: source?.sha256,
                    notes: notes.sentences(),
                    written,
                })
            }
        }
    }
}

/// What tells a file from others: its inode, size and times.
pub(super) fn stamp_of(file: &File) -> Result<Vec<u8>> {
    let meta = file.metadata()?;
    let numbers = [
        meta.dev() as i64,
        meta.ino() as i64,
        meta.size() as i64,
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ];
    Ok(numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect())
}

fn finish(stage: Box<dyn Stage>, what: &str, written: &Written) {
    let size = written.tar.size as f64 / 1048576.0;
    stage.finish(&format!(
        "{what}, {} entries, {size:.1} MiB",
        written.entries
    ));
}

/// Converts bytes as [`Rootfs::convert`] does a file; for tests with arbitrary ones.
///
/// # Errors
/// As [`Rootfs::convert`].
pub fn convert_bytes(bytes: &[u8], partition: Option<u32>, work: &Path) -> Result<Written> {
    use std::io::Write;
    let mut file = tempfile::tempfile_in(work)?;
    file.write_all(bytes)?;
    let converting = Converting {
        options: &Options {
            partition,
            owner_root: false,
        },
        work,
        tar: &work.join("rootfs.tar"),
        stage: &NoProgress,
    };
    converting.file(file).map(|(written, ..)| written)
}

/// What is written, a word for its format, and what is to be told.
type Outcome = (Written, String, Notes);

struct Converting<'a> {
    options: &'a Options,
    work: &'a Path,
    tar: &'a Path,
    stage: &'a dyn Stage,
}

impl Converting<'_> {
    fn file(&self, file: File) -> Result<Outcome> {
        let Unpacked {
            file,
            format,
            compression,
        } = unpacked::unpack(file, self.work)?;
        let mut what = match format {
            Some(format) => format.to_string(),
            None if file.metadata()?.len() == 0 => return Err(unknown("it is empty").into()),
            None => return Err(unknown("it is none of the formats that hearth knows").into()),
        };
        if self.options.partition.is_some() && format != Some(Format::Disk) {
            return Err(
                Fault::input(format!("it is no disk image with partitions, but: {what}"))
                    .remedy("leave --partition out")
                    .into(),
            );
        }
        let (written, notes) = match format {
            Some(Format::Tar) => self.tar(&file)?,
            Some(Format::Cpio) => self.cpio(file)?,
            Some(Format::Disk) => {
                let (written, notes, partition) = self.disk(&Input::new(file))?;
                what = partition;
                (written, notes)
            }
            Some(format) => self.file_system(format, &Input::new(file))?,
            None => unreachable!("it was looked at above"),
        };
        if let Some(compression) = compression {
            what = format!("{what} ({compression})");
        }
        Ok((written, what, notes))
    }

    fn write(&self, tree: &Tree, source: &dyn Source) -> Result<Written> {
        write(tree, source, self.tar, self.stage)
    }

    fn tar(&self, file: &File) -> Result<(Written, Notes)> {
        let tree = tar::tree(file)?;
        let mut notes = Notes::default();
        if tree.had_absolute_names {
            notes.tell("its names begin with a slash: that was taken off");
        }
        Ok((self.write(&tree, &Bytes(file))?, notes))
    }

    fn cpio(&self, file: File) -> Result<(Written, Notes)> {
        let reader = BufReader::with_capacity(1 << 18, Cursor::new(&file));
        let unpacked = cpio::unpack(reader, self.work)?;
        let mut notes = Notes::default();
        notes.sentences.extend(listed(SOCKETS, &unpacked.sockets));
        let written = self.write(&unpacked.tree, &Bytes(&unpacked.bytes))?;
        Ok((written, notes))
    }

    fn file_system(&self, format: Format, input: &Input) -> Result<(Written, Notes)> {
        guarded(|| match format {
            Format::Ext4 => {
                let found = ext4::walk(input.clone()).context("it is an ext4 file system")?;
                Ok((self.write(&found.tree, &found)?, found.notes))
            }
            Format::Squashfs => {
                let found = squashfs::walk(input).context("it is a squashfs image")?;
                Ok((self.write(&found.tree, &found)?, found.notes))
            }
            other => Err(unreadable(other).into()),
        })
    }

    fn disk(&self, disk: &Input) -> Result<(Written, Notes, String)> {
        let partitions = disk::partitions(disk)?;
        let partition = self.choose(disk, &partitions)?;
        let about = || partition.described();
        let format = partition
            .format
            .ok_or_else(|| unknown(&format!("{} has no known file system", about())))?;
        let (written, notes) = self
            .file_system(format, &partition.input(disk))
            .with_context(about)?;
        Ok((
            written,
            notes,
            format!("{format} in partition {}", partition.number),
        ))
    }

    /// The partition with the root: the one that is named, else the only one that can be.
    fn choose<'p>(&self, disk: &Input, partitions: &'p [Partition]) -> Result<&'p Partition> {
        let all = || {
            let described: Vec<String> = partitions.iter().map(Partition::described).collect();
            match described.is_empty() {
                true => "no partitions".into(),
                false => described.join(", "),
            }
        };
        if let Some(number) = self.options.partition {
            let named = partitions
                .iter()
                .find(|partition| partition.number == number);
            return named.ok_or_else(|| {
                Fault::input(format!("it has no partition {number}, but {}", all()))
                    .remedy("name one of these with --partition")
                    .into()
            });
        }
        let mut roots = Vec::new();
        for partition in partitions {
            if is_root(partition, disk).with_context(|| partition.described())? {
                roots.push(partition);
            }
        }
        match roots[..] {
            [only] => Ok(only),
            [] => Err(Fault::input(format!(
                "none of its partitions has a root file system that can be read: {}",
                all()
            ))
            .remedy("name one with --partition to see what is wrong with it")
            .into()),
            _ => {
                let described: Vec<String> = roots
                    .iter()
                    .map(|partition| partition.described())
                    .collect();
                Err(Fault::input(format!(
                    "it has {} partitions that may be the root: {}",
                    roots.len(),
                    described.join(", ")
                ))
                .remedy("choose one of them with --partition NUMBER")
                .into())
            }
        }
    }
}

/// Whether a partition has what a root file system has at its top.
fn is_root(partition: &Partition, disk: &Input) -> Result<bool> {
    let input = partition.input(disk);
    let tree = match partition.format {
        Some(Format::Ext4) => guarded(|| Ok(ext4::walk(input)?.tree))?,
        Some(Format::Squashfs) => guarded(|| Ok(squashfs::walk(&input)?.tree))?,
        _ => return Ok(false),
    };
    let is_directory = |name: &[u8]| {
        let place = tree.entry(ROOT, name);
        place.is_some_and(|place| {
            matches!(tree.node(place).kind, Kind::Directory(_) | Kind::Symlink(_))
        })
    };
    let has_programs = [b"bin".as_slice(), b"sbin", b"usr"];
    Ok(is_directory(b"etc") && has_programs.iter().any(|name| is_directory(name)))
}

fn unreadable(format: Format) -> Fault {
    match format {
        Format::Other(name @ "nothing but zeros") => unknown(&format!("it is {name}")),
        Format::Other(name @ "wrapped for U-Boot") => Fault::input(format!("it is {name}"))
            .remedy("unwrap it with `hearth image extract`, and import what is in it"),
        other => unknown(&format!("it is {other}, which hearth cannot read")),
    }
}

fn unknown(sentence: &str) -> Fault {
    Fault::input(sentence).remedy(
        "give a directory, a tar, a cpio (newc), an ext4 or squashfs image, or a disk image with one of these in a \
         partition; each may be compressed with gzip, xz or zstd",
    )
}
