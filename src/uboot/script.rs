//! Owns boot scripts as images in memory: text in, script uImage out, and back. Never renders a template.
//!
//! A script image's data is the table of a multi-file image (here one size and a zero, big-endian), then the
//! text. U-Boot's `source` checks both checksums, runs the first file only, and refuses an empty one
//! (U-Boot, `cmd/source.c`).

use crate::error::Fault;

use super::ids::{Comp, ImageArch, Kind, Os};
use super::uimage::{Crc, HEADER_LEN, Header, name_field};

/// Bytes before the text in the data: the table of one file.
const TABLE_LEN: usize = 8;

/// Wraps `text` as a script for `arch`, byte for byte as
/// `mkimage -A arch -O linux -T script -C none -n name -d FILE` would at `time` (seconds since 1970).
///
/// U-Boot doesn't compare a script's architecture with its own.
///
/// # Errors
/// If the text is empty, or larger than a uImage can hold.
pub fn wrap(text: &[u8], arch: ImageArch, name: &str, time: u32) -> Result<Vec<u8>, Fault> {
    if text.is_empty() {
        return Err(Fault::input(
            "the boot script is empty, which U-Boot refuses to run",
        ));
    }
    let size = u32::try_from(text.len() + TABLE_LEN)
        .map_err(|_| Fault::input("the boot script is larger than the 4 GiB of a uImage"))?;
    let mut data = Vec::with_capacity(text.len() + TABLE_LEN);
    data.extend_from_slice(&(size - TABLE_LEN as u32).to_be_bytes());
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(text);
    let header = Header {
        time,
        size,
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

/// A script image, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    pub header: Header,
    /// What U-Boot would run.
    pub text: &'a [u8],
}

/// Takes a script image apart, checking all that U-Boot checks.
///
/// # Errors
/// A sentence without the file's name, to which the caller adds it: no uImage, another type, a checksum that does
/// not match, a size that does not fit.
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
    if data.len() as u64 != u64::from(header.size) {
        return Err(Fault::input(format!(
            "the header announces {} bytes of data, but {} follow it",
            header.size,
            data.len()
        )));
    }
    let crc = Crc {
        stored: header.data_crc,
        computed: crc32fast::hash(data),
    };
    check(crc, "data")?;
    let text = first_file(data)
        .ok_or_else(|| Fault::input("the table of the script's files does not fit its data"))?;
    Ok(Script { header, text })
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

/// The first file of a multi-file image's data: sizes up to a zero, then the files.
fn first_file(data: &[u8]) -> Option<&[u8]> {
    let table = data.chunks_exact(4).position(|size| size == [0; 4])?;
    let size = u32::from_be_bytes(*data.first_chunk()?) as usize;
    let start = (table + 1) * 4;
    data.get(start..start.checked_add(size)?)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

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
