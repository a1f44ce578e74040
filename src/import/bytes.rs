//! Owns reading files whose bytes lie in one input: a tar, or what a cpio was unpacked to. Never interprets them.

use std::io::{self, Read};

use anyhow::Result;

use super::tree::Content;
use super::write::Source;
use crate::image::reader::{Piece, ReadAt};

/// An input with the bytes of files in it.
pub struct Bytes<'a>(pub &'a (dyn ReadAt + 'a));

impl Source for Bytes<'_> {
    fn open<'a>(
        &'a self,
        _path: &[u8],
        content: &'a Content,
        size: u64,
    ) -> Result<Box<dyn Read + 'a>> {
        open(self.0, content, size)
    }
}

/// The content of a file whose bytes lie in `input`.
///
/// # Errors
/// If they do not.
pub fn open<'a>(input: &'a dyn ReadAt, content: &Content, size: u64) -> Result<Box<dyn Read + 'a>> {
    let pieces = match content {
        Content::At(stored) => vec![Piece {
            at: 0,
            stored: *stored,
            length: size,
        }],
        Content::Pieces(pieces) => pieces.to_vec(),
        Content::Number(_) | Content::ByPath => anyhow::bail!("it has no bytes here"),
    };
    Ok(Box::new(Pieces {
        input,
        pieces: pieces.into_iter(),
        piece: None,
        at: 0,
        size,
    }))
}

/// The bytes of a file whose map has holes.
struct Pieces<'a> {
    input: &'a (dyn ReadAt + 'a),
    pieces: std::vec::IntoIter<Piece>,
    piece: Option<Piece>,
    at: u64,
    size: u64,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self
            .piece
            .is_none_or(|piece| piece.at + piece.length <= self.at)
        {
            self.piece = self.pieces.next();
        }
        let most = |length: u64| {
            usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(buffer.len())
        };
        let length = match self.piece {
            Some(piece) if piece.at <= self.at => {
                let into = self.at - piece.at;
                let length = most(piece.length - into);
                self.input
                    .read_at(&mut buffer[..length], piece.stored + into)?
            }
            next => {
                let end = next.map_or(self.size, |piece| piece.at);
                let length = most(end - self.at);
                buffer[..length].fill(0);
                length
            }
        };
        self.at += length as u64;
        Ok(length)
    }
}
