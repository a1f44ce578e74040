//! Owns looking into an image: what it is, what it holds, what is wrong with it. Reads it once, from a pipe too, and
//! never holds more of it than a piece, the table of its files, and a script's text.

mod legacy;
mod source;
mod vendor;

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::error::Fault;
use crate::output::AtomicFile;

use super::ids::Kind;
use super::uimage::{self, Header};
use super::vendor::{egon, gp, omap};
use source::Source;

/// The largest image taken for a GP one, which has no magic: far above what a chip's own memory holds.
const MAX_GP: u32 = 16 << 20;
/// Bytes read to recognise an image: the longest header.
const HEAD_LEN: u64 = omap::HEADER_LEN as u64;

/// What a file turned out to be.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub image: Image,
    /// The files in it: of a multi-file or script image those of its table, else all the data.
    pub parts: Vec<Part>,
    /// What is wrong with it, each a clause such as `its data is truncated: …`. Empty: the image is whole.
    pub problems: Vec<String>,
    /// What is worth knowing of a whole image, each a sentence: padding, a script that U-Boot cannot run.
    pub notes: Vec<String>,
}

impl Report {
    /// All that is wrong, as one failure without the file's name; `None` for a whole image.
    pub fn damage(&self) -> Option<Fault> {
        (!self.problems.is_empty()).then(|| Fault::input(self.problems.join("; ")))
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "format", rename_all = "lowercase")]
pub enum Image {
    Uimage(Header),
    Omapimage(omap::Header),
    Gpimage(gp::Header),
    #[serde(rename = "sunxi_egon")]
    SunxiEgon(egon::Header),
}

impl Image {
    /// The image type by the number that a uImage's header has for it.
    pub fn kind(&self) -> Kind {
        match self {
            Image::Uimage(header) => header.kind,
            Image::Omapimage(_) => Kind::OMAPIMAGE,
            Image::Gpimage(_) => Kind::GPIMAGE,
            Image::SunxiEgon(_) => Kind::SUNXI_EGON,
        }
    }
}

/// A file in an image.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Where it begins, in bytes from the beginning of the image.
    pub offset: u64,
    pub size: u64,
    /// The text of a script, the one file of it that U-Boot runs; not of one beyond 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Asks for one of the files while the image is read.
pub struct Extract<'a> {
    /// Counted from 0; may be left out where there is one only.
    pub part: Option<usize>,
    /// Gets the data before its checksum is known.
    pub out: &'a mut dyn Write,
}

/// Reads an image and tells what it is. `length` is that of the file, if it is known; a pipe's is not.
/// What lies behind the image is never read, so that an endless pipe ends.
///
/// ```
/// use hearth::uboot::read::{Image, inspect};
/// use hearth::uboot::{ImageArch, Kind, script};
///
/// let mut image = script::wrap(b"echo hello\n", ImageArch::ARM, "boot", 0)?;
/// let report = inspect(&image[..], Some(image.len() as u64), None)?;
/// assert_eq!(report.image.kind(), Kind::SCRIPT);
/// assert_eq!(report.parts[0].text.as_deref(), Some("echo hello\n"));
/// assert!(report.damage().is_none());
///
/// image.truncate(80);
/// assert!(inspect(&image[..], Some(80), None)?.damage().is_some());
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// A [`Fault`] without the file's name, which the caller adds, if this is no image that hearth knows, or if it lacks the
/// file that was asked for; an [`io::Error`] of reading, or of writing what was asked for.
/// Damage is no error, but among the report's problems.
pub fn inspect(
    mut input: impl Read,
    length: Option<u64>,
    extract: Option<Extract<'_>>,
) -> Result<Report> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD_LEN).read_to_end(&mut head)?;
    if head.is_empty() {
        return Err(Fault::input("it is empty").into());
    }
    let source = |head: Vec<u8>| Source::new(io::Cursor::new(head).chain(input), length);
    if head.starts_with(&uimage::MAGIC) {
        return legacy::read(source(head), extract);
    }
    if egon::recognise(&head) {
        return vendor::read_egon(source(head), extract);
    }
    if let Some(byteswapped) = omap::recognise(&head) {
        return vendor::read_omap(source(head), byteswapped, extract);
    }
    if is_gp(&head, length) {
        return vendor::read_gp(source(head), extract);
    }
    Err(unknown(&head).into())
}

/// Writes one file of the image to `output`, if the image is whole; else nothing. `name` is what to call the image.
///
/// # Errors
/// As [`inspect`], with the name; and if the image is damaged, a [`Fault`] that tells all that is wrong.
pub fn extract(
    name: &str,
    input: impl Read,
    length: Option<u64>,
    part: Option<usize>,
    output: &Path,
) -> Result<Report> {
    let mut out = Outcome {
        file: AtomicFile::create(output)?,
        failed: false,
    };
    let request = Extract {
        part,
        out: &mut out,
    };
    let report = inspect(input, length, Some(request)).map_err(|error| {
        error.context(if out.failed {
            format!("cannot write {}", output.display())
        } else {
            name.to_string()
        })
    })?;
    if let Some(damage) = report.damage() {
        return Err(damage).context(name.to_string());
    }
    out.file.commit()?;
    Ok(report)
}

/// Remembers whether it was writing that failed, as an [`io::Error`] alone does not tell.
struct Outcome {
    file: AtomicFile,
    failed: bool,
}

impl Write for Outcome {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data).inspect_err(|_| self.failed = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().inspect_err(|_| self.failed = true)
    }
}

/// A GP header is told by its size alone, which must be that of the file, where that is known.
fn is_gp(head: &[u8], length: Option<u64>) -> bool {
    let Some(header) = head.first_chunk().map(gp::Header::decode) else {
        return false;
    };
    let whole = u64::from(header.size) + gp::HEADER_LEN as u64;
    header.load > 0
        && (1..=MAX_GP).contains(&header.size)
        && length.is_none_or(|length| length == whole)
}

fn unknown(head: &[u8]) -> Fault {
    Fault::input(format!(
        "it is no image that hearth knows{}",
        other_format(head)
    ))
    .remedy("hearth knows uImages, and images of type omapimage, gpimage and sunxi_egon")
}

/// Names a well-known format, since the file is more likely the wrong one than a broken one.
fn other_format(head: &[u8]) -> &'static str {
    let formats: [(usize, &[u8], &str); 10] = [
        (
            0,
            &[0xd0, 0x0d, 0xfe, 0xed],
            ", but a device tree or a FIT image",
        ),
        (0, &[0x1f, 0x8b], ", but data compressed with gzip"),
        (
            0,
            &[0x28, 0xb5, 0x2f, 0xfd],
            ", but data compressed with zstd",
        ),
        (0, b"\xfd7zXZ\0", ", but data compressed with xz"),
        (0, b"\x7fELF", ", but an ELF file"),
        (0, b"070701", ", but a cpio archive"),
        (0x24, &[0x18, 0x28, 0x6f, 0x01], ", but a zImage"),
        (0x38, b"ARM\x64", ", but a kernel Image for arm64"),
        (0x38, b"RSC\x05", ", but a kernel Image for RISC-V"),
        (0, b"MZ", ", but an EFI program"),
    ];
    formats
        .iter()
        .find(|(at, magic, _)| head.get(*at..at + magic.len()) == Some(*magic))
        .map_or("", |(_, _, name)| *name)
}
