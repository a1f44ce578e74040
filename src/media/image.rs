//! Owns an SD image as a list of mapped extents, and its sparse file.
//! Never stores what lies between the extents.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use super::layout::{Layout, SECTOR};
use crate::output::AtomicFile;

/// Block size of the map in bytes, as in `bmaptool`.
pub const BLOCK: u64 = 4096;

/// Data at an offset of the card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub data: Vec<u8>,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// A whole SD image: the content outside of the extents does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardImage {
    pub layout: Layout,
    /// Sorted and separate; each begins at a block boundary and is a multiple of a block long,
    /// except at the image's end.
    extents: Vec<Extent>,
}

impl CardImage {
    /// Extends the parts to whole blocks and merges adjacent ones. Parts do not overlap.
    pub(super) fn new(layout: Layout, mut parts: Vec<Extent>) -> Self {
        parts.retain(|part| !part.data.is_empty());
        parts.sort_by_key(|part| part.offset);
        let mut extents: Vec<Extent> = Vec::new();
        for part in parts {
            let start = part.offset - part.offset % BLOCK;
            let end = part.end().next_multiple_of(BLOCK).min(layout.size);
            match extents.last_mut() {
                Some(last) if last.end() >= start => {
                    let grown = last.data.len().max((end - last.offset) as usize);
                    last.data.resize(grown, 0);
                }
                _ => extents.push(Extent {
                    offset: start,
                    data: vec![0; (end - start) as usize],
                }),
            }
            if let Some(extent) = extents.last_mut() {
                let at = (part.offset - extent.offset) as usize;
                extent.data[at..at + part.data.len()].copy_from_slice(&part.data);
            }
        }
        CardImage { layout, extents }
    }

    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The number of bytes in extents.
    pub fn mapped(&self) -> u64 {
        self.extents
            .iter()
            .map(|extent| extent.data.len() as u64)
            .sum()
    }

    /// The content of one sector; zeros if it is not mapped.
    pub(super) fn sector(&self, number: u64) -> [u8; 512] {
        let mut sector = [0; 512];
        let offset = number * SECTOR;
        if let Some(extent) = self
            .extents
            .iter()
            .find(|extent| extent.offset <= offset && offset + 512 <= extent.end())
        {
            let at = (offset - extent.offset) as usize;
            sector.copy_from_slice(&extent.data[at..at + 512]);
        }
        sector
    }

    /// Writes the image as a sparse file, atomically. A pipe or another special file gets every
    /// byte.
    pub fn write_to(&self, mut output: AtomicFile) -> Result<()> {
        let sparse = output.file()?.metadata()?.is_file();
        if sparse {
            let file: &File = output.file()?;
            file.set_len(self.layout.size)
                .context("cannot size the image")?;
            for extent in &self.extents {
                file.write_all_at(&extent.data, extent.offset)
                    .context("cannot write the image")?;
            }
        } else {
            self.stream(&mut output).context("cannot write the image")?;
        }
        output.commit()
    }

    fn stream(&self, sink: &mut impl Write) -> std::io::Result<()> {
        let mut at = 0;
        for extent in &self.extents {
            std::io::copy(&mut zeros(extent.offset - at), sink)?;
            sink.write_all(&extent.data)?;
            at = extent.end();
        }
        std::io::copy(&mut zeros(self.layout.size - at), sink)?;
        Ok(())
    }
}

fn zeros(count: u64) -> impl std::io::Read {
    std::io::Read::take(std::io::repeat(0), count)
}

/// Reads `extent` back from `file` and reports the first byte that differs.
pub(super) fn first_difference(file: &mut File, extent: &Extent) -> std::io::Result<Option<u64>> {
    use std::io::Read;
    file.seek(SeekFrom::Start(extent.offset))?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < extent.data.len() {
        let want = buffer.len().min(extent.data.len() - at);
        file.read_exact(&mut buffer[..want])?;
        let expected = &extent.data[at..at + want];
        if let Some(wrong) = buffer[..want]
            .iter()
            .zip(expected)
            .position(|(a, b)| a != b)
        {
            return Ok(Some(extent.offset + (at + wrong) as u64));
        }
        at += want;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Table;

    fn image(size: u64, parts: &[(u64, usize)]) -> CardImage {
        let layout = Layout {
            table: Table::Mbr,
            fat: 0..0,
            test: None,
            size,
        };
        let parts = parts
            .iter()
            .map(|&(offset, length)| Extent {
                offset,
                data: vec![7; length],
            })
            .collect();
        CardImage::new(layout, parts)
    }

    #[test]
    fn extents_are_whole_blocks_joined_where_they_touch() {
        let image = image(
            65_536 + 512,
            &[(8192, 1), (0, 512), (9000, 5000), (65_536, 512)],
        );
        let ranges: Vec<_> = image
            .extents()
            .iter()
            .map(|e| (e.offset, e.end()))
            .collect();
        assert_eq!(ranges, [(0, 4096), (8192, 16384), (65_536, 66_048)]);
        assert_eq!(image.extents()[1].data[0], 7);
        assert_eq!(image.extents()[1].data[1], 0);
        assert_eq!(image.extents()[1].data[9000 - 8192], 7);
        assert_eq!(image.mapped(), 4096 + 8192 + 512);
    }

    #[test]
    fn a_file_and_a_stream_hold_the_same_bytes() {
        let image = image(65_536, &[(8192, 100)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("card.img");
        image.write_to(AtomicFile::create(&path).unwrap()).unwrap();
        let mut streamed = Vec::new();
        image.stream(&mut streamed).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), streamed);
    }
}
