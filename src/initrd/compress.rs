//! Owns compression and decompression of whole initrds. Never reads their content.

use std::io::{self, Write};

use anyhow::Result;

use crate::recipe::Compression;

/// Levels of gzip and zstd: higher ones take much longer and hardly compress modules and programs
/// better.
const GZIP_LEVEL: u32 = 9;
const ZSTD_LEVEL: i32 = 15;

/// A compressing writer.
pub enum Encoder<W: Write> {
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
    None(W),
}

impl<W: Write> Encoder<W> {
    pub fn new(out: W, compression: Compression) -> Result<Self> {
        Ok(match compression {
            // The header gets neither time nor name.
            Compression::Gzip => Encoder::Gzip(
                flate2::GzBuilder::new().write(out, flate2::Compression::new(GZIP_LEVEL)),
            ),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
            Compression::None => Encoder::None(out),
        })
    }

    pub fn finish(self) -> Result<()> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish()?.flush()?,
            Encoder::Zstd(encoder) => encoder.finish()?.flush()?,
            Encoder::None(mut out) => out.flush()?,
        }
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Gzip(encoder) => encoder.write(data),
            Encoder::Zstd(encoder) => encoder.write(data),
            Encoder::None(out) => out.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
            Encoder::None(out) => out.flush(),
        }
    }
}
