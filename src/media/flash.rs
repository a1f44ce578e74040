//! Owns writing an image to a card and proving that it arrived: to what was opened, whatever its name leads to later.
//! Never asks whether the card is the right one: [`claim`] has told its caller.

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

/// Bytes written between two reports of progress.
const CHUNK: usize = 1 << 20;

/// A card that is open for writing, and nobody else's.
#[derive(Debug)]
pub struct Claimed {
    pub device: Device,
    card: File,
}

/// Opens a card, alone, and looks at what was opened: a link may lead elsewhere a moment later.
///
/// # Errors
/// As [`Host::probe`]; if the device cannot be opened alone.
pub fn claim(host: &Host, path: &Path) -> Result<Claimed> {
    // First by name, which explains more than the kernel's refusal to open it.
    host.probe(path)?;
    let card = open(path)?;
    let device = host.probe_open(path, &card)?;
    Ok(Claimed { device, card })
}

/// Writes what the image maps, the partition table last, then reads everything back and compares.
///
/// # Errors
/// If the device cannot be opened alone, is too small, fails, or holds something else afterwards.
pub fn flash(image: &CardImage, claimed: &mut Claimed, progress: &dyn Progress) -> Result<()> {
    let (device, card) = (&claimed.device.path, &mut claimed.card);
    check_size(card, image, device)?;
    // A card whose writing is cut off has no table, neither its old one nor the new: no board starts from half of it.
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

/// Writes only the FAT, on a card that hearth wrote before: the rest of it, the test partition among it,
/// stays as it is.
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
    // The kernel refuses a block device that anybody uses; without O_CREAT the flag means nothing for a file.
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

/// Turns an error of the card into a sentence about it.
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
        // Keeps the order of the extents on the card as well.
        card.sync_data().map_err(failed("write to", device))?;
    }
    card.sync_all().map_err(failed("write to", device))?;
    stage.finish(&Size(total).to_string());

    // What is read back must come from the card and not from memory; where the kernel cannot forget,
    // the comparison still proves what it would write.
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
