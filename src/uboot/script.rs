//! Owns boot scripts as images in memory: text to script uImage, and back. Never renders a
//! template.
//!
//! A script image's data is the table of a multi-file image (here one size and a zero, big-endian),
//! then the text. U-Boot's `source` checks both checksums, runs the first file only, and refuses an
//! empty one (U-Boot, `cmd/source.c`).

use crate::error::Fault;

use super::ids::{Comp, ImageArch, Kind, Os};
use super::uimage::{Crc, HEADER_LEN, Header, name_field};

/// Wraps `text` as a script for `arch`, byte for byte as
/// `mkimage -A arch -O linux -T script -C none -n name -d FILE` would at `time` (seconds since
/// 1970).
///
/// U-Boot doesn't compare a script's architecture with its own.
///
/// ```
/// use hearth::uboot::{ImageArch, script};
///
/// let image = script::wrap(b"echo hello\n", ImageArch::ARM, "boot", 1_700_000_000)?;
/// assert_eq!(image.len(), 64 + 8 + 11);
/// assert_eq!(script::read(&image)?.text, b"echo hello\n");
/// # Ok::<(), hearth::error::Fault>(())
/// ```
///
/// # Errors
/// If the text is empty, or larger than a uImage can hold.
pub fn wrap(text: &[u8], arch: ImageArch, name: &str, time: u32) -> Result<Vec<u8>, Fault> {
    wrap_files(&[text], arch, name, time)
}

/// As [`wrap`], with further files after the text, which U-Boot does not run: `-d FILE:FILE`.
///
/// # Errors
/// As [`wrap`].
pub fn wrap_files(
    files: &[&[u8]],
    arch: ImageArch,
    name: &str,
    time: u32,
) -> Result<Vec<u8>, Fault> {
    if files.first().is_none_or(|text| text.is_empty()) {
        return Err(Fault::input(
            "the boot script is empty, which U-Boot refuses to run",
        ));
    }
    let too_large = |_| Fault::input("the boot script is larger than the 4 GiB of a uImage");
    let mut data = Vec::new();
    for file in files {
        let size = u32::try_from(file.len()).map_err(too_large)?;
        data.extend_from_slice(&size.to_be_bytes());
    }
    data.extend_from_slice(&[0; 4]);
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            data.resize(data.len().next_multiple_of(4), 0);
        }
        data.extend_from_slice(file);
    }
    let header = Header {
        time,
        size: u32::try_from(data.len()).map_err(too_large)?,
        load: 0,
        entry: 0,
        data_crc: crc32fast::hash(&data),
        os: Os::LINUX,
        arch,
        kind: Kind::SCRIPT,
        comp: Comp::NONE,
        name: name_field(name.as_bytes()),
    };
    let mut image = header.encode().to_vec();
    image.extend_from_slice(&data);
    Ok(image)
}

/// A parsed script image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    pub header: Header,
    /// The text that U-Boot runs.
    pub text: &'a [u8],
    /// The files after the text.
    pub others: Vec<&'a [u8]>,
    /// Data after the image, all zeros or all ones, as in the dump of a partition. U-Boot ignores
    /// it.
    pub padding: &'a [u8],
}

/// Whether data after an image is padding of an erased or zeroed medium.
pub fn is_padding(bytes: &[u8]) -> bool {
    let fill = bytes.first();
    matches!(fill, None | Some(0 | 0xff)) && bytes.iter().all(|byte| Some(byte) == fill)
}

/// Parses a script image, with all checks that U-Boot makes.
///
/// # Errors
/// A sentence without the file's name, which the caller adds: no uImage, another type, a wrong
/// checksum, a size that does not fit.
pub fn read(image: &[u8]) -> Result<Script<'_>, Fault> {
    let (header, crc) = image
        .first_chunk::<HEADER_LEN>()
        .and_then(Header::decode)
        .ok_or_else(|| Fault::input("not a boot script: it does not begin with a uImage header"))?;
    if header.kind != Kind::SCRIPT {
        return Err(Fault::input(format!(
            "not a boot script but a uImage of type {}",
            header.kind
        )));
    }
    check(crc, "header")?;
    let data = &image[HEADER_LEN..];
    let size = header.size as usize;
    let (data, padding) = match data.split_at_checked(size) {
        Some((data, padding)) if is_padding(padding) => (data, padding),
        _ => {
            return Err(Fault::input(format!(
                "the header announces {size} bytes of data, but {} follow it",
                data.len()
            )));
        }
    };
    let crc = Crc {
        stored: header.data_crc,
        computed: crc32fast::hash(data),
    };
    check(crc, "data")?;
    let files = files(data)
        .filter(|files| files.first().is_some_and(|text| !text.is_empty()))
        .ok_or_else(|| Fault::input("the table of the script's files does not fit its data"))?;
    let (text, others) = (files[0], files[1..].to_vec());
    Ok(Script {
        header,
        text,
        others,
        padding,
    })
}

fn check(crc: Crc, what: &str) -> Result<(), Fault> {
    if crc.matches() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the checksum of the {what} is {:08x}, but should be {:08x}: the file is damaged",
        crc.stored, crc.computed
    )))
}

/// The files of a multi-file image's data: sizes up to a zero, then the files, each padded to 4
/// bytes.
fn files(data: &[u8]) -> Option<Vec<&[u8]>> {
    let count = data.chunks_exact(4).position(|size| size == [0; 4])?;
    let mut start = (count + 1) * 4;
    let mut files = Vec::new();
    for size in data.chunks_exact(4).take(count) {
        let size = u32::from_be_bytes(size.try_into().ok()?) as usize;
        files.push(data.get(start..start.checked_add(size)?)?);
        start = (start + size).next_multiple_of(4);
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset of the text in the data: the size of a table of one file.
    const TABLE_LEN: usize = 8;

    #[test]
    fn a_script_reads_back_and_its_text_follows_the_table() {
        let image = wrap(b"echo hi\n", ImageArch::ARM, "boot", 1_700_000_000).unwrap();
        assert_eq!(&image[HEADER_LEN + TABLE_LEN..], b"echo hi\n");
        let script = read(&image).unwrap();
        assert_eq!(script.text, b"echo hi\n");
        assert_eq!(script.header.name(), b"boot");
        assert_eq!(script.header.time, 1_700_000_000);
    }

    #[test]
    fn any_damaged_byte_of_a_script_is_noticed() {
        let image = wrap(b"echo hi\n", ImageArch::ARM64, "boot", 0).unwrap();
        for at in 0..image.len() {
            let mut damaged = image.clone();
            damaged[at] ^= 1;
            assert!(read(&damaged).is_err(), "byte {at}");
            assert!(read(&image[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_empty_script_is_refused() {
        assert!(wrap(b"", ImageArch::ARM, "", 0).is_err());
    }
}
