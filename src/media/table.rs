//! Owns partition tables: MBR with `mbrman`, GPT with `gptman` (UEFI 2.10, section 5), with ids
//! derived from the card's identity instead of random ones. Never places a partition.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::image::Extent;
use super::layout::{Layout, SECTOR};
use crate::recipe::Table;

/// FAT16 with LBA: supported by ROMs that read FAT and by the kernel.
const MBR_FAT16_LBA: u8 = 0x0e;
const MBR_LINUX: u8 = 0x83;

/// Microsoft basic data, EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, as stored.
const GPT_BASIC_DATA: [u8; 16] = [
    0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7,
];
/// Linux file system data, 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as stored.
const GPT_LINUX: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];
/// "Legacy BIOS bootable", by which U-Boot finds the partition with its script.
const GPT_BOOTABLE: u64 = 1 << 2;

/// The sectors that a partition table takes.
///
/// # Errors
/// If the disk for scratch files is full.
pub(super) fn build(layout: &Layout, identity: &str) -> Result<Vec<Extent>> {
    match layout.table {
        Table::None => Ok(Vec::new()),
        Table::Mbr => mbr(layout, identity),
        Table::Gpt => gpt(layout, identity),
    }
}

fn mbr(layout: &Layout, identity: &str) -> Result<Vec<Extent>> {
    let mut disk = scratch(layout.size)?;
    let signature: [u8; 4] = id(identity, "disk");
    let mut mbr = mbrman::MBR::new_from(&mut disk, SECTOR as u32, signature)?;
    mbr[1] = mbr_partition(&layout.fat, MBR_FAT16_LBA, mbrman::BOOT_ACTIVE)?;
    if let Some(test) = &layout.test {
        mbr[2] = mbr_partition(test, MBR_LINUX, mbrman::BOOT_INACTIVE)?;
    }
    mbr.write_into(&mut disk)
        .context("cannot make the partition table")?;
    // Starting at the disk signature: a blob may have put boot code before it.
    Ok(vec![extent(&disk, 440..SECTOR)?])
}

fn mbr_partition(range: &Range<u64>, sys: u8, boot: u8) -> Result<mbrman::MBRPartitionEntry> {
    Ok(mbrman::MBRPartitionEntry {
        boot,
        first_chs: mbrman::CHS::empty(),
        sys,
        last_chs: mbrman::CHS::empty(),
        starting_lba: u32::try_from(range.start / SECTOR)?,
        sectors: u32::try_from((range.end - range.start) / SECTOR)?,
    })
}

fn gpt(layout: &Layout, identity: &str) -> Result<Vec<Extent>> {
    let mut disk = scratch(layout.size)?;
    let mut gpt = gptman::GPT::new_from(&mut disk, SECTOR, guid(identity, "disk"))?;
    let first = gpt.header.first_usable_lba * SECTOR;
    let end = (gpt.header.last_usable_lba + 1) * SECTOR;
    gpt[1] = gptman::GPTPartitionEntry {
        attribute_bits: GPT_BOOTABLE,
        ..gpt_partition(
            &layout.fat,
            GPT_BASIC_DATA,
            guid(identity, "boot"),
            "hearth-boot",
        )
    };
    if let Some(test) = &layout.test {
        gpt[2] = gpt_partition(test, GPT_LINUX, guid(identity, "test"), "hearth-test");
    }
    gptman::GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
    gpt.write_into(&mut disk)
        .context("cannot make the partition table")?;
    Ok(vec![
        extent(&disk, 0..first)?,
        extent(&disk, end..layout.size)?,
    ])
}

fn gpt_partition(
    range: &Range<u64>,
    kind: [u8; 16],
    unique: [u8; 16],
    name: &str,
) -> gptman::GPTPartitionEntry {
    gptman::GPTPartitionEntry {
        partition_type_guid: kind,
        unique_partition_guid: unique,
        starting_lba: range.start / SECTOR,
        ending_lba: range.end / SECTOR - 1,
        attribute_bits: 0,
        partition_name: name.into(),
    }
}

/// Start and length of partition 1, in sectors: identifies a card before only its FAT is rewritten.
/// `sector` reads one sector of the card.
pub(super) fn first_partition(
    table: Table,
    mut sector: impl FnMut(u64) -> Result<[u8; 512]>,
) -> Result<Option<(u64, u64)>> {
    let word = |bytes: &[u8], at: usize| {
        u64::from(u32::from_le_bytes([
            bytes[at],
            bytes[at + 1],
            bytes[at + 2],
            bytes[at + 3],
        ]))
    };
    Ok(match table {
        Table::None => None,
        Table::Mbr => {
            let mbr = sector(0)?;
            (mbr[510..] == [0x55, 0xaa]).then(|| (word(&mbr, 454), word(&mbr, 458)))
        }
        Table::Gpt => {
            let (header, entries) = (sector(1)?, sector(2)?);
            let long = |at| word(&entries, at) | word(&entries, at + 4) << 32;
            (&header[..8] == b"EFI PART")
                .then(|| (long(32), long(40).wrapping_sub(long(32)).wrapping_add(1)))
        }
    })
}

/// An anonymous sparse file as large as the card: the crates determine the disk's size from it.
fn scratch(size: u64) -> Result<File> {
    let file = tempfile::tempfile().context("cannot make a scratch file")?;
    file.set_len(size).context("cannot size a scratch file")?;
    Ok(file)
}

fn extent(disk: &File, range: Range<u64>) -> Result<Extent> {
    let mut data = vec![0; (range.end - range.start) as usize];
    disk.read_exact_at(&mut data, range.start)?;
    Ok(Extent {
        offset: range.start,
        data,
    })
}

/// Bytes derived from the identity and the purpose alone.
pub(super) fn id<const N: usize>(identity: &str, purpose: &str) -> [u8; N] {
    let digest = Sha256::digest(format!("hearth media {purpose} {identity}"));
    let mut bytes = [0; N];
    bytes.copy_from_slice(&digest[..N]);
    bytes
}

/// A UUID of version 8, "custom" (RFC 9562, section 5.8), in GPT's mixed byte order.
fn guid(identity: &str, purpose: &str) -> [u8; 16] {
    let mut bytes: [u8; 16] = id(identity, purpose);
    bytes[7] = bytes[7] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{CardImage, TestPartition};
    use crate::recipe::Media;

    /// What sfdisk reads out of a card with a table, and the digest of the sectors that the table takes.
    fn read_back(table: Table) -> (serde_json::Value, String) {
        let media = Media {
            table,
            ..Media::default()
        };
        let test = Some(TestPartition::Size(8 << 20));
        let layout = Layout::plan(&media, &[], 0, test, None).unwrap();
        let extents = build(&layout, "lab/neo1").unwrap();
        let bytes: Vec<u8> = extents.iter().flat_map(|e| e.data.clone()).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(layout.size).unwrap();
        for extent in CardImage::new(layout, extents).extents() {
            file.as_file()
                .write_all_at(&extent.data, extent.offset)
                .unwrap();
        }
        let read = common::succeed(common::oracle("sfdisk").arg("--json").arg(file.path()));
        let read: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
        (read["partitiontable"].clone(), common::sha256(&bytes))
    }

    #[test]
    fn the_bytes_of_an_mbr_are_those_that_they_always_were() {
        let (read, digest) = read_back(Table::Mbr);
        assert_eq!(read["label"], "dos");
        let [boot, test] = read["partitions"].as_array().unwrap().as_slice() else {
            panic!("{read}");
        };
        assert_eq!(
            (&boot["type"], &boot["bootable"]),
            (&"e".into(), &true.into())
        );
        assert_eq!(
            (&test["type"], &test["size"]),
            (&"83".into(), &16384.into())
        );
        assert_eq!(
            digest,
            "098238678f5595514b638c2ddd4471c3e1d74d401d3cff004dcbc9cf236a20a0"
        );
    }

    #[test]
    fn the_bytes_of_a_gpt_are_those_that_they_always_were() {
        let (read, digest) = read_back(Table::Gpt);
        assert_eq!(read["label"], "gpt");
        let [boot, test] = read["partitions"].as_array().unwrap().as_slice() else {
            panic!("{read}");
        };
        assert_eq!(
            (&boot["name"], &boot["attrs"]),
            (&"hearth-boot".into(), &"LegacyBIOSBootable".into())
        );
        assert_eq!(
            (&test["name"], &test["size"]),
            (&"hearth-test".into(), &16384.into())
        );
        assert_eq!(
            digest,
            "db5ebb5214368e53160fb5b0559ad37ddc06baf561b0bdb4f3a3e99b9005f89d"
        );
    }
}
