//! Owns looking into an image: what it is, what it holds, what is wrong with it. Reads it once, from a pipe too, and
//! never holds more of it than a piece, the table of its files, and a script's text.

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
pub use report::{Extract, Image, Part, Report};
use source::Source;

/// The largest image taken for a GP one, which has no magic: far above what a chip's own memory holds.
const MAX_GP: u32 = 16 << 20;
/// Bytes read to recognise an image: the longest header.
const HEAD_LEN: u64 = omap::HEADER_LEN as u64;

/// Reads an image and tells what it is. `length` is that of the file, if it is known; a pipe's is not.
/// What lies behind the image is never read, so that an endless pipe ends.
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
