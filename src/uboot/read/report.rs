//! Owns what is told of an image that was read, whatever its format.
//! Never reads.

use std::io::Write;

use serde::Serialize;

use crate::error::Fault;
use crate::uboot::bootrom::{egon, gp, omap};
use crate::uboot::ids::Kind;
use crate::uboot::uimage::Header;

/// The description of an image.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub image: ImageHeader,
    /// The files in it: those in the table of a multi-file or script image, else all the data.
    pub parts: Vec<Part>,
    /// Damage, a clause each, such as `its data is truncated: …`. Empty if the image is intact.
    pub problems: Vec<String>,
    /// Remarks on an intact image, a sentence each: padding, a script that U-Boot cannot run.
    pub notes: Vec<String>,
}

impl Report {
    /// All problems as one error without the file's name; `None` for an intact image.
    pub fn damage(&self) -> Option<Fault> {
        (!self.problems.is_empty()).then(|| Fault::input(self.problems.join("; ")))
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "format", rename_all = "lowercase")]
pub enum ImageHeader {
    Uimage(Header),
    Omapimage(omap::Header),
    Gpimage(gp::Header),
    #[serde(rename = "sunxi_egon")]
    SunxiEgon(egon::Header),
}

impl ImageHeader {
    /// The image type, as the number in a uImage's header.
    pub fn kind(&self) -> Kind {
        match self {
            ImageHeader::Uimage(header) => header.kind,
            ImageHeader::Omapimage(_) => Kind::OMAPIMAGE,
            ImageHeader::Gpimage(_) => Kind::GPIMAGE,
            ImageHeader::SunxiEgon(_) => Kind::SUNXI_EGON,
        }
    }
}

/// A file in an image.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its offset from the beginning of the image, in bytes.
    pub offset: u64,
    pub size: u64,
    /// The text, for the file of a script that U-Boot runs; `None` beyond 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A request to extract one of the files while the image is read.
pub struct Extract<'a> {
    /// Counted from 0; optional if there is only one.
    pub part: Option<usize>,
    /// Gets the data before its checksum is verified.
    pub out: &'a mut dyn Write,
}

/// For a file that is no image.
pub(super) fn unknown(head: &[u8]) -> Fault {
    Fault::input(format!(
        "it is no image that hearth knows{}",
        other_format(head)
    ))
    .remedy("hearth knows uImages, and images of type omapimage, gpimage and sunxi_egon")
}

/// Names other well-known formats: the file is more likely the wrong one than damaged.
fn other_format(head: &[u8]) -> &'static str {
    let formats: [(usize, &[u8], &str); 10] = [
        (
            0,
            &[0xd0, 0x0d, 0xfe, 0xed],
            ", but a device tree or a FIT image",
        ),
        (0, &[0x1f, 0x8b], ", but data compressed with gzip"),
        (
            0,
            &[0x28, 0xb5, 0x2f, 0xfd],
            ", but data compressed with zstd",
        ),
        (0, b"\xfd7zXZ\0", ", but data compressed with xz"),
        (0, b"\x7fELF", ", but an ELF file"),
        (0, b"070701", ", but a cpio archive"),
        (0x24, &[0x18, 0x28, 0x6f, 0x01], ", but a zImage"),
        (0x38, b"ARM\x64", ", but a kernel Image for arm64"),
        (0x38, b"RSC\x05", ", but a kernel Image for RISC-V"),
        (0, b"MZ", ", but an EFI program"),
    ];
    formats
        .iter()
        .find(|(at, magic, _)| head.get(*at..at + magic.len()) == Some(*magic))
        .map_or("", |(_, _, name)| *name)
}
