//! Owns taking packed data apart by what it begins with, bounded. Never looks at what is in it.

use std::io::{self, Read};

use anyhow::{Context, Result, ensure};
use liblzma::stream::Stream;
use memchr::memmem;

/// Memory that one xz or lzma stream may take, in bytes.
const MEMORY: u64 = 256 << 20;
/// How many places of one magic number are tried: the bytes come by chance too.
const MOST_TRIES: usize = 64;

/// How data is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lzma,
    Lz4,
}

const MAGICS: [(Packing, &[u8]); 5] = [
    (Packing::Gzip, b"\x1f\x8b\x08"),
    (Packing::Xz, b"\xfd7zXZ\0"),
    (Packing::Zstd, b"\x28\xb5\x2f\xfd"),
    (Packing::Lzma, b"\x5d\0\0"),
    // The legacy frame, which the kernel's build makes.
    (Packing::Lz4, b"\x02\x21\x4c\x18"),
];

impl Packing {
    /// By the first bytes.
    pub fn of(data: &[u8]) -> Option<Self> {
        let mut magics = MAGICS.iter();
        let found = magics.find(|(_, magic)| data.starts_with(magic));
        found.map(|(packing, _)| *packing)
    }

    /// A reader of what is packed in `data`.
    ///
    /// # Errors
    /// If the decoder cannot be made.
    pub fn reader<'a>(self, data: impl io::BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Packing::Gzip => Box::new(flate2::bufread::GzDecoder::new(data)),
            Packing::Xz => {
                let stream = Stream::new_stream_decoder(MEMORY, 0)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(data, stream))
            }
            Packing::Lzma => {
                let stream = Stream::new_lzma_decoder(MEMORY)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(data, stream))
            }
            Packing::Zstd => Box::new(zstd::Decoder::with_buffer(data)?.single_frame()),
            Packing::Lz4 => Box::new(Lz4::new(data)),
        })
    }
}

/// Everything that is packed in `data`.
///
/// # Errors
/// If it is damaged or truncated, or more than `limit` bytes.
pub fn all(packing: Packing, data: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let reader = packing.reader(data)?;
    reader.take(limit + 1).read_to_end(&mut plain)?;
    ensure!(plain.len() as u64 <= limit, "over {limit} bytes");
    Ok(plain)
}

/// What is packed somewhere inside `data`, as a kernel is inside a program that unpacks it: the first that `is_meant`
/// accepts. Trailing bytes after the packed data do no harm.
pub fn inside(data: &[u8], limit: u64, is_meant: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    MAGICS.iter().find_map(|(packing, magic)| {
        let places = memmem::find_iter(data, magic).take(MOST_TRIES);
        places.into_iter().find_map(|at| {
            let mut plain = Vec::new();
            let reader = packing.reader(&data[at..]).ok()?;
            // What was unpacked before an error may be all there is: the length of the unpacked kernel follows it.
            let _ = reader.take(limit).read_to_end(&mut plain);
            is_meant(&plain).then_some(plain)
        })
    })
}

/// Reads LZ4's legacy frame: blocks of 8 MiB, each after its packed length (LZ4's doc/lz4_Frame_format.md).
struct Lz4<R> {
    inner: R,
    begun: bool,
    block: io::Cursor<Vec<u8>>,
}

/// The size of an unpacked block.
const LZ4_BLOCK: usize = 8 << 20;

impl<R: Read> Lz4<R> {
    fn new(inner: R) -> Self {
        Lz4 {
            inner,
            begun: false,
            block: io::Cursor::default(),
        }
    }

    /// Reads the next block; there is none at the end, or where something else follows.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut word = [0; 4];
        if !self.begun {
            self.inner.read_exact(&mut word)?;
            self.begun = true;
        }
        if self.inner.read_exact(&mut word).is_err() {
            return Ok(false);
        }
        let length = u32::from_le_bytes(word) as usize;
        if length == 0 || length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Ok(false);
        }
        let mut packed = vec![0; length];
        // The unpacked size follows the last block.
        if self.inner.read_exact(&mut packed).is_err() {
            return Ok(false);
        }
        let plain = lz4_flex::block::decompress(&packed, LZ4_BLOCK)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.block = io::Cursor::new(plain);
        Ok(true)
    }
}

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.block.read(buffer)?;
            if read > 0 || buffer.is_empty() || !self.next_block()? {
                return Ok(read);
            }
        }
    }
}

/// A file, unpacked if it is packed.
///
/// # Errors
/// If it cannot be read.
pub fn file(mut reader: impl io::BufRead + 'static) -> Result<Box<dyn Read>> {
    let head = reader.fill_buf().context("cannot read it")?;
    match Packing::of(head) {
        // Three bytes that any file may begin with.
        None | Some(Packing::Lzma) => Ok(Box::new(reader)),
        Some(packing) => packing.reader(reader),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_other_programs_have_packed_is_unpacked() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plain");
        std::fs::write(&path, &plain).unwrap();
        for (program, arguments) in [
            ("gzip", vec!["-c"]),
            ("xz", vec!["-c"]),
            ("xz", vec!["-c", "--format=lzma"]),
            ("zstd", vec!["-qc"]),
            ("lz4", vec!["-lqc"]),
        ] {
            let packed =
                common::succeed(common::oracle(program).args(&arguments).arg(&path)).stdout;
            let packing = Packing::of(&packed).unwrap();
            assert_eq!(all(packing, &packed, 1 << 20).unwrap(), plain, "{program}");
            assert!(all(packing, &packed, 1000).is_err(), "{program}: too much");
            let mut around = b"a program \x1f\x8b\x08 that unpacks".to_vec();
            around.extend(&packed);
            around.write_all(&400_000_u32.to_le_bytes()).unwrap();
            let found = inside(&around, 1 << 20, |found| found.starts_with(&plain[..100]));
            assert_eq!(found.as_deref(), Some(&plain[..]), "{program}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let packed = zstd::encode_all(&vec![7; 100_000][..], 1).unwrap();
        assert!(all(Packing::Zstd, &packed[..packed.len() / 2], 1 << 20).is_err());
        assert!(all(Packing::Gzip, b"\x1f\x8b\x08", 100).is_err());
    }
}
