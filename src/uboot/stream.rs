//! Owns reading data for images: opened and checked, then streamed. Never holds a whole file in
//! memory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::Result;

use crate::error::Fault;
use crate::output::AtomicFile;

/// Buffer size in bytes.
const PIECE: usize = 256 << 10;

pub use crate::input::stream as open;

/// Data to be wrapped, and its name in messages.
pub struct Input {
    pub name: String,
    pub data: Box<dyn Read>,
}

impl Input {
    /// Opens a file or a pipe.
    ///
    /// # Errors
    /// If it can't be opened, is a directory or an endless device, or has 4 GiB or more.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let name = path.display().to_string();
        let meta = fs::metadata(path)
            .map_err(|error| Fault::input(format!("cannot read {name}: {error}")))?;
        if meta.is_dir() {
            return Err(Fault::input(format!(
                "{name} is a directory, not a file of data"
            )));
        }
        if meta.file_type().is_char_device() {
            return Err(Fault::input(format!(
                "{name} is a device without an end, not a file of data"
            )));
        }
        // Checked before copying gigabytes; data from a pipe is counted as it is read.
        if meta.len() > u64::from(u32::MAX) {
            return Err(too_large(&name));
        }
        let file =
            open(path).map_err(|error| Fault::input(format!("cannot read {name}: {error}")))?;
        Ok(Input {
            name,
            data: Box::new(file),
        })
    }

    /// Reads until `piece` is full or the data ends; returns the number of bytes.
    pub(super) fn fill(&mut self, piece: &mut [u8]) -> Result<usize, Fault> {
        let mut filled = 0;
        while filled < piece.len() {
            match self.data.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Fault::input(format!("cannot read {}: {error}", self.name)));
                }
            }
        }
        Ok(filled)
    }

    /// Calls `each` with all data in pieces, and returns the number of bytes.
    ///
    /// # Errors
    /// A [`Fault`] if reading fails or the data is longer than `limit`; else errors of `each`.
    pub(super) fn copy(
        &mut self,
        limit: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64> {
        let mut piece = vec![0; PIECE];
        let mut total = 0;
        loop {
            let read = self.fill(&mut piece)?;
            total += read as u64;
            if total > limit {
                return Err(too_large(&self.name).into());
            }
            each(&piece[..read])?;
            if read < piece.len() {
                return Ok(total);
            }
        }
    }

    pub(super) fn empty(&self) -> Fault {
        Fault::input(format!(
            "{} is empty, and there is no image of nothing",
            self.name
        ))
        .remedy("-s makes a header without data")
    }
}

fn too_large(name: &str) -> Fault {
    Fault::input(format!(
        "{name} is too large: an image's header counts its bytes in 32 bits, which end at 4 GiB"
    ))
}

/// Writes a file whose header is known last: `build` may seek. The file is written atomically; to a
/// pipe it is copied when complete.
pub(super) fn create<T>(output: &Path, build: impl FnOnce(&mut &File) -> Result<T>) -> Result<T> {
    let mut out = AtomicFile::create(output)?;
    // A bare `io::Error` comes from writing; errors of reading are wrapped with the file's name.
    let built = fill(&mut out, build).map_err(|error| match error.downcast::<io::Error>() {
        Ok(error) => {
            anyhow::Error::new(error).context(format!("cannot write {}", output.display()))
        }
        Err(error) => error,
    })?;
    out.commit()?;
    Ok(built)
}

fn fill<T>(out: &mut AtomicFile, build: impl FnOnce(&mut &File) -> Result<T>) -> Result<T> {
    let mut file = out.file()?;
    if file.stream_position().is_ok() {
        return build(&mut file);
    }
    let mut whole = tempfile::tempfile()?;
    let built = build(&mut &whole)?;
    whole.rewind()?;
    io::copy(&mut whole, out)?;
    Ok(built)
}

/// Writes `header` into the space reserved at the beginning, and seeks back to the end.
pub(super) fn write_front(out: &mut (impl Write + Seek), header: &[u8]) -> io::Result<()> {
    out.seek(SeekFrom::Start(0))?;
    out.write_all(header)?;
    out.seek(SeekFrom::End(0))?;
    Ok(())
}

/// Swaps the bytes of each 32-bit word. A last, shorter word is written unchanged by
/// [`Swap::finish`].
pub(super) struct Swap<W> {
    out: W,
    rest: Vec<u8>,
}

impl<W: Write> Swap<W> {
    pub fn new(out: W) -> Self {
        Swap {
            out,
            rest: Vec::new(),
        }
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&self.rest)
    }
}

impl<W: Write> Write for Swap<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(data);
        let whole = self.rest.len() / 4 * 4;
        for word in self.rest[..whole].chunks_exact_mut(4) {
            word.reverse();
        }
        self.out.write_all(&self.rest[..whole])?;
        self.rest.drain(..whole);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapping_turns_words_around_however_they_arrive() {
        let mut out = Vec::new();
        let mut swap = Swap::new(&mut out);
        for piece in [&b"ab"[..], b"cdefg", b"", b"hij"] {
            swap.write_all(piece).unwrap();
        }
        swap.finish().unwrap();
        assert_eq!(out, b"dcbahgfeij");
    }
}
