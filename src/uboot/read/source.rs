//! Owns the position in a file that is read once. Never reads further than requested.

use std::io::{self, BufRead, BufReader, Read};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

pub struct Source<R> {
    input: BufReader<R>,
    length: Option<u64>,
    /// Bytes read so far.
    pub position: u64,
}

impl<R: Read> Source<R> {
    pub fn new(input: R, length: Option<u64>) -> Self {
        Source {
            input: BufReader::with_capacity(PIECE, input),
            length,
            position: 0,
        }
    }

    /// Reads and forwards the next `count` bytes, or fewer if the file ends, and returns their
    /// number.
    pub fn pass(
        &mut self,
        count: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut left = count;
        while left > 0 {
            let piece = match self.input.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                break;
            }
            let len = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            each(&piece[..len])?;
            self.input.consume(len);
            left -= len as u64;
            self.position += len as u64;
        }
        Ok(count - left)
    }

    /// The next `N` bytes, or `None` if the file ends before.
    pub fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        let mut filled = 0;
        self.pass(N as u64, |piece| {
            bytes[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
            Ok(())
        })?;
        Ok((filled == N).then_some(bytes))
    }

    /// Whether the rest is padding. Reads a file of known length to its end, and nothing of a pipe.
    pub fn rest_is_padding(&mut self) -> io::Result<bool> {
        let Some(length) = self.length else {
            return Ok(false);
        };
        let (mut zeroes, mut ones) = (true, true);
        while (zeroes || ones) && self.position < length {
            let passed = self.pass((PIECE as u64).min(length - self.position), |piece| {
                zeroes &= piece.iter().all(|byte| *byte == 0);
                ones &= piece.iter().all(|byte| *byte == 0xff);
                Ok(())
            })?;
            if passed == 0 {
                break;
            }
        }
        Ok(zeroes || ones)
    }

    /// The size of the rest, in words for a message; `None` if there is none.
    pub fn rest(&mut self) -> io::Result<Option<String>> {
        if let Some(length) = self.length {
            let rest = length.saturating_sub(self.position);
            return Ok((rest > 0).then(|| format!("{rest} bytes")));
        }
        let mut more = [0];
        let read = self.input.read(&mut more)?;
        Ok((read > 0).then(|| "more data".to_string()))
    }
}
