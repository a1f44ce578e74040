//! Owns inspecting an image: type, content, damage. Reads it once, also from a pipe, and never
//! holds more of it in memory than a buffer, the table of its files, and a script's text.

mod bootrom;
mod legacy;
mod report;
mod source;

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::error::Fault;
use crate::output::AtomicFile;

use super::bootrom::{egon, gp, omap};
use super::uimage;
use report::unknown;
pub use report::{Extract, ImageHeader, Part, Report};
use source::Source;

/// The largest image accepted as a GP one, which has no magic number: far above the size of a
/// chip's internal memory.
const MAX_GP: u32 = 16 << 20;
/// Bytes needed to recognise an image: the size of the longest header.
const HEAD_LEN: u64 = omap::HEADER_LEN as u64;

/// Reads an image and describes it. `length` is the file's, if known; a pipe's is not. Data after
/// the image is never read, so that an endless pipe ends.
///
/// ```
/// use hearth::uboot::read::{ImageHeader, inspect};
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
/// A [`Fault`] without the file's name, which the caller adds, if this is no known image or lacks
/// the requested file; an [`io::Error`] of reading, or of writing the requested file. Damage is no
/// error, but in the report's problems.
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
        return bootrom::read_egon(source(head), extract);
    }
    if let Some(byteswapped) = omap::recognise(&head) {
        return bootrom::read_omap(source(head), byteswapped, extract);
    }
    if is_gp(&head, length) {
        return bootrom::read_gp(source(head), extract);
    }
    Err(unknown(&head).into())
}

/// Writes one file of the image to `output`, if the image is intact; else nothing. `name` is the
/// image's name in messages.
///
/// # Errors
/// As [`inspect`], with the name; and if the image is damaged, a [`Fault`] that lists all problems.
pub fn extract(
    name: &str,
    input: impl Read,
    length: Option<u64>,
    part: Option<usize>,
    output: &Path,
) -> Result<Report> {
    let mut out = TrackedFile {
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

/// Records whether writing failed, which an [`io::Error`] alone does not say.
struct TrackedFile {
    file: AtomicFile,
    failed: bool,
}

impl Write for TrackedFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data).inspect_err(|_| self.failed = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().inspect_err(|_| self.failed = true)
    }
}

/// A GP header is recognised by its size alone, which must match the file's, if known.
fn is_gp(head: &[u8], length: Option<u64>) -> bool {
    let Some(header) = head.first_chunk().map(gp::Header::decode) else {
        return false;
    };
    let whole = u64::from(header.size) + gp::HEADER_LEN as u64;
    header.load > 0
        && (1..=MAX_GP).contains(&header.size)
        && length.is_none_or(|length| length == whole)
}
