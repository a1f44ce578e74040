//! Owns bounds on what is read out of compressed files, so that a small file can fill neither memory nor disk.
//! Never decides what is done with the data.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use anyhow::{Result, bail};

/// Of a tar stream, between two entries: padding, long names and pax headers, which are held in memory.
const BETWEEN_ENTRIES: u64 = 1 << 20;
/// No package has nearly as many files.
const MOST_ENTRIES: u64 = 1_000_000;

/// Fails beyond a number of bytes, where `Take` would report the end of the stream.
pub struct Limited<R> {
    inner: R,
    left: u64,
    what: String,
}

impl<R> Limited<R> {
    /// `what` tells what is wrong with a stream that goes on after `limit` bytes.
    pub fn new(inner: R, limit: u64, what: impl Into<String>) -> Self {
        Limited {
            inner,
            left: limit,
            what: what.into(),
        }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, self.what.as_str()))?;
        Ok(read)
    }
}

/// What a tar stream may bring until its next entry.
pub struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has a name or header of over {BETWEEN_ENTRIES} bytes"),
            )
        })?;
        self.left.set(left);
        Ok(read)
    }
}

/// Hands on the entries of a tar stream, in their order. Names and headers are bounded, which the `tar` crate would read into
/// memory whatever their length; the content of an entry is for `each` to bound.
///
/// # Errors
/// The first of `each`; if the stream is damaged or has unreasonably many entries or long headers.
pub fn each_entry<R: Read>(
    stream: R,
    mut each: impl FnMut(&mut tar::Entry<'_, Metered<R>>) -> Result<()>,
) -> Result<()> {
    let left = Rc::new(Cell::new(BETWEEN_ENTRIES));
    let mut archive = tar::Archive::new(Metered {
        inner: stream,
        left: left.clone(),
    });
    for (entry, number) in archive.entries()?.zip(0..) {
        if number >= MOST_ENTRIES {
            bail!("it has over {MOST_ENTRIES} files");
        }
        let mut entry = entry?;
        left.set(entry.size().saturating_add(BETWEEN_ENTRIES));
        each(&mut entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(longest_name: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, size) in [
            ("short".to_string(), 3 << 20),
            ("x".repeat(longest_name), 5),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, io::repeat(7).take(size))
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn names_are_bounded_and_contents_are_not() {
        let mut sizes = Vec::new();
        let mut read = |stream: &[u8]| {
            sizes.clear();
            each_entry(stream, |entry| {
                // The first one is left unread.
                if entry.size() < 10 {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                }
                sizes.push(entry.size());
                Ok(())
            })
        };
        read(&archive(4000)).unwrap();
        let error = read(&archive(2 << 20)).unwrap_err();
        assert!(format!("{error:#}").contains("name or header"), "{error:#}");
        assert_eq!(sizes, [3 << 20]);
    }
}
