//! Owns reading images for boot ROMs. Never trusts a size.

use std::io::Read;

use anyhow::Result;

use crate::error::Fault;
use crate::uboot::bootrom::{egon, gp, omap};
use crate::uboot::ids::ImageArch;
use crate::uboot::stream::Swap;

use super::legacy::choose;
use super::report::{Extract, ImageHeader, Part, Report, unknown};
use super::source::Source;

/// Parses the next bytes as a header; the image's type is already known by them.
fn header<const N: usize, R: Read>(source: &mut Source<R>) -> Result<[u8; N]> {
    source.array()?.ok_or_else(|| {
        Fault::input(format!(
            "it is truncated: its header has {N} bytes, and only {} are there",
            source.position
        ))
        .into()
    })
}

/// Reads the data, forwards it if requested, and returns its place and how many bytes are missing.
fn data<R: Read>(
    source: &mut Source<R>,
    size: u64,
    mut extract: Option<Extract<'_>>,
    mut each: impl FnMut(&[u8]),
) -> Result<(Part, u64)> {
    if let Some(extract) = &extract {
        choose(extract.part, 1)?;
    }
    let offset = source.position;
    let passed = source.pass(size, |piece| {
        each(piece);
        match &mut extract {
            Some(extract) => extract.out.write_all(piece),
            None => Ok(()),
        }
    })?;
    let part = Part {
        offset,
        size,
        text: None,
    };
    Ok((part, size - passed))
}

fn truncated(size: u64, missing: u64) -> String {
    format!(
        "its data is truncated: the header announces {size} bytes, and {} are there",
        size - missing
    )
}

pub(super) fn read_omap<R: Read>(
    mut source: Source<R>,
    byteswapped: bool,
    extract: Option<Extract<'_>>,
) -> Result<Report> {
    let bytes = header::<{ omap::HEADER_LEN }, R>(&mut source)?;
    let header = omap::Header::decode(&bytes, byteswapped)
        .map_err(|what| Fault::input(format!("its header is damaged: {what}")))?;
    let mut problems = Vec::new();
    let size = u64::from(header.size).saturating_sub(omap::GP_LEN as u64);
    if size == 0 {
        problems.push(format!(
            "its size, {} bytes, leaves nothing for data",
            header.size
        ));
    }
    let (part, missing) = match extract {
        Some(extract) if byteswapped => {
            let mut swap = Swap::new(extract.out);
            let swapped = Extract {
                part: extract.part,
                out: &mut swap,
            };
            let read = data(&mut source, size, Some(swapped), |_| ())?;
            swap.finish()?;
            read
        }
        extract => data(&mut source, size, extract, |_| ())?,
    };
    if missing > 0 {
        problems.push(truncated(size, missing));
    } else if let Some(rest) = source.rest()? {
        problems.push(format!(
            "{rest} follow its end, which the header does not account for"
        ));
    }
    Ok(Report {
        image: ImageHeader::Omapimage(header),
        parts: vec![part],
        problems,
        notes: Vec::new(),
    })
}

/// Reads an image without a magic number: rejected unless it ends where its header says.
pub(super) fn read_gp<R: Read>(
    mut source: Source<R>,
    extract: Option<Extract<'_>>,
) -> Result<Report> {
    let bytes = header::<{ gp::HEADER_LEN }, R>(&mut source)?;
    let header = gp::Header::decode(&bytes);
    let (part, missing) = data(&mut source, u64::from(header.size), extract, |_| ())?;
    if missing > 0 || source.rest()?.is_some() {
        return Err(unknown(&bytes).into());
    }
    Ok(Report {
        image: ImageHeader::Gpimage(header),
        parts: vec![part],
        problems: Vec::new(),
        notes: Vec::new(),
    })
}

/// Reads an eGON image. U-Boot itself often follows in the same file, so that more data is no
/// damage.
pub(super) fn read_egon<R: Read>(
    mut source: Source<R>,
    extract: Option<Extract<'_>>,
) -> Result<Report> {
    let bytes = header::<{ egon::HEADER_LEN }, R>(&mut source)?;
    let header = egon::Header::decode(&bytes);
    let mut problems = Vec::new();
    if header.arch == ImageArch::INVALID {
        problems.push("it does not begin with a branch over its header".to_string());
    }
    if !header.length.is_multiple_of(egon::SECTOR) || header.length == 0 {
        problems.push(format!(
            "its length, {} bytes, is no multiple of {}",
            header.length,
            egon::SECTOR
        ));
    }
    let size = u64::from(header.length).saturating_sub(egon::HEADER_LEN as u64);
    let mut sum = egon::Sum::of_header(&bytes);
    let (part, missing) = data(&mut source, size, extract, |piece| sum.add(piece))?;
    if missing > 0 {
        problems.push(truncated(size, missing));
    } else if sum.value() != header.checksum {
        problems.push(format!(
            "its data is damaged: the checksum is {:08x}, not {:08x} as stored",
            sum.value(),
            header.checksum
        ));
    }
    Ok(Report {
        image: ImageHeader::SunxiEgon(header),
        parts: vec![part],
        problems,
        notes: Vec::new(),
    })
}
