//! Owns writing an image to a card and verifying it: through one descriptor, whatever the path
//! refers to later.
//! Never asks whether the card is the right one: the caller asks, with what [`claim`] returns.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

use super::device::{Device, Host};
use super::image::{CardImage, Extent, first_difference};
use super::layout::{SECTOR, Size};
use super::table;
use crate::error::Fault;
use crate::progress::{Progress, Unit};

/// Bytes written between two progress reports.
const CHUNK: usize = 1 << 20;

/// A card, opened exclusively for writing.
#[derive(Debug)]
pub struct Claimed {
    pub device: Device,
    card: File,
}

/// Opens a card exclusively, and examines the open descriptor: a link may change at any moment.
///
/// # Errors
/// As [`Host::probe`]; and if the device cannot be opened exclusively.
pub fn claim(host: &Host, path: &Path) -> Result<Claimed> {
    // First by name, for a better message than the kernel's refusal to open it.
    host.probe(path)?;
    let card = open(path)?;
    let device = host.probe_open(path, &card)?;
    Ok(Claimed { device, card })
}

/// Writes the mapped blocks, the partition table last, then reads everything back and compares.
///
/// # Errors
/// If the device is too small, fails, or reads back differently.
pub fn flash(image: &CardImage, claimed: &mut Claimed, progress: &dyn Progress) -> Result<()> {
    let (device, card) = (&claimed.device.path, &mut claimed.card);
    check_size(card, image, device)?;
    // The table is invalid until everything is written, so that no board boots from a partly
    // written card.
    let mut order: Vec<&Extent> = image.extents().iter().collect();
    if let Some(table) = order.first() {
        card.write_all_at(&vec![0; table.data.len()], table.offset)
            .and_then(|()| card.sync_data())
            .map_err(failed("write to", device))?;
    }
    let tables = order.len().min(1);
    order.rotate_left(tables);
    write(card, &order, device, progress)
}

/// Writes only the FAT, on a card that hearth wrote before; the rest, including the test partition,
/// is unchanged.
///
/// # Errors
/// As [`flash`], and if the card's first partition is not where the image has it.
pub fn update(image: &CardImage, claimed: &mut Claimed, progress: &dyn Progress) -> Result<()> {
    let (device, card) = (&claimed.device.path, &mut claimed.card);
    check_size(card, image, device)?;
    let layout = &image.layout;
    let wanted = table::first_partition(layout.table, |number| Ok(image.sector(number)))?;
    let found = table::first_partition(layout.table, |number| {
        let mut sector = [0; 512];
        card.read_exact_at(&mut sector, number * SECTOR)
            .with_context(|| format!("cannot read {}", device.display()))?;
        Ok(sector)
    })?;
    if found != wanted {
        return Err(Fault::input(format!(
            "the card in {} was not written for this board type: its first partition is elsewhere",
            device.display()
        ))
        .remedy("write the whole card: `hearth flash` without --update")
        .into());
    }
    let fat: Vec<Extent> = image
        .extents()
        .iter()
        .filter_map(|extent| overlap(extent, layout.fat.start, layout.fat.end))
        .collect();
    write(card, &fat.iter().collect::<Vec<_>>(), device, progress)
}

fn overlap(extent: &Extent, start: u64, end: u64) -> Option<Extent> {
    let (from, to) = (extent.offset.max(start), extent.end().min(end));
    (from < to).then(|| Extent {
        offset: from,
        data: extent.data[(from - extent.offset) as usize..(to - extent.offset) as usize].to_vec(),
    })
}

fn open(device: &Path) -> Result<File> {
    // O_EXCL: the kernel refuses a block device that is in use; without O_CREAT it has no meaning
    // for a regular file.
    let flags = OFlag::O_EXCL | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(flags.bits())
        .open(device).map_err(|error| {
        let fault = Fault::host(format!("cannot write to {}: {error}", device.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => fault.remedy(
                "join the group that owns the device, usually: sudo adduser $USER disk; then log in again",
            ),
            std::io::ErrorKind::ResourceBusy => fault.remedy("unmount everything on it first"),
            _ => fault,
        }
        .into()
    })
}

fn check_size(mut card: &File, image: &CardImage, device: &Path) -> Result<()> {
    use std::io::{Seek, SeekFrom};
    let size = card
        .seek(SeekFrom::End(0))
        .with_context(|| format!("cannot tell the size of {}", device.display()))?;
    if size < image.layout.size {
        return Err(Fault::input(format!(
            "the card in {} has {}, but the image needs {}",
            device.display(),
            Size(size),
            Size(image.layout.size)
        ))
        .remedy("take a larger card, or a smaller --test-partition")
        .into());
    }
    Ok(())
}

/// Describes an I/O error of the card.
fn failed<'a>(doing: &'a str, device: &'a Path) -> impl Fn(std::io::Error) -> Fault + 'a {
    move |error| {
        Fault::infrastructure(format!("cannot {doing} {}: {error}", device.display()))
            .remedy("try another card or reader")
    }
}

fn write(
    card: &mut File,
    extents: &[&Extent],
    device: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let total: u64 = extents.iter().map(|extent| extent.data.len() as u64).sum();
    let stage = progress.stage("write", Some(total), Unit::Bytes);
    for extent in extents {
        for (number, chunk) in extent.data.chunks(CHUNK).enumerate() {
            card.write_all_at(chunk, extent.offset + (number * CHUNK) as u64)
                .map_err(failed("write to", device))?;
            stage.advance(chunk.len() as u64);
        }
        // Waits for the data, so that extents are written in order.
        card.sync_data().map_err(failed("write to", device))?;
    }
    card.sync_all().map_err(failed("write to", device))?;
    stage.finish(&Size(total).to_string());

    // Drops the page cache, to read back from the card; where that is not possible, the comparison
    // still covers the data to be written.
    let _ = posix_fadvise(card.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    let stage = progress.stage("compare", Some(total), Unit::Bytes);
    for extent in extents {
        if let Some(at) = first_difference(card, extent).map_err(failed("read", device))? {
            return Err(Fault::infrastructure(format!(
                "{} did not keep what was written: byte {at} differs",
                device.display()
            ))
            .remedy("the card is worn out or fake: take another")
            .into());
        }
        stage.advance(extent.data.len() as u64);
    }
    stage.finish("the card holds the image");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::layout::Layout;
    use crate::progress::NoProgress;
    use crate::recipe::Table;

    fn image(fill: u8) -> CardImage {
        let layout = Layout {
            table: Table::None,
            fat: 8192..16384,
            test: None,
            size: 32768,
        };
        let extent = |offset, size| Extent {
            offset,
            data: vec![fill; size],
        };
        CardImage::new(layout, vec![extent(0, 4096), extent(8192, 5000)])
    }

    #[test]
    fn only_mapped_blocks_are_written_and_update_touches_the_fat_alone() {
        let dir = tempfile::tempdir().unwrap();
        let card = dir.path().join("card");
        std::fs::write(&card, vec![9; 40_000]).unwrap();
        let claimed = || claim(&Host::default(), &card).unwrap();
        flash(&image(1), &mut claimed(), &NoProgress).unwrap();
        let flashed = std::fs::read(&card).unwrap();
        assert_eq!(flashed.len(), 40_000);
        assert_eq!((flashed[0], flashed[4096], flashed[8192]), (1, 9, 1));
        assert_eq!(
            (flashed[13_191], flashed[13_192], flashed[16384]),
            (1, 0, 9)
        );
        update(&image(2), &mut claimed(), &NoProgress).unwrap();
        let updated = std::fs::read(&card).unwrap();
        assert_eq!((updated[0], updated[8192]), (1, 2));
    }

    #[test]
    fn a_card_too_small_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let card = dir.path().join("card");
        std::fs::write(&card, vec![9; 20_000]).unwrap();
        let mut claimed = claim(&Host::default(), &card).unwrap();
        let error = flash(&image(1), &mut claimed, &NoProgress).unwrap_err();
        assert!(error.to_string().contains("19.5 KiB") || error.to_string().contains("20 KiB"));
        assert!(std::fs::read(&card).unwrap().iter().all(|&byte| byte == 9));
    }

    #[test]
    fn a_link_that_moves_after_the_question_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let [card, disk, link] = ["card", "disk", "link"].map(|name| dir.path().join(name));
        for path in [&card, &disk] {
            std::fs::write(path, vec![9; 40_000]).unwrap();
        }
        std::os::unix::fs::symlink(&card, &link).unwrap();
        let mut claimed = claim(&Host::default(), &link).unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        flash(&image(1), &mut claimed, &NoProgress).unwrap();
        assert_eq!(std::fs::read(&card).unwrap()[0], 1);
        assert_eq!(std::fs::read(&disk).unwrap(), vec![9; 40_000]);
    }
}
