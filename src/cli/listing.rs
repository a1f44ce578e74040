//! Owns how an image is told to people: the lines that mkimage prints, times in UTC. Never reads an image.

use std::fmt::Write;

use hearth::clock;
use hearth::uboot::bootrom::{egon, gp, omap};
use hearth::uboot::read::{ImageHeader, Part, Report};
use hearth::uboot::uimage::Header;
use hearth::uboot::{Kind, write};

/// What `mkimage -l` would print, each line ended.
pub fn listing(report: &Report) -> String {
    match &report.image {
        ImageHeader::Uimage(header) => {
            let files: Vec<u64> = report.parts.iter().map(|part: &Part| part.size).collect();
            uimage(header, &files)
        }
        ImageHeader::Omapimage(header) => omap(header),
        ImageHeader::Gpimage(header) => gp(header),
        ImageHeader::SunxiEgon(header) => egon(header),
    }
}

/// Makes text from an image safe to print: control characters show as escapes.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() && c != '\n' && c != '\t';
            let escaped = escape.then(|| c.escape_default());
            let plain = (!escape).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// `files`: the sizes of a multi-file image's or script's files.
pub fn uimage(header: &Header, files: &[u64]) -> String {
    let mut text = format!(
        "Image Name:   {}\n\
         Created:      {} UTC\n\
         Image Type:   {} {} {} ({})\n\
         Data Size:    {}\n\
         Load Address: {:08x}\n\
         Entry Point:  {:08x}\n",
        printable(&String::from_utf8_lossy(header.name())).replace('\n', "\\n"),
        clock::asctime(header.time),
        header.arch.description(),
        header.os.description(),
        header.kind.description(),
        header.comp.description(),
        size(u64::from(header.size)),
        header.load,
        header.entry,
    );
    if write::has_table(header.kind) {
        text += "Contents:\n";
        let mut offset = 64 + 4 * (files.len() as u64 + 1);
        for (index, file) in files.iter().enumerate() {
            let _ = writeln!(text, "   Image {index}: {}", size(*file));
            if header.kind == Kind::SCRIPT && index > 0 {
                let _ = writeln!(text, "    Offset = {offset:#010x}");
            }
            offset += file.next_multiple_of(4);
        }
    }
    if header.kind == Kind::FIRMWARE_IVT {
        // The part that is to be signed: from the header to the image vector table.
        let _ = writeln!(
            text,
            "HAB Blocks:   {:#010x}   0x0000   {:#010x}",
            header.load.wrapping_sub(64),
            header.size.wrapping_add(64).wrapping_sub(0x2040),
        );
    }
    text
}

fn size(bytes: u64) -> String {
    // Two decimals of a number below 2^32 are exact enough in a double.
    let of = |unit: f64| bytes as f64 / unit;
    format!(
        "{bytes} Bytes = {:.2} KiB = {:.2} MiB",
        of(1024.0),
        of(1_048_576.0)
    )
}

pub fn omap(header: &omap::Header) -> String {
    let mut text = String::new();
    for section in &header.sections {
        let _ = writeln!(
            text,
            "Section {} offset {:x} length {:x}\n\
             {} ({:x}) valid:{:x} version:{:x} reserved:{:x} flags:{:x}",
            printable(&section.name),
            section.offset,
            section.size,
            if section.key == 0 {
                "UNKNOWNKEY"
            } else {
                "CHSETTINGS"
            },
            section.key,
            section.valid,
            section.version,
            section.reserved,
            section.flags,
        );
    }
    text + &gp_line(header.size, header.load)
}

pub fn gp(header: &gp::Header) -> String {
    gp_line(header.size, header.load)
}

fn gp_line(size: u32, load: u32) -> String {
    format!("GP Header: Size {size:x} LoadAddr {load:x}\n")
}

pub fn egon(header: &egon::Header) -> String {
    let mut text = format!("Allwinner eGON image, size: {} bytes\n", header.length);
    if let Some((major, minor)) = header.spl_version {
        let _ = writeln!(text, "\tSPL header version {major}.{minor}");
    }
    if let Some(name) = &header.device_tree {
        let _ = writeln!(text, "\tDT name: {}", printable(name));
    }
    text
}
