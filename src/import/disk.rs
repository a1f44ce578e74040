//! Owns finding the partitions of a disk image: GPT with the crate gptman, MBR with mbrman. Never reads a file system.

use anyhow::{Context, Result};

use super::format::{BEGINNING, Format};
use super::shared::Input;
use super::window::{Cursor, Window};
use crate::error::Fault;
use crate::image::reader::ReadAt;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// As the kernel counts them: from 1, logical ones from 5.
    pub number: u32,
    /// The name in a GPT.
    pub name: String,
    /// In bytes.
    pub start: u64,
    pub length: u64,
    /// `None` for what is not known.
    pub format: Option<Format>,
}

impl Partition {
    /// Such as `partition 2 (ext4, 512 MiB, "rootfs")`.
    pub fn described(&self) -> String {
        let format = self
            .format
            .map_or_else(|| "unknown".into(), |format| format.to_string());
        let size = self.length as f64 / 1048576.0;
        let name = match self.name.as_str() {
            "" => String::new(),
            name => format!(", \"{name}\""),
        };
        format!("partition {} ({format}, {size:.0} MiB{name})", self.number)
    }

    /// The partition as an input of its own.
    pub fn input(&self, disk: &Input) -> Input {
        Input::new(Window {
            input: disk.clone(),
            start: self.start,
            length: self.length,
        })
    }
}

/// The size of the sectors that an MBR counts in.
const SECTOR: u64 = 512;

/// The partitions of a disk, in order of their numbers.
///
/// # Errors
/// If the partition table is damaged, or the image is cut short before the end of a partition.
pub fn partitions(disk: &Input) -> Result<Vec<Partition>> {
    let mut start = [0; 512];
    disk.fill_at(&mut start, 0).context("it is cut short")?;
    // A protective MBR has one partition of type EE.
    let is_gpt = (0..4).any(|entry| start[446 + entry * 16 + 4] == 0xee);
    let mut found = match is_gpt {
        true => gpt(disk)?,
        false => mbr(disk)?,
    };
    let length = disk.length()?;
    for partition in &mut found {
        let end = partition.start.checked_add(partition.length);
        if end.is_none_or(|end| end > length) {
            return Err(Fault::input(format!(
                "it is cut short: partition {} goes beyond its end at byte {length}",
                partition.number
            ))
            .into());
        }
        let mut beginning = vec![0; BEGINNING.min(partition.length as usize)];
        partition.input(disk).fill_at(&mut beginning, 0)?;
        partition.format = Format::of(&beginning);
    }
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

fn gpt(disk: &Input) -> Result<Vec<Partition>> {
    let gpt = gptman::GPT::find_from(&mut Cursor::new(disk.clone()))
        .map_err(|error| anyhow::anyhow!("its partition table is damaged: {error}"))?;
    let used = gpt.iter().filter(|(_, entry)| entry.is_used());
    used.map(|(number, entry)| {
        let last = entry.ending_lba.checked_add(1);
        let sectors = last.and_then(|last| last.checked_sub(entry.starting_lba));
        let bytes = |sectors: u64| sectors.checked_mul(gpt.sector_size);
        let sizes = bytes(entry.starting_lba).zip(sectors.and_then(bytes));
        let (start, length) =
            sizes.with_context(|| format!("its partition table is damaged: partition {number}"))?;
        Ok(Partition {
            number,
            name: entry.partition_name.as_str().trim_end_matches('\0').into(),
            start,
            length,
            format: None,
        })
    })
    .collect()
}

fn mbr(disk: &Input) -> Result<Vec<Partition>> {
    let mbr = mbrman::MBR::read_from(&mut Cursor::new(disk.clone()), SECTOR as u32)
        .map_err(|error| anyhow::anyhow!("its partition table is damaged: {error}"))?;
    let used = mbr
        .iter()
        .filter(|(_, entry)| entry.is_used() && !entry.is_extended());
    Ok(used
        .map(|(number, entry)| Partition {
            number: number as u32,
            name: String::new(),
            start: u64::from(entry.starting_lba) * SECTOR,
            length: u64::from(entry.sectors) * SECTOR,
            format: None,
        })
        .collect())
}
