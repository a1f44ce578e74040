//! Owns reading a legacy uImage: header, table of files, files, checksums. Never trusts a size.

use std::io::{self, Read};

use anyhow::Result;

use crate::error::Fault;
use crate::uboot::check;
use crate::uboot::ids::Kind;
use crate::uboot::uimage::{HEADER_LEN, Header};
use crate::uboot::write::{CSF_LEN, has_table};

use super::report::{Extract, ImageHeader, Part, Report};
use super::source::Source;

/// Limit on the number of files, so that a damaged table cannot fill the memory.
const MAX_FILES: usize = 1 << 16;
/// Limit on the text of a script that is kept, in bytes.
const MAX_TEXT: u64 = 1 << 20;

pub(super) fn read<R: Read>(mut source: Source<R>, extract: Option<Extract<'_>>) -> Result<Report> {
    let decoded = source
        .array::<HEADER_LEN>()?
        .as_ref()
        .and_then(Header::decode);
    let Some((header, crc)) = decoded else {
        return Err(Fault::input(format!(
            "it is truncated: a uImage's header has {HEADER_LEN} bytes, and only {} are there",
            source.position
        ))
        .into());
    };
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    if !crc.matches() {
        problems.push(format!(
            "its header is damaged: the checksum is {:08x}, not {:08x} as stored",
            crc.computed, crc.stored
        ));
    }
    let len = data_len(&header, &mut problems);
    let mut data = Data {
        source: &mut source,
        left: len,
        crc: crc32fast::Hasher::new(),
    };
    let sizes = if !has_table(header.kind) {
        Some(len).filter(|len| *len > 0).into_iter().collect()
    } else if len > 0 {
        read_table(&mut data, &mut problems)?
    } else {
        Vec::new()
    };
    let parts = read_files(&mut data, &header, &sizes, extract)?;
    data.pass(data.left, |_| Ok(()))?;
    let (missing, computed) = (data.left, data.crc.finalize());
    if missing > 0 {
        problems.push(format!(
            "its data is truncated: the header announces {len} bytes, and {} are there",
            len - missing
        ));
    } else if computed != header.data_crc {
        problems.push(format!(
            "its data is damaged: the checksum is {computed:08x}, not {:08x} as stored",
            header.data_crc
        ));
    }
    if missing == 0 {
        if header.kind == Kind::SCRIPT && sizes.is_empty() {
            problems.push("it has no text, and U-Boot refuses to run it".to_string());
        }
        check_rest(&mut source, header.kind, &mut problems, &mut notes)?;
    }
    notes.extend(unrunnable(&parts));
    Ok(Report {
        image: ImageHeader::Uimage(header),
        parts,
        problems,
        notes,
    })
}

/// The number of bytes after the header, according to it. The size of a `firmware_ivt` image
/// includes a signature, which is appended later.
fn data_len(header: &Header, problems: &mut Vec<String>) -> u64 {
    let size = u64::from(header.size);
    if header.kind != Kind::FIRMWARE_IVT {
        return size;
    }
    size.checked_sub(CSF_LEN).unwrap_or_else(|| {
        problems.push(format!(
            "its size, {size} bytes, leaves no room for a signature"
        ));
        0
    })
}

fn check_rest<R: Read>(
    source: &mut Source<R>,
    kind: Kind,
    problems: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> io::Result<()> {
    if kind == Kind::FIRMWARE_IVT {
        source.pass(CSF_LEN, |_| Ok(()))?;
    }
    let Some(rest) = source.rest()? else {
        return Ok(());
    };
    if source.rest_is_padding()? {
        notes.push(format!("{rest} of padding follow it"));
    } else {
        problems.push(format!(
            "{rest} follow its end, which the header does not account for"
        ));
    }
    Ok(())
}

/// Why U-Boot cannot run a script's text, if so.
fn unrunnable(parts: &[Part]) -> Option<String> {
    let text = parts.first()?.text.as_ref()?;
    let fault = check::runnable(text.as_bytes()).err()?;
    Some(format!("U-Boot cannot run it as it stands: {fault}"))
}

/// The data being read, with its checksum.
struct Data<'a, R> {
    source: &'a mut Source<R>,
    left: u64,
    crc: crc32fast::Hasher,
}

impl<R: Read> Data<'_, R> {
    /// Reads and forwards the next `count` bytes, or fewer if the data ends.
    fn pass(
        &mut self,
        count: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let crc = &mut self.crc;
        let passed = self.source.pass(count.min(self.left), |piece| {
            crc.update(piece);
            each(piece)
        })?;
        self.left -= passed;
        Ok(())
    }

    fn word(&mut self) -> io::Result<Option<u32>> {
        if self.left < 4 {
            return Ok(None);
        }
        let bytes = self.source.array::<4>()?;
        if let Some(bytes) = bytes {
            self.crc.update(&bytes);
            self.left -= 4;
        }
        Ok(bytes.map(u32::from_be_bytes))
    }
}

/// The sizes of the files, up to a zero; empty if the table is invalid.
fn read_table<R: Read>(data: &mut Data<'_, R>, problems: &mut Vec<String>) -> io::Result<Vec<u64>> {
    let mut sizes = Vec::new();
    loop {
        match data.word()? {
            Some(0) => break,
            Some(size) if sizes.len() < MAX_FILES => sizes.push(u64::from(size)),
            Some(_) => {
                problems.push(format!("its table lists more than {MAX_FILES} files"));
                return Ok(Vec::new());
            }
            None => {
                // Truncation is reported elsewhere, as the only problem.
                if data.left < 4 {
                    problems.push("its table of files has no end".to_string());
                }
                return Ok(Vec::new());
            }
        }
    }
    let needed = match sizes.split_last() {
        Some((last, others)) => {
            others
                .iter()
                .map(|size| size.next_multiple_of(4))
                .sum::<u64>()
                + last
        }
        None => 0,
    };
    if needed != data.left {
        problems.push(format!(
            "its files take {needed} bytes by their table, and the header leaves {} for them",
            data.left
        ));
    }
    if needed > data.left {
        sizes.clear();
    }
    Ok(sizes)
}

/// Reads the files, each padded to 4 bytes, and forwards the requested one.
fn read_files<R: Read>(
    data: &mut Data<'_, R>,
    header: &Header,
    sizes: &[u64],
    mut extract: Option<Extract<'_>>,
) -> Result<Vec<Part>> {
    let wanted = match &extract {
        Some(extract) => Some(choose(extract.part, sizes.len())?),
        None => None,
    };
    let mut parts = Vec::with_capacity(sizes.len());
    for (index, size) in sizes.iter().copied().enumerate() {
        let mut text =
            (header.kind == Kind::SCRIPT && index == 0 && size <= MAX_TEXT).then(Vec::new);
        let offset = data.source.position;
        data.pass(size, |piece| {
            if let Some(text) = &mut text {
                text.extend_from_slice(piece);
            }
            match &mut extract {
                Some(extract) if wanted == Some(index) => extract.out.write_all(piece),
                _ => Ok(()),
            }
        })?;
        if index + 1 < sizes.len() {
            data.pass(size.next_multiple_of(4) - size, |_| Ok(()))?;
        }
        parts.push(Part {
            offset,
            size,
            text: text.map(|text| String::from_utf8_lossy(&text).into_owned()),
        });
    }
    Ok(parts)
}

/// The index of the requested one of `count` files.
pub(super) fn choose(part: Option<usize>, count: usize) -> Result<usize, Fault> {
    match (part, count) {
        (_, 0) => Err(Fault::input("it holds no data")),
        (None, 1) => Ok(0),
        (None, _) => Err(Fault::input(format!("it holds {count} files"))
            .remedy(format!("choose one with -p, from 0 to {}", count - 1))),
        (Some(part), _) if part < count => Ok(part),
        (Some(part), _) => Err(Fault::input(format!(
            "it has no file {part}: it holds {count}, counted from 0"
        ))),
    }
}
