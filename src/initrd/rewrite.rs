//! Owns rewriting an initrd so that it depends on its content alone: no times, owners or inodes of
//! the file system it came from, and the requested compression. Never changes its content.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};

use anyhow::{Context, Result};
use cpio::newc;

use super::compress::Encoder;
use super::read::{CpioEntry, read};
use crate::recipe::Compression;

/// Archives are padded to a multiple of this size, as by GNU cpio.
const BLOCK: u64 = 512;

/// Reads the initrd that `open` opens, several times, and writes it to `out`: the same archives
/// with the same names in the same order. Uncompressed archives before the last stay uncompressed
/// (they contain compressed files, or what the kernel needs early); all others get the requested
/// compression.
///
/// # Errors
/// As [`read`], and if `out` cannot be written.
pub fn rewrite<R: BufRead>(
    open: &dyn Fn() -> Result<R>,
    compression: Compression,
    out: &mut dyn Write,
) -> Result<()> {
    let archives = read(open()?, &mut |_, _| Ok(()))?;
    let last = archives.len() - 1;
    let mut out = Counted {
        inner: out,
        written: 0,
    };
    for (number, archive) in archives.iter().enumerate() {
        let stays = archive.compression == "none" && number < last;
        let compression = if stays {
            Compression::None
        } else {
            compression
        };
        let mut encoder = Encoder::new(&mut out, compression)?;
        write_archive(open()?, number, &mut encoder)?;
        encoder.finish()?;
        if number < last {
            out.pad()?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Writes one archive of an initrd, uncompressed.
fn write_archive(input: impl BufRead, number: usize, out: &mut dyn Write) -> Result<()> {
    let mut out = Counted {
        inner: out,
        written: 0,
    };
    let mut inodes = HashMap::new();
    read(input, &mut |entry, content| {
        if entry.archive != number {
            return Ok(());
        }
        let next = u32::try_from(inodes.len())? + 1;
        let inode = *inodes.entry(entry.inode).or_insert(next);
        write_entry(entry, inode, content, &mut out).with_context(|| format!("`{}`", entry.path))
    })?;
    newc::trailer(&mut out)?;
    out.pad()?;
    Ok(())
}

fn write_entry(
    entry: &CpioEntry,
    inode: u32,
    content: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<()> {
    let name = if entry.path.is_empty() {
        "."
    } else {
        &entry.path
    };
    let mut writer = newc::Builder::new(name)
        .mode(entry.mode)
        .uid(0)
        .gid(0)
        .mtime(0)
        .ino(inode)
        .nlink(entry.links)
        .rdev_major(entry.device.0)
        .rdev_minor(entry.device.1)
        .write(out, entry.size);
    io::copy(content, &mut writer)?;
    writer.finish()?;
    Ok(())
}

struct Counted<'a> {
    inner: &'a mut dyn Write,
    written: u64,
}

impl Counted<'_> {
    /// Pads with zeros to a whole block; the kernel skips them.
    fn pad(&mut self) -> io::Result<()> {
        let more = self.written.next_multiple_of(BLOCK) - self.written;
        io::copy(&mut io::repeat(0).take(more), self)?;
        Ok(())
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Member = (&'static str, u32, u32, u32, &'static [u8]);

    /// Names, modes, inodes, times and contents of an archive.
    fn archive(members: &[Member]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, mode, inode, time, data) in members {
            let builder = newc::Builder::new(name).mode(*mode).ino(*inode);
            let mut writer = builder.mtime(*time).nlink(2).write(out, data.len() as u32);
            writer.write_all(data).unwrap();
            out = writer.finish().unwrap();
        }
        newc::trailer(out).unwrap()
    }

    fn initrd(inode: u32, time: u32) -> Vec<u8> {
        let mut whole = archive(&[("kernel", 0o040_755, inode, time, b"")]);
        whole.resize(whole.len().next_multiple_of(512), 0);
        let late = archive(&[
            (".", 0o040_755, inode + 9, time, b""),
            ("a", 0o100_755, inode + 5, time + 1, b""),
            ("b", 0o100_755, inode + 5, time + 1, b"data"),
            ("link", 0o120_777, inode + 2, time, b"a"),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(whole, flate2::Compression::fast());
        gzip.write_all(&late).unwrap();
        gzip.finish().unwrap()
    }

    fn rewritten(initrd: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        rewrite(&|| Ok(initrd), compression, &mut out).unwrap();
        out
    }

    #[test]
    fn times_and_inodes_leave_no_trace() {
        let one = rewritten(&initrd(7, 1_000), Compression::Gzip);
        let two = rewritten(&initrd(70_000, 2_000), Compression::Gzip);
        assert!(one == two);
        assert!(one == rewritten(&one, Compression::Gzip));
    }

    #[test]
    fn archives_keep_their_order_and_their_links() {
        for (compression, name) in [
            (Compression::Gzip, "gzip"),
            (Compression::Zstd, "zstd"),
            (Compression::None, "none"),
        ] {
            let mut seen = Vec::new();
            let archives = read(
                &*rewritten(&initrd(7, 1), compression),
                &mut |entry, content| {
                    let mut text = String::new();
                    content.read_to_string(&mut text)?;
                    seen.push(format!(
                        "{} {} {} {text}",
                        entry.archive, entry.path, entry.inode.2
                    ));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(
                seen,
                ["0 kernel 1 ", "1  1 ", "1 a 2 ", "1 b 2 data", "1 link 3 a"]
            );
            let compressions: Vec<_> = archives.iter().map(|archive| archive.compression).collect();
            assert_eq!(compressions, ["none", name]);
        }
    }
}
