//! Owns reading any initrd: concatenated cpio archives (newc), plain or compressed, as the kernel
//! unpacks them.
//! Never writes anything.
//!
//! Documentation/driver-api/early-userspace/buffer-format.rst: archives follow each other, padded
//! with zeros; Debian puts an uncompressed one with microcode or early files first.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// One of the archives in an initrd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// `none`, `gzip`, `zstd`, `xz` or `lz4`.
    pub compression: &'static str,
    /// The number of names, and the size of all files together in bytes.
    pub entries: u64,
    pub bytes: u64,
}

/// The header of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpioEntry {
    /// Index of its archive, from 0.
    pub archive: usize,
    /// The name, without leading `/` and `./`; empty for the root. What is no UTF-8 is replaced.
    pub path: String,
    /// The name as it is in the archive.
    pub name: Vec<u8>,
    /// Type and permissions, as in `stat(2)`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Bytes of a file or of a link's target.
    pub size: u32,
    /// Equal for all names of a hard-linked file.
    pub inode: (u32, u32, u32),
    pub links: u32,
    pub device: (u32, u32),
}

/// The file type, from the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    File,
    Directory,
    Symlink,
    /// Device, FIFO or socket.
    Special,
}

impl CpioEntry {
    pub fn file_type(&self) -> FileType {
        match self.mode & 0o170_000 {
            0o100_000 => FileType::File,
            0o040_000 => FileType::Directory,
            0o120_000 => FileType::Symlink,
            _ => FileType::Special,
        }
    }
}

/// Called for each entry, with its content.
pub type Visitor<'a> = dyn FnMut(&CpioEntry, &mut dyn Read) -> Result<()> + 'a;

/// PATH_MAX: the kernel skips longer names.
const MAX_NAME: u32 = 4096;
/// Limit on the unpacked size in bytes, against decompression bombs.
const MAX_UNPACKED: u64 = 8 << 30;
const HEADER: usize = 110;
/// Where the length of the name is among the numbers of a header.
const NAME_SIZE: usize = 11;
const TRAILER: &[u8] = b"TRAILER!!!";

/// Reads a whole initrd and calls `visit` for each entry.
///
/// # Errors
/// If it is truncated, damaged, or in an unknown compression format; and errors of `visit`.
pub fn read(mut input: impl BufRead, visit: &mut Visitor<'_>) -> Result<Vec<Archive>> {
    let mut reading = Reading {
        archives: Vec::new(),
        visit,
    };
    reading.row(&mut input, None)?;
    ensure!(!reading.archives.is_empty(), "empty");
    Ok(reading.archives)
}

struct Reading<'v, 'f> {
    archives: Vec<Archive>,
    visit: &'v mut Visitor<'f>,
}

impl Reading<'_, '_> {
    /// Reads archives up to the end of `input`; `inside` is the compression of the whole input.
    fn row(&mut self, input: &mut dyn BufRead, inside: Option<&'static str>) -> Result<()> {
        while !skip_zeros(input)? {
            let mut start = [0; 6];
            let length = read_up_to(input, &mut start)?;
            let magic = &start[..length];
            if matches!(magic, b"070701" | b"070702") {
                let mut whole = magic.chain(&mut *input);
                self.archive(&mut whole, inside.unwrap_or("none"))?;
                continue;
            }
            let name = compression_of(magic)?;
            ensure!(inside.is_none(), "compressed twice ({name})");
            let whole = magic.chain(&mut *input);
            let decoder: Box<dyn Read + '_> = match name {
                "gzip" => Box::new(flate2::bufread::GzDecoder::new(whole)),
                "zstd" => Box::new(zstd::Decoder::with_buffer(whole)?.single_frame()),
                "xz" => Box::new(liblzma::bufread::XzDecoder::new(whole)),
                _ => Box::new(Lz4::new(whole)),
            };
            self.row(&mut BufReader::new(decoder.take(MAX_UNPACKED)), Some(name))?;
        }
        Ok(())
    }

    /// Reads one archive, up to its trailer.
    fn archive(&mut self, input: &mut dyn BufRead, compression: &'static str) -> Result<()> {
        let number = self.archives.len();
        self.archives.push(Archive {
            compression,
            entries: 0,
            bytes: 0,
        });
        let mut last = String::from("the start");
        loop {
            let cut_short = || format!("damaged or cut short after `{last}`");
            let mut header = [0; HEADER];
            input.read_exact(&mut header).with_context(cut_short)?;
            let fields = fields(&header).with_context(cut_short)?;
            let length = fields[NAME_SIZE];
            ensure!(
                length <= MAX_NAME,
                "a name of {length} bytes after `{last}`"
            );
            let mut name = vec![0; length as usize];
            input.read_exact(&mut name).with_context(cut_short)?;
            skip_padding(input, HEADER as u64 + u64::from(length)).with_context(cut_short)?;
            ensure!(name.pop() == Some(0), "{}", cut_short());
            let entry = entry_of(&fields, name, number);
            let mut content = Counted {
                inner: input.take(u64::from(entry.size)),
                read: 0,
            };
            if entry.name == TRAILER {
                io::copy(&mut content, &mut io::sink())?;
                return Ok(());
            }
            (self.visit)(&entry, &mut content)?;
            io::copy(&mut content, &mut io::sink())?;
            if content.read != u64::from(entry.size) {
                bail!("cut short inside `{}`", entry.path);
            }
            skip_padding(input, u64::from(entry.size)).with_context(cut_short)?;
            let archive = &mut self.archives[number];
            archive.entries += 1;
            if entry.file_type() == FileType::File {
                archive.bytes += u64::from(entry.size);
            }
            last = entry.path;
        }
    }
}

/// The numbers of a header after its magic number, in hexadecimal: inode, mode, uid, gid, links, time, size, major and minor
/// number of its disk and of a device, length of the name, checksum.
fn fields(header: &[u8; HEADER]) -> Result<[u32; 13]> {
    ensure!(
        matches!(&header[..6], b"070701" | b"070702"),
        "no header of a cpio archive"
    );
    let mut fields = [0; 13];
    for (field, text) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
        let text = std::str::from_utf8(text).unwrap_or_default();
        *field = u32::from_str_radix(text, 16).context("no hexadecimal number")?;
    }
    Ok(fields)
}

fn entry_of(fields: &[u32; 13], name: Vec<u8>, archive: usize) -> CpioEntry {
    let path = String::from_utf8_lossy(&name);
    let path = path.trim_start_matches('/');
    let path = path.strip_prefix("./").unwrap_or(path);
    CpioEntry {
        archive,
        path: if path == "." { "" } else { path }.to_string(),
        mode: fields[1],
        uid: fields[2],
        gid: fields[3],
        links: fields[4],
        mtime: fields[5],
        size: fields[6],
        inode: (fields[7], fields[8], fields[0]),
        device: (fields[9], fields[10]),
        name,
    }
}

/// Skips what fills up four bytes.
fn skip_padding(input: &mut dyn Read, length: u64) -> io::Result<()> {
    let padding = (4 - length % 4) % 4;
    input.read_exact(&mut [0; 4][..padding as usize])
}

/// The compression format, by the magic number.
fn compression_of(magic: &[u8]) -> Result<&'static str> {
    Ok(match magic {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [b'B', b'Z', b'h', ..] => bail!("compressed with bzip2, which hearth cannot read"),
        [0x5d, 0, 0, ..] => bail!("compressed with lzma, which hearth cannot read"),
        [0x89, b'L', b'Z', b'O', ..] => bail!("compressed with lzo, which hearth cannot read"),
        [0x27, 0x05, 0x19, 0x56, ..] => {
            bail!("wrapped for U-Boot (a uImage): unwrap it with `hearth image extract`")
        }
        _ => bail!("neither a cpio archive nor compressed in a known way"),
    })
}

/// Skips padding; returns `true` at the end of the input.
fn skip_zeros(input: &mut dyn BufRead) -> Result<bool> {
    loop {
        let buffer = input.fill_buf().context("damaged or cut short")?;
        if buffer.is_empty() {
            return Ok(true);
        }
        let zeros = buffer.iter().take_while(|&&byte| byte == 0).count();
        let at_content = zeros < buffer.len();
        input.consume(zeros);
        if at_content {
            return Ok(false);
        }
    }
}

fn read_up_to(input: &mut dyn BufRead, buffer: &mut [u8]) -> Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]).context("cut short")? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}

/// The legacy format of lz4, which the kernel supports (lib/decompress_unlz4.c): a magic number,
/// then blocks of at most 8 MiB uncompressed, each preceded by its compressed length.
struct Lz4<R> {
    inner: R,
    block: Vec<u8>,
    at: usize,
    started: bool,
}

const LZ4_BLOCK: usize = 8 << 20;

impl<R: BufRead> Lz4<R> {
    fn new(inner: R) -> Self {
        Lz4 {
            inner,
            block: Vec::new(),
            at: 0,
            started: false,
        }
    }

    /// Decompresses the next block; returns `false` at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut word = [0; 4];
        if !self.started {
            self.inner.read_exact(&mut word)?;
            self.started = true;
        }
        if self.inner.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.inner.read_exact(&mut word)?;
        let length = u32::from_le_bytes(word) as usize;
        if length == 0 {
            return Ok(false);
        }
        if length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(io::Error::other("an lz4 block that is too long"));
        }
        let mut packed = vec![0; length];
        self.inner.read_exact(&mut packed)?;
        self.block.resize(LZ4_BLOCK, 0);
        let plain =
            lz4_flex::block::decompress_into(&packed, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(plain);
        self.at = 0;
        Ok(true)
    }
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.block.len() - self.at);
        buffer[..length].copy_from_slice(&self.block[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc;
    use std::io::Write;

    pub fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, mode, data) in files {
            let mut writer = newc::Builder::new(name)
                .mode(*mode)
                .write(out, data.len() as u32);
            writer.write_all(data).unwrap();
            out = writer.finish().unwrap();
        }
        newc::trailer(out).unwrap()
    }

    fn names(initrd: &[u8]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        read(initrd, &mut |entry, _| {
            names.push(format!("{}:{}", entry.archive, entry.path));
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn archives_in_a_row_are_all_read_whatever_their_compression() {
        let early = archive(&[
            ("kernel", 0o040_755, b""),
            ("kernel/x", 0o100_644, b"early"),
        ]);
        let late = archive(&[("./init", 0o100_755, b"#!/bin/sh\n")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&late).unwrap();
        let mut legacy = vec![0x02, 0x21, 0x4c, 0x18];
        let block = lz4_flex::block::compress(&late);
        legacy.extend((block.len() as u32).to_le_bytes());
        legacy.extend(block);
        for late in [
            gzip.finish().unwrap(),
            zstd::encode_all(&*late, 3).unwrap(),
            legacy,
            late,
        ] {
            let mut whole = early.clone();
            whole.extend([0; 512]);
            whole.extend(late);
            assert_eq!(names(&whole).unwrap(), ["0:kernel", "0:kernel/x", "1:init"]);
        }
    }

    #[test]
    fn whatever_is_cut_short_is_an_error() {
        let whole = archive(&[("a", 0o100_644, b"1234"), ("b", 0o100_644, b"12345")]);
        for length in 0..whole.len() - 4 {
            assert!(names(&whole[..length]).is_err(), "{length}");
        }
        let packed = zstd::encode_all(&*whole, 3).unwrap();
        for length in 0..packed.len() {
            assert!(names(&packed[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_huge_name_is_not_believed() {
        let mut whole = archive(&[("a", 0o100_644, b"")]);
        whole[94..102].copy_from_slice(b"ffffffff");
        assert!(names(&whole).unwrap_err().to_string().contains("a name of"));
    }

    proptest::proptest! {
        #[test]
        fn no_damage_panics(at in 0usize..400, byte: u8) {
            let mut whole = archive(&[("a", 0o100_644, b"1234"), ("b", 0o120_777, b"a")]);
            let length = whole.len();
            whole[at % length] = byte;
            // The trailer too may become a name.
            let read = names(&whole).unwrap_or_default();
            assert!(read.len() <= 3);
        }
    }
}
