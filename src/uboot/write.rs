//! Owns writing legacy uImages: single, multi-file and script. Reads the data once, and never holds
//! all of it in memory.
//!
//! Source: U-Boot, `tools/mkimage.c` and `tools/default_image.c`; `mkimage -s` and `-x` are
//! documented in `mkimage(1)`.

use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use log::{info, warn};

use crate::error::Fault;

use super::ids::{Comp, ImageArch, Kind, Os};
use super::stream::{self, Input};
use super::uimage::{HEADER_LEN, Header, NAME_LEN, name_field};

/// Parameters of a uImage; sizes and checksums are computed.
#[derive(Clone, Debug)]
pub struct NewImage {
    pub os: Os,
    pub arch: ImageArch,
    pub kind: Kind,
    pub comp: Comp,
    pub load: u32,
    /// The load address by default; plus 64 with `xip`.
    pub entry: Option<u32>,
    /// Truncated to 32 bytes.
    pub name: Vec<u8>,
    /// Seconds since 1970, UTC.
    pub time: u32,
    /// Execute in place: the header replaces the data's first 64 bytes, which must be FF.
    pub xip: bool,
}

impl NewImage {
    /// A Linux image without addresses, name or compression.
    pub fn new(kind: Kind, arch: ImageArch, time: u32) -> Self {
        NewImage {
            os: Os::LINUX,
            arch,
            kind,
            comp: Comp::NONE,
            load: 0,
            entry: None,
            name: Vec::new(),
            time,
            xip: false,
        }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub header: Header,
    /// The size of each file in bytes.
    pub files: Vec<u32>,
}

/// The types that have a legacy header.
pub fn is_legacy(kind: Kind) -> bool {
    matches!(kind.0, 1..=7)
        || [Kind::KERNEL_NOLOAD, Kind::FIRMWARE_IVT, Kind::FDT_LEGACY].contains(&kind)
}

/// Whether the data of this type begins with a table of files.
pub fn has_table(kind: Kind) -> bool {
    kind == Kind::MULTI || kind == Kind::SCRIPT
}

/// Wraps `inputs` as `output`, written atomically. Without inputs, writes only the header.
///
/// # Errors
/// Errors of [`write()`], of [`Input::open`], and of writing to the output's file system.
pub fn create(image: &NewImage, inputs: &[PathBuf], output: &Path) -> Result<Written> {
    let inputs = inputs
        .iter()
        .map(|path| Input::open(path))
        .collect::<Result<Vec<_>, Fault>>()?;
    stream::create(output, |out| write(image, inputs, out))
}

/// Wraps `inputs` into `out`, from its beginning, and returns the header.
///
/// ```
/// use std::io::Cursor;
///
/// use hearth::uboot::write::{NewImage, write};
/// use hearth::uboot::{Comp, ImageArch, Input, Kind};
///
/// let image = NewImage {
///     comp: Comp::GZIP,
///     name: b"initrd".to_vec(),
///     ..NewImage::new(Kind::RAMDISK, ImageArch::ARM, 1_700_000_000)
/// };
/// let data = Input {
///     name: "initrd.img".into(),
///     data: Box::new(&b"a cpio archive"[..]),
/// };
/// let mut out = Cursor::new(Vec::new());
/// let written = write(&image, vec![data], &mut out)?;
/// assert_eq!(written.header.size, 14);
/// assert_eq!(out.into_inner()[64..], *b"a cpio archive");
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// If the type has no legacy header or takes one file only; if data is empty or beyond 4 GiB, or
/// doesn't leave room for the header with `xip`; if an address does not fit 32 bits. An
/// [`io::Error`] is always one of writing.
pub fn write(
    image: &NewImage,
    inputs: Vec<Input>,
    out: &mut (impl Write + Seek),
) -> Result<Written> {
    check(image, &inputs)?;
    let table_len = if has_table(image.kind) && !inputs.is_empty() {
        (inputs.len() + 1) * 4
    } else {
        0
    };
    out.write_all(&vec![0; HEADER_LEN + table_len])?;
    let mut body = Body {
        out,
        crc: crc32fast::Hasher::new(),
        lead: Vec::new(),
        len: 0,
    };
    let mut files = Vec::with_capacity(inputs.len());
    let last = inputs.len().saturating_sub(1);
    for (index, mut input) in inputs.into_iter().enumerate() {
        info!("adding {}", input.name);
        let size = copy(image, &mut input, &mut body, table_len)?;
        files.push(size);
        if has_table(image.kind) && index < last {
            body.write_all(&[0; 3][..(4 - size as usize % 4) % 4])?;
        }
    }
    let announced = if image.kind == Kind::FIRMWARE_IVT {
        finish_ivt(image, &mut body)?
    } else {
        body.len
    };
    let mut table: Vec<u8> = files.iter().flat_map(|size| size.to_be_bytes()).collect();
    table.resize(table_len, 0);
    let header = header_of(image, &table, &body, announced)?;
    stream::write_front(body.out, &[&header.encode()[..], &table].concat())?;
    Ok(Written { header, files })
}

fn check(image: &NewImage, inputs: &[Input]) -> Result<()> {
    if !is_legacy(image.kind) {
        bail!(Fault::input(format!(
            "an image of type {} has no uImage header",
            image.kind
        )));
    }
    if image.xip && (has_table(image.kind) || image.kind == Kind::FIRMWARE_IVT) {
        // mkimage writes a table, or an image vector table, that does not match the data.
        bail!(
            Fault::input(format!(
                "an image of type {} cannot be executed in place",
                image.kind
            ))
            .remedy("leave -x out")
        );
    }
    if !has_table(image.kind) && inputs.len() > 1 {
        bail!(
            Fault::input(format!(
                "an image of type {} holds one file, not {}",
                image.kind,
                inputs.len()
            ))
            .remedy("type multi holds several")
        );
    }
    entry_of(image)?;
    if image.name.len() > NAME_LEN {
        warn!(
            "the name {:?} is cut to {NAME_LEN} bytes: {:?}",
            String::from_utf8_lossy(&image.name),
            String::from_utf8_lossy(&image.name[..NAME_LEN]),
        );
    }
    Ok(())
}

/// The data after header and table, on its way to the output.
struct Body<'a, W> {
    out: &'a mut W,
    crc: crc32fast::Hasher,
    len: u64,
    /// The first bytes, up to [`OPTEE_LEN`].
    lead: Vec<u8>,
}

impl<W: Write> Write for Body<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write_all(data)?;
        self.crc.update(data);
        self.len += data.len() as u64;
        let wanted = OPTEE_LEN.saturating_sub(self.lead.len()).min(data.len());
        self.lead.extend_from_slice(&data[..wanted]);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Copies one file and returns its size, which fits because the size of all data does.
fn copy<W: Write>(
    image: &NewImage,
    input: &mut Input,
    body: &mut Body<'_, W>,
    table_len: usize,
) -> Result<u32> {
    let mut consumed = 0;
    if image.xip {
        let mut room = [0; HEADER_LEN];
        consumed = input.fill(&mut room)?;
        if consumed > 0 && room != [0xff; HEADER_LEN] {
            bail!(Fault::input(format!(
                "{} leaves no room for the header: with XIP its first {HEADER_LEN} bytes must be FF",
                input.name
            )));
        }
    }
    let overhead = if image.kind == Kind::FIRMWARE_IVT {
        IVT_OVERHEAD
    } else {
        PADDING
    };
    let limit = u64::from(u32::MAX).saturating_sub(body.len + table_len as u64 + overhead);
    let size = input.copy(limit, |piece| body.write_all(piece))?;
    if size == 0 && consumed == 0 {
        return Err(input.empty().into());
    }
    Ok(u32::try_from(size)?)
}

fn header_of<W>(
    image: &NewImage,
    table: &[u8],
    body: &Body<'_, W>,
    announced: u64,
) -> Result<Header> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(table);
    crc.combine(&body.crc);
    let (load, entry) = if image.os == Os::TEE {
        optee_addresses(&[table, &body.lead].concat())
    } else {
        (image.load, entry_of(image)?)
    };
    Ok(Header {
        time: image.time,
        size: u32::try_from(announced + table.len() as u64)?,
        load,
        entry,
        data_crc: crc.finalize(),
        os: image.os,
        arch: image.arch,
        kind: match image.kind {
            Kind::FDT_LEGACY => Kind::FLAT_DT,
            kind => kind,
        },
        comp: image.comp,
        name: name_field(&image.name),
    })
}

fn entry_of(image: &NewImage) -> Result<u32> {
    if let Some(entry) = image.entry {
        return Ok(entry);
    }
    if !image.xip {
        return Ok(image.load);
    }
    image.load.checked_add(HEADER_LEN as u32).ok_or_else(|| {
        Fault::input(format!(
            "the entry point, 64 bytes after the load address {:08x}, does not fit 32 bits",
            image.load
        ))
        .into()
    })
}

/// Bytes of OP-TEE's own header (`struct optee_header`, U-Boot, `include/tee/optee.h`).
const OPTEE_LEN: usize = 28;

/// Load address and entry point of an image for OP-TEE, from the data: the low word of OP-TEE's own
/// load address, little-endian at offset 16, is the entry point, and its header precedes it. Bytes
/// beyond the end of short data count as zero.
fn optee_addresses(data: &[u8]) -> (u32, u32) {
    if !data.starts_with(b"OPTE") {
        warn!("the data does not begin with OP-TEE's header, from which the addresses are taken");
    }
    let mut low = [0; 4];
    for (byte, at) in low.iter_mut().zip(16..) {
        *byte = data.get(at).copied().unwrap_or(0);
    }
    let entry = u32::from_le_bytes(low);
    (entry.wrapping_sub(OPTEE_LEN as u32), entry)
}

/// Bytes of the i.MX image vector table that ends an image of type `firmware_ivt`.
const IVT_LEN: u32 = 32;
/// Space for the signature (CSF), which a later tool appends, included in the size in the header.
pub(super) const CSF_LEN: u64 = 0x2060 - IVT_LEN as u64;
/// The most that padding, vector table and signature add to the data.
const IVT_OVERHEAD: u64 = PAGE + IVT_LEN as u64 + CSF_LEN;
const PAGE: u64 = 0x1000;
/// The most padding after a file of a multi-file image.
const PADDING: u64 = 3;

/// Pads to a page and appends the image vector table; returns the size for the header.
fn finish_ivt<W: Write>(image: &NewImage, body: &mut Body<'_, W>) -> Result<u64> {
    if body.len > 0 {
        let file_size = HEADER_LEN as u64 + body.len;
        let aligned = file_size.next_multiple_of(PAGE);
        // Like mkimage, pads with the low byte of each position.
        let padding: Vec<u8> = (file_size..aligned).map(|at| at as u8).collect();
        body.write_all(&padding)?;
        body.write_all(&ivt(image.load, aligned - HEADER_LEN as u64)?)?;
    }
    Ok(body.len + CSF_LEN)
}

/// The image vector table (i.MX reference manual, "Image Vector Table"; all words little-endian):
/// tag, length and version, entry, two reserved words and no boot data, its own address, and the
/// signature's.
fn ivt(load: u32, at: u64) -> Result<[u8; IVT_LEN as usize]> {
    let address = u32::try_from(u64::from(load) + at)
        .ok()
        .filter(|address| address.checked_add(IVT_LEN).is_some())
        .ok_or_else(|| {
            Fault::input(format!(
                "the image does not fit 32 bits of address from {load:08x} on"
            ))
        })?;
    let mut table = [0; IVT_LEN as usize];
    table[..4].copy_from_slice(&[0xd1, 0x00, 0x20, 0x40]);
    table[4..8].copy_from_slice(&load.to_le_bytes());
    table[20..24].copy_from_slice(&address.to_le_bytes());
    table[24..28].copy_from_slice(&(address + IVT_LEN).to_le_bytes());
    Ok(table)
}
