//! Owns an input as it is without its compression: what is compressed is unpacked into a file without a name.
//! Never knows what is in it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use liblzma::stream::{CONCATENATED, Stream};

use super::format::{BEGINNING, Compression, Format};
use super::window::Cursor;
use crate::error::Fault;
use crate::image::reader::ReadAt;

/// Read at once, in bytes.
const CHUNK: usize = 1 << 18;
/// How much memory liblzma may take, in bytes: the most that `xz -9` needs is 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// An input without its compression.
pub struct Unpacked {
    pub file: File,
    pub format: Option<Format>,
    pub compression: Option<Compression>,
}

/// Finds out what a file is. Where it is compressed, it is unpacked into the directory `work`, except for a cpio, whose
/// reader does that: an initramfs may be several archives, each compressed in its own way.
///
/// # Errors
/// If its compression cannot be read, it is cut short, or the disk is full.
pub fn unpack(file: File, work: &Path) -> Result<Unpacked> {
    let mut beginning = vec![0; BEGINNING];
    let length = read_up_to(&mut Cursor::new(&file), &mut beginning)?;
    beginning.truncate(length);
    let Some(compression) = Compression::of(&beginning) else {
        return Ok(Unpacked {
            format: Format::of(&beginning),
            compression: None,
            file,
        });
    };
    if let Compression::Other(name) = compression {
        return Err(Fault::input(format!("it is compressed with {name}"))
            .remedy("decompress it, or compress it with gzip, xz or zstd")
            .into());
    }
    let input = BufReader::with_capacity(CHUNK, Cursor::new(&file));
    let mut decoder = decoder(compression, input)?;
    let mut beginning = vec![0; BEGINNING];
    let cut_short = || format!("its {compression} data is damaged or cut short");
    let length = read_up_to(&mut decoder, &mut beginning).with_context(cut_short)?;
    beginning.truncate(length);
    let format = Format::of(&beginning);
    let unpacked = match format {
        Some(Format::Cpio) => {
            drop(decoder);
            file
        }
        None | Some(Format::Other(_)) => {
            drop(decoder);
            file
        }
        _ => {
            let mut out = Spool::new(work)?;
            out.add(&beginning)?;
            loop {
                let part = decoder.fill_buf().with_context(cut_short)?;
                if part.is_empty() {
                    break;
                }
                let length = part.len();
                out.add(part)?;
                decoder.consume(length);
            }
            drop(decoder);
            out.finish()?
        }
    };
    Ok(Unpacked {
        file: unpacked,
        format,
        compression: Some(compression),
    })
}

fn decoder<'a, R: BufRead + 'a>(
    compression: Compression,
    input: R,
) -> Result<BufReader<Box<dyn Read + 'a>>> {
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
        Compression::Xz => {
            // Not in threads: those only read files of one stream.
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
                .context("cannot decompress xz")?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Other(name) => bail!("it is compressed with {name}"),
    };
    Ok(BufReader::with_capacity(CHUNK, inner))
}

fn read_up_to(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// A file without a name, which is gone when it is closed. Zeros take no place in it.
pub struct Spool {
    file: File,
    length: u64,
}

impl Spool {
    /// # Errors
    /// If the directory cannot be written to.
    pub fn new(directory: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(directory)
            .with_context(|| format!("cannot write in {}", directory.display()))?;
        Ok(Spool { file, length: 0 })
    }

    /// Where the next byte will be.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// # Errors
    /// If the disk is full.
    pub fn add(&mut self, data: &[u8]) -> Result<()> {
        let written = match data.iter().all(|&byte| byte == 0) {
            true => self
                .file
                .seek(SeekFrom::Current(data.len() as i64))
                .map(drop),
            false => self.file.write_all(data),
        };
        written.context("cannot unpack it into the cache")?;
        self.length += data.len() as u64;
        Ok(())
    }

    /// # Errors
    /// If the disk is full.
    pub fn finish(self) -> Result<File> {
        self.file
            .set_len(self.length)
            .context("cannot unpack it into the cache")?;
        Ok(self.file)
    }
}

impl ReadAt for &File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_at(*self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }
}
