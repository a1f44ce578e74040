//! Owns the layout of a card: checks that parts do not overlap and fit.
//! Never writes a byte.

use std::fmt;
use std::ops::Range;

use anyhow::Result;

use crate::error::Fault;
use crate::recipe::{Media, Table, parse_size};

const MIB: u64 = 1 << 20;

/// GPT: the protective MBR, the header, and 128 entries of 128 bytes (UEFI 2.10, section 5.3.1).
const GPT_START: u64 = 34 * SECTOR;
/// GPT's backup at the end of the card: the entries and the header.
const GPT_END: u64 = 33 * SECTOR;
/// The master boot record: its code area, and the table of four entries.
const MBR_CODE: u64 = 440;
/// Alignment of partitions that tests write to, which suits the erase blocks of cards.
const TEST_ALIGNMENT: u64 = 4 * MIB;

/// Sector size in bytes.
pub const SECTOR: u64 = 512;

/// Limit of a card's content beside its bootloader, in bytes.
pub const LIMIT: u64 = 8 << 20;

/// Raw data on a card, at `offset` from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBlob {
    /// Its name in messages.
    pub name: String,
    pub offset: u64,
    pub data: Vec<u8>,
}

/// The partition that tests may destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestPartition {
    /// In bytes.
    Size(u64),
    /// The rest of the card.
    Rest,
}

impl std::str::FromStr for TestPartition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rest" => Ok(TestPartition::Rest),
            size => parse_size(size).map(TestPartition::Size),
        }
    }
}

/// The byte range of each part of a card; all are multiples of a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub table: Table,
    pub fat: Range<u64>,
    pub test: Option<Range<u64>>,
    /// The size of the image.
    pub size: u64,
}

impl Layout {
    /// Places the parts. `card` is the card's size, if known; the image then has that size.
    /// `bootloader` is the size of the bootloader's files in the FAT, which do not count for the
    /// limit ([`LIMIT`]), nor do raw blobs.
    ///
    /// # Errors
    /// If parts overlap, do not fit the card, or exceed the limit.
    pub fn plan(
        media: &Media,
        blobs: &[RawBlob],
        bootloader: u64,
        test: Option<TestPartition>,
        card: Option<u64>,
    ) -> Result<Self> {
        let fat = fat_range(media)?;
        check_overlaps(media.table, &fat, blobs)?;
        let used = blobs
            .iter()
            .map(|blob| blob.offset + blob.data.len() as u64)
            .chain([fat.end])
            .max()
            .unwrap_or(fat.end);
        let raw: u64 = blobs.iter().map(|blob| blob.data.len() as u64).sum();
        let beside = used.saturating_sub(bootloader + raw);
        if beside > LIMIT {
            return Err(Fault::input(format!(
                "the card would take {} beside its bootloader, more than {}",
                Size(beside),
                Size(LIMIT)
            ))
            .remedy("lower `media.fat-offset` or `media.fat-size` of the board type")
            .into());
        }
        let tail = if media.table == Table::Gpt { MIB } else { 0 };
        let test = place_test(media.table, used, test, card, tail)?;
        let needed = test.as_ref().map_or(used, |test| test.end).max(used);
        let needed = round_up(needed, MIB) + tail;
        let size = match card {
            None => needed,
            Some(card) if needed.saturating_sub(tail) + GPT_END.min(tail) <= card => {
                card - card % SECTOR
            }
            Some(card) => {
                return Err(Fault::input(format!(
                    "the image needs {}, but the card has only {}",
                    Size(needed),
                    Size(card)
                ))
                .remedy("take a larger card, or a smaller --test-partition")
                .into());
            }
        };
        Ok(Layout {
            table: media.table,
            fat,
            test,
            size,
        })
    }
}

fn fat_range(media: &Media) -> Result<Range<u64>> {
    let offset = if media.table == Table::None {
        0
    } else {
        media.fat_offset
    };
    for (name, value) in [("fat-offset", offset), ("fat-size", media.fat_size)] {
        if value % SECTOR != 0 {
            return Err(Fault::input(format!(
                "`media.{name}` is {value}, not a multiple of {SECTOR} bytes"
            ))
            .into());
        }
    }
    let end = offset
        .checked_add(media.fat_size)
        .filter(|end| end / SECTOR <= u64::from(u32::MAX));
    match end {
        Some(end) => Ok(offset..end),
        None => Err(Fault::input("`media.fat-offset` and `media.fat-size` end past 2 TiB").into()),
    }
}

/// A range of the card that no other part may overlap.
struct Part {
    name: String,
    range: Range<u64>,
}

fn check_overlaps(table: Table, fat: &Range<u64>, blobs: &[RawBlob]) -> Result<()> {
    let mut parts = vec![Part {
        name: "the FAT".into(),
        range: fat.clone(),
    }];
    match table {
        // Boot code may precede the table, as some ROMs require.
        Table::Mbr => parts.push(Part {
            name: "the MBR partition table".into(),
            range: MBR_CODE..SECTOR,
        }),
        Table::Gpt => parts.push(Part {
            name: "the GPT partition table".into(),
            range: 0..GPT_START,
        }),
        Table::None => {}
    }
    for blob in blobs {
        let end = blob
            .offset
            .checked_add(blob.data.len() as u64)
            .ok_or_else(|| Fault::input(format!("{} ends past the end of any card", blob.name)))?;
        parts.push(Part {
            name: blob.name.clone(),
            range: blob.offset..end,
        });
    }
    parts.sort_by_key(|part| (part.range.start, part.range.end));
    for pair in parts.windows(2) {
        let [first, second] = pair else { continue };
        if second.range.start < first.range.end && !second.range.is_empty() {
            return Err(overlap(first, second, table));
        }
    }
    Ok(())
}

fn overlap(first: &Part, second: &Part, table: Table) -> anyhow::Error {
    let fault = Fault::input(format!(
        "{} (bytes {} to {} of the card) overlaps {} (bytes {} to {})",
        second.name,
        second.range.start,
        second.range.end,
        first.name,
        first.range.start,
        first.range.end
    ));
    match table {
        Table::Gpt if first.range.start == 0 => fault.remedy(format!(
            "set `media.table = \"mbr\"`, or an offset of at least {GPT_START} where the ROM \
             looks too (Allwinner: 131072)"
        )),
        _ => fault.remedy("change the board type's `media` or the blob's place"),
    }
    .into()
}

fn place_test(
    table: Table,
    used: u64,
    test: Option<TestPartition>,
    card: Option<u64>,
    tail: u64,
) -> Result<Option<Range<u64>>> {
    let Some(test) = test else { return Ok(None) };
    if table == Table::None {
        return Err(Fault::input(
            "a card without a partition table has no place for a test partition",
        )
        .remedy("set `media.table = \"mbr\"` in the board type")
        .into());
    }
    let start = round_up(used, TEST_ALIGNMENT);
    let end = match (test, card) {
        (TestPartition::Size(0), _) => {
            return Err(Fault::input("the test partition has no size").into());
        }
        (TestPartition::Size(size), _) => start.checked_add(round_up(size, MIB)),
        (TestPartition::Rest, Some(card)) => {
            let end = card.saturating_sub(tail.min(GPT_END));
            Some(end - end % MIB)
        }
        (TestPartition::Rest, None) => {
            return Err(Fault::input(
                "`--test-partition rest` needs to know how large the card is",
            )
            .remedy("add `--card-size SIZE`, or write the card with `hearth flash`")
            .into());
        }
    };
    match end {
        Some(end) if end > start && end / SECTOR <= u64::from(u32::MAX) => Ok(Some(start..end)),
        Some(end) if end <= start => Err(Fault::input(format!(
            "the card has no room for a test partition behind its first {}",
            Size(start)
        ))
        .remedy("take a larger card")
        .into()),
        _ => Err(Fault::input("the test partition ends past 2 TiB").into()),
    }
}

pub(super) fn round_up(value: u64, to: u64) -> u64 {
    value.div_ceil(to).saturating_mul(to)
}

/// A human-readable size.
pub(super) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 10 => write!(f, "{bytes} bytes"),
            bytes if bytes < MIB => write!(f, "{} KiB", bytes.div_ceil(1 << 10)),
            bytes if bytes < 1 << 30 => write!(f, "{:.1} MiB", bytes as f64 / MIB as f64),
            bytes => write!(f, "{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(offset: u64, size: usize) -> RawBlob {
        RawBlob {
            name: format!("blob at {offset}"),
            offset,
            data: vec![1; size],
        }
    }

    fn media(table: Table) -> Media {
        Media {
            table,
            ..Media::default()
        }
    }

    fn refusal(table: Table, blobs: &[RawBlob]) -> String {
        Layout::plan(&media(table), blobs, 0, None, None)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn sunxi_at_8_kib_fits_an_mbr_but_collides_with_a_gpt() {
        let spl = [blob(8192, 500_000)];
        let layout = Layout::plan(&media(Table::Mbr), &spl, 0, None, None).unwrap();
        assert_eq!(layout.size, 8 << 20);
        assert!(refusal(Table::Gpt, &spl).contains("overlaps the GPT partition table"));
        Layout::plan(&media(Table::Gpt), &[blob(131_072, 500_000)], 0, None, None).unwrap();
    }

    #[test]
    fn blobs_touch_neither_each_other_nor_the_fat() {
        assert!(refusal(Table::Mbr, &[blob(1024, 1024), blob(2047, 1)]).contains("overlaps"));
        assert!(refusal(Table::Mbr, &[blob((4 << 20) - 1, 2)]).contains("the FAT"));
        assert!(refusal(Table::Mbr, &[blob(0, 512)]).contains("MBR"));
        Layout::plan(
            &media(Table::Mbr),
            &[blob(0, 440), blob(512, 1)],
            0,
            None,
            None,
        )
        .unwrap();
    }

    #[test]
    fn a_test_partition_takes_a_size_or_the_rest() {
        let plan = |test, card| Layout::plan(&media(Table::Mbr), &[], 0, Some(test), card);
        let sized = plan(TestPartition::Size(10 << 20), None).unwrap();
        assert_eq!(sized.test, Some((8 << 20)..(18 << 20)));
        let rest = plan(TestPartition::Rest, Some(100 << 20)).unwrap();
        assert_eq!(rest.test, Some((8 << 20)..(100 << 20)));
        assert!(
            plan(TestPartition::Rest, None)
                .unwrap_err()
                .to_string()
                .contains("how large")
        );
        assert!(
            plan(TestPartition::Rest, Some(8 << 20))
                .unwrap_err()
                .to_string()
                .contains("no room")
        );
        let small = plan(TestPartition::Size(1 << 30), Some(1 << 29)).unwrap_err();
        assert!(small.to_string().contains("the card has only 512.0 MiB"));
    }

    #[test]
    fn a_card_beside_its_bootloader_stays_small() {
        let mut large = media(Table::Mbr);
        large.fat_size = 12 << 20;
        assert!(
            Layout::plan(&large, &[], 0, None, None)
                .unwrap_err()
                .to_string()
                .contains("8.0 MiB")
        );
        Layout::plan(&large, &[], 8 << 20, None, None).unwrap();
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("513"), Ok(513));
        for wrong in ["", "M", "1.5G", "-1", "99999999999999G", "1X"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
