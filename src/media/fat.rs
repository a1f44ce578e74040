//! Owns the FAT on a card: created in one go with `hadris-fat`, deterministically.
//! Never changes an existing FAT.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use anyhow::{Context, Result, anyhow};
use hadris_fat::format::{FatFormatOptions, FatTypeSelection, FatVolumeFormatter, OemName};
use hadris_fat::time::EpochTimeProvider;
use hadris_fat::{FatVolume, FatVolumeBuilder, FatVolumeWriteExt, FileEntry};

use super::layout::{SECTOR, Size};
use crate::error::Fault;

/// A volume of more clusters is FAT16, of fewer FAT12 (Microsoft's FAT specification 1.03, page
/// 14).
const FAT12_CLUSTERS: u64 = 4085;
/// The most clusters that FAT16 can number.
const FAT16_CLUSTERS: u64 = 65_524;
/// Reserved sector, two copies of the table, and the root directory, as `hadris-fat` writes them.
const ROOT_ENTRIES: u64 = 512;

/// 1980-01-01, the first date that FAT can represent: real dates would make cards differ.
static CLOCK: EpochTimeProvider = EpochTimeProvider;

type Volume<'a> = FatVolume<Cursor<&'a mut [u8]>>;

/// A file of the FAT; `/` separates the directories of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatFile {
    pub path: String,
    pub data: Vec<u8>,
}

/// Makes a FAT16 volume of `size` bytes that starts `hidden` sectors into the card. Files get their
/// directory entries and clusters in the order given, each contiguous, for ROMs that take the first
/// entry or do not follow the cluster chain.
///
/// Returns the volume's bytes up to its last used cluster; the content of the rest does not matter.
///
/// # Errors
/// If the files do not fit, a name is invalid, or two files have the same name.
pub fn build(files: &[FatFile], size: u64, hidden: u64, volume_id: u32) -> Result<Vec<u8>> {
    check_names(files)?;
    let options = options(size, hidden, volume_id)?;
    let cluster = u64::from(options.sectors_per_cluster.unwrap_or(1)) * SECTOR;
    check_room(files, size, cluster)?;

    let mut bytes = vec![0; usize::try_from(size)?];
    let failed = |error: hadris_fat::Error| anyhow!("cannot make the FAT: {error}");
    drop(FatVolumeFormatter::format(Cursor::new(&mut bytes[..]), options).map_err(failed)?);
    let volume = FatVolumeBuilder::new(Cursor::new(&mut bytes[..]))
        .time_provider(&CLOCK)
        .open()
        .map_err(failed)?;
    let mut directories = BTreeMap::new();
    for file in files {
        write_file(&volume, &mut directories, file)
            .with_context(|| format!("cannot put {} into the FAT", file.path))?;
    }
    volume.sync().map_err(failed)?;
    drop(volume);
    let used = used(&bytes, cluster);
    bytes.truncate(used);
    Ok(bytes)
}

fn options(size: u64, hidden: u64, volume_id: u32) -> Result<FatFormatOptions> {
    let sectors = size / SECTOR;
    let per_cluster = (0..7)
        .map(|shift| 1u64 << shift)
        .find(|per_cluster| sectors / per_cluster <= FAT16_CLUSTERS)
        .ok_or_else(|| {
            Fault::input(format!("the FAT of {} is larger than 2 GiB", Size(size)))
                .remedy("lower `media.fat-size` of the board type")
        })?;
    // The tables and the root directory take sectors too.
    if sectors < FAT12_CLUSTERS + 100 {
        return Err(Fault::input(format!(
            "the FAT of {} is too small for a FAT16, which ROMs read best",
            Size(size)
        ))
        .remedy("set `media.fat-size` of the board type to 4 MiB (4194304) or more")
        .into());
    }
    let mut options = FatFormatOptions::new(size)
        .fat_type(FatTypeSelection::Fat16)
        .sectors_per_cluster(u8::try_from(per_cluster)?)
        .hidden_sectors(u32::try_from(hidden)?)
        .volume_id(volume_id);
    options.oem_name = OemName::new("HEARTH");
    Ok(options)
}

fn check_room(files: &[FatFile], size: u64, cluster: u64) -> Result<()> {
    let content: u64 = files
        .iter()
        .map(|file| (file.data.len() as u64).next_multiple_of(cluster))
        .sum();
    // Two tables with entries of 2 bytes a cluster.
    let tables = SECTOR + ROOT_ENTRIES * 32 + 4 * (size / cluster);
    let room = size.saturating_sub(tables);
    if content > room {
        return Err(Fault::input(format!(
            "the files for the FAT take {}, but it has room for {} only",
            Size(content),
            Size(room)
        ))
        .remedy("raise `media.fat-size` of the board type")
        .into());
    }
    Ok(())
}

/// Checks that names are valid in VFAT and unique regardless of case.
fn check_names(files: &[FatFile]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for file in files {
        let valid = file.path.split('/').all(|part| {
            !part.is_empty()
                && part.len() <= 255
                && !part.ends_with(['.', ' '])
                && part
                    .chars()
                    .all(|c| (' '..='~').contains(&c) && !"\"*:<>?\\|".contains(c))
        });
        if !valid {
            return Err(
                Fault::input(format!("`{}` cannot be a file's name in a FAT", file.path)).into(),
            );
        }
        if !seen.insert(file.path.to_ascii_lowercase()) {
            return Err(
                Fault::input(format!("two files want to be {} in the FAT", file.path))
                    .remedy("give one of the board type's blobs another place")
                    .into(),
            );
        }
    }
    Ok(())
}

/// Directories made so far, by path.
type Directories = BTreeMap<String, FileEntry>;

fn write_file(volume: &Volume, directories: &mut Directories, file: &FatFile) -> Result<()> {
    let failed = |error: hadris_fat::Error| anyhow!("{error}");
    let (parent, name) = match file.path.rsplit_once('/') {
        Some((parent, name)) => {
            make_directory(volume, directories, parent)?;
            (Some(parent), name)
        }
        None => (None, file.path.as_str()),
    };
    let entry = match parent.and_then(|parent| directories.get(parent)) {
        Some(parent) => {
            let parent = volume.open_dir_entry(parent).map_err(failed)?;
            volume.create_file(&parent, name)
        }
        None => volume.create_file(&volume.root_dir(), name),
    }
    .map_err(failed)?;
    let mut writer = volume.write_file(&entry).map_err(failed)?;
    let mut rest = &file.data[..];
    while !rest.is_empty() {
        match writer.write(rest).map_err(failed)? {
            0 => return Err(anyhow!("the FAT is full")),
            written => rest = &rest[written..],
        }
    }
    writer.finish().map_err(failed)
}

fn make_directory(volume: &Volume, directories: &mut Directories, path: &str) -> Result<()> {
    let mut made = String::new();
    for name in path.split('/') {
        let parent = made.clone();
        if !made.is_empty() {
            made.push('/');
        }
        made.push_str(name);
        if directories.contains_key(&made) {
            continue;
        }
        let failed = |error: hadris_fat::Error| anyhow!("{error}");
        let directory = match directories.get(&parent) {
            Some(parent) => volume.open_dir_entry(parent).map_err(failed)?,
            None => volume.root_dir(),
        };
        volume.create_dir(&directory, name).map_err(failed)?;
        let entry = directory
            .find(name)
            .map_err(failed)?
            .ok_or_else(|| anyhow!("the directory {made} was made, but is not there"))?;
        directories.insert(made.clone(), entry);
    }
    Ok(())
}

/// The end of the last used cluster; the volume's bytes after it do not matter.
fn used(volume: &[u8], cluster: u64) -> usize {
    let field = |at: usize| usize::from(u16::from_le_bytes([volume[at], volume[at + 1]]));
    let sector = SECTOR as usize;
    let table = field(14) * sector;
    let table_size = field(22) * sector;
    let data = table + 2 * table_size + field(17) * 32;
    let last = volume[table..table + table_size]
        .chunks_exact(2)
        .rposition(|entry| entry != [0, 0])
        .unwrap_or(1);
    (data + (last - 1) * cluster as usize).min(volume.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: usize) -> FatFile {
        FatFile {
            path: path.into(),
            data: vec![b'x'; size],
        }
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let files = [
            file("MLO", 70_000),
            file("overlays/a.dtbo", 3),
            file("empty", 0),
        ];
        let build = || build(&files, 4 << 20, 8192, 1).unwrap();
        assert_eq!(build(), build());
        assert!(build().len() < 200_000);
    }

    /// The other readers are fsck.fat and mtools.
    #[test]
    fn the_bytes_of_a_small_volume_are_those_that_they_always_were() {
        let files = [
            file("MLO", 3000),
            file("overlays/uart1.dtbo", 700),
            file("empty", 0),
        ];
        let mut volume = build(&files, 4 << 20, 2048, 0x1234_5678).unwrap();
        assert_eq!(
            common::sha256(&volume),
            "f9c133c6596b0b8cc135870e2d211e7422b119d2ab54214bc5da36eacdf4ea00"
        );

        volume.resize(4 << 20, 0);
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&image, &volume).unwrap();
        common::succeed(common::oracle("fsck.fat").arg("-n").arg(image.path()));
        let listed = common::succeed(
            common::oracle("mdir")
                .args(["-/", "-b", "-i"])
                .arg(image.path())
                .arg("::"),
        );
        assert_eq!(
            String::from_utf8(listed.stdout).unwrap(),
            "::/MLO\n::/overlays/\n::/empty\n::/overlays/uart1.dtbo\n"
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused_with_a_reason() {
        let refusal = |files: &[FatFile], size| build(files, size, 0, 1).unwrap_err().to_string();
        assert!(refusal(&[file("a", 5 << 20)], 4 << 20).contains("has room for"));
        assert!(refusal(&[file("a", 1), file("A", 1)], 4 << 20).contains("two files"));
        assert!(refusal(&[file("a:b", 1)], 4 << 20).contains("cannot be a file's name"));
        assert!(refusal(&[file("../b.", 1)], 4 << 20).contains("cannot be a file's name"));
        assert!(refusal(&[], 1 << 20).contains("too small"));
    }
}
