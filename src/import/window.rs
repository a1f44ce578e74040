//! Owns looking at a part of an input as if it were all of it, and reading an input in order. Never interprets it.

use std::io::{self, Read, Seek, SeekFrom};

use crate::image::reader::ReadAt;

/// A part of an input, such as a partition of a disk.
pub struct Window<I> {
    pub input: I,
    /// In bytes.
    pub start: u64,
    pub length: u64,
}

impl<I: ReadAt> ReadAt for Window<I> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset);
        let length = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        self.input
            .read_at(&mut buffer[..length], self.start + offset)
    }

    fn length(&self) -> io::Result<u64> {
        let left = self.input.length()?.saturating_sub(self.start);
        Ok(left.min(self.length))
    }
}

impl<I: ReadAt + ?Sized> ReadAt for std::sync::Arc<I> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }
}

/// Reads an input from a position of its own on.
pub struct Cursor<I> {
    input: I,
    position: u64,
}

impl<I: ReadAt> Cursor<I> {
    pub fn new(input: I) -> Self {
        Cursor { input, position: 0 }
    }
}

impl<I: ReadAt> Read for Cursor<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl<I: ReadAt> Seek for Cursor<I> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.input.length()?, by),
        };
        self.position = base
            .checked_add_signed(by)
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
