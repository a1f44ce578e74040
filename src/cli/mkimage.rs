//! `hearth mkimage`: wraps data as mkimage does, with its flags, and lists images with `-l`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use hearth::clock;
use hearth::error::Fault;
use hearth::output::refuse_inputs;
use hearth::uboot::bootrom::{egon, gp, omap};
use hearth::uboot::ids::UnknownName;
use hearth::uboot::read::ImageHeader;
use hearth::uboot::write::{self, is_legacy};
use hearth::uboot::{Comp, ImageArch, Kind, Os};

use super::listing;

/// Wrap data for U-Boot, byte for byte as mkimage does
///
/// Writes legacy uImages (single, multi-file, script) and the vendor images
/// omapimage, gpimage and sunxi_egon. The time is SOURCE_DATE_EPOCH, else now.
#[derive(Debug, Args)]
#[command(args_override_self = true, infer_long_args = true)]
pub struct Arguments {
    /// List an existing image instead, after checking it
    #[arg(short, long, conflicts_with_all = ["data", "no_copy"])]
    list: bool,
    /// Set the architecture [default: powerpc]
    #[arg(short = 'A', long, value_name = "ARCH", allow_hyphen_values = true)]
    architecture: Option<String>,
    /// Set the operating system [default: linux]
    #[arg(short = 'O', long, value_name = "OS", allow_hyphen_values = true)]
    os: Option<String>,
    /// Set the type; `list` shows those there are [default: kernel]
    #[arg(
        short = 'T',
        long = "type",
        value_name = "TYPE",
        allow_hyphen_values = true
    )]
    kind: Option<String>,
    /// Say how the data is compressed [default: gzip]
    #[arg(short = 'C', long, value_name = "COMP", allow_hyphen_values = true)]
    compression: Option<String>,
    /// Set the load address, in hexadecimal [default: 0]
    #[arg(short = 'a', long, value_name = "ADDRESS", allow_hyphen_values = true)]
    load_address: Option<String>,
    /// Set the entry point, in hexadecimal [default: the load address]
    #[arg(short = 'e', long, value_name = "ADDRESS", allow_hyphen_values = true)]
    entry_point: Option<String>,
    /// Set the name, of which 32 bytes are kept
    #[arg(
        short = 'n',
        long = "config",
        value_name = "NAME",
        allow_hyphen_values = true
    )]
    name: Option<OsString>,
    /// Take the data from FILE; types multi and script take several
    #[arg(
        short = 'd',
        long = "image",
        value_name = "FILE[:FILE...]",
        allow_hyphen_values = true
    )]
    data: Option<OsString>,
    /// Let the header replace the first 64 bytes (execute in place)
    #[arg(short = 'x', long)]
    xip: bool,
    /// Write the header alone, without data
    #[arg(short = 's', long)]
    no_copy: bool,
    /// The image to write, or to list
    #[arg(value_name = "IMAGE", required_unless_present = "kind")]
    image: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, quiet: bool) -> Result<ExitCode> {
    if arguments.kind.as_deref() == Some("list") {
        return list_types();
    }
    let Some(image) = &arguments.image else {
        bail!(Fault::input("no image is named").remedy("name it as the last argument"));
    };
    let kind = named::<Kind>(arguments.kind.as_deref())?;
    let text = if arguments.list {
        list(image, kind)?
    } else {
        create(arguments, kind.unwrap_or(Kind::KERNEL), image)?
    };
    if !quiet {
        io::stdout().lock().write_all(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list_types() -> Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    for entry in Kind::ALL.iter().filter(|entry| is_written(entry.id)) {
        writeln!(stdout, "{:15}  {}", entry.name, entry.description)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_written(kind: Kind) -> bool {
    is_legacy(kind) || [Kind::OMAPIMAGE, Kind::GPIMAGE, Kind::SUNXI_EGON].contains(&kind)
}

fn named<T: FromStr<Err = UnknownName>>(name: Option<&str>) -> Result<Option<T>> {
    let parsed = name.map(|name| {
        name.parse().map_err(|unknown: UnknownName| {
            let known = unknown.known.join(", ");
            Fault::input(unknown.to_string()).remedy(format!("hearth knows {known}"))
        })
    });
    Ok(parsed.transpose()?)
}

fn list(image: &Path, kind: Option<Kind>) -> Result<String> {
    let report = super::image::inspect(image)?;
    if let Some(damage) = report.damage() {
        return Err(damage).with_context(|| image.display().to_string());
    }
    let found = report.image.kind();
    match (&report.image, kind) {
        (_, None) => {}
        (ImageHeader::Uimage(_), Some(kind)) if is_legacy(kind) => {}
        (_, Some(kind)) if kind == found => {}
        (_, Some(kind)) => bail!(Fault::input(format!(
            "{} is an image of type {found}, not {kind}",
            image.display()
        ))),
    }
    Ok(listing::listing(&report))
}

fn create(arguments: &Arguments, kind: Kind, image: &Path) -> Result<String> {
    let arch = named::<ImageArch>(arguments.architecture.as_deref())?;
    let os = named::<Os>(arguments.os.as_deref())?.unwrap_or(Os::LINUX);
    let comp = named::<Comp>(arguments.compression.as_deref())?.unwrap_or(Comp::GZIP);
    let load = address(arguments.load_address.as_deref(), "load address")?.unwrap_or(0);
    let entry = address(arguments.entry_point.as_deref(), "entry point")?;
    let name = arguments.name.clone().unwrap_or_default().into_vec();
    let data = data_files(arguments, kind)?;
    refuse_inputs(image, &data)?;
    if is_legacy(kind) {
        let written = write::create(
            &write::NewImage {
                os,
                arch: arch.unwrap_or(ImageArch::POWERPC),
                kind,
                comp,
                load,
                entry,
                name,
                time: clock::image_time()?,
                xip: arguments.xip,
            },
            &data,
            image,
        )?;
        let files: Vec<u64> = written.files.iter().copied().map(u64::from).collect();
        return Ok(listing::uimage(&written.header, &files));
    }
    let [data] = data.as_slice() else {
        bail!(
            Fault::input(format!("an image of type {kind} cannot be without data"))
                .remedy("leave -s out")
        );
    };
    if arguments.xip {
        bail!(
            Fault::input(format!(
                "an image of type {kind} cannot be executed in place"
            ))
            .remedy("leave -x out")
        );
    }
    match kind {
        Kind::OMAPIMAGE => omap::create(load, name.starts_with(b"byteswap"), data, image)
            .map(|header| listing::omap(&header)),
        Kind::GPIMAGE => gp::create(load, data, image).map(|header| listing::gp(&header)),
        Kind::SUNXI_EGON => egon::create(arch.unwrap_or(ImageArch::ARM), &name, data, image)
            .map(|header| listing::egon(&header)),
        _ => bail!(unwritten(kind)),
    }
}

fn unwritten(kind: Kind) -> Fault {
    let fault = Fault::input(format!("hearth writes no image of type {kind}"));
    match kind {
        Kind::FLAT_DT => fault.remedy("-T fdt_legacy wraps a device tree as a legacy image"),
        _ => fault.remedy("`hearth mkimage -T list` shows the types that it writes"),
    }
}

/// The files of `-d`, separated by colons where the type takes several; none with `-s`, where they need only exist.
fn data_files(arguments: &Arguments, kind: Kind) -> Result<Vec<PathBuf>> {
    let Some(data) = &arguments.data else {
        if arguments.no_copy {
            return Ok(Vec::new());
        }
        bail!(
            Fault::input("there is no data to wrap")
                .remedy("name it with -d FILE, or make a header alone with -s")
        );
    };
    let files: Vec<PathBuf> = if write::has_table(kind) {
        let names = data.as_bytes().split(|byte| *byte == b':');
        names
            .map(|name| PathBuf::from(OsString::from_vec(name.to_vec())))
            .collect()
    } else {
        vec![PathBuf::from(data)]
    };
    if files.iter().any(|file| file.as_os_str().is_empty()) {
        bail!(Fault::input(format!(
            "-d {:?} names a file without a name",
            data.display().to_string()
        )));
    }
    if !arguments.no_copy {
        return Ok(files);
    }
    for file in &files {
        fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(Vec::new())
}

/// A hexadecimal number of 32 bits, with or without `0x`.
fn address(value: Option<&str>, what: &str) -> Result<Option<u32>> {
    let Some(value) = value else {
        return Ok(None);
    };
    let digits = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"))
        .unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!(
            Fault::input(format!("the {what} {value:?} is no hexadecimal number"))
                .remedy("such as 80008000 or 0x80008000")
        );
    }
    let significant = digits.trim_start_matches('0');
    if significant.len() > 8 {
        bail!(Fault::input(format!(
            "the {what} {value} does not fit the 32 bits that the header has for it"
        )));
    }
    Ok(Some(u32::from_str_radix(significant, 16).unwrap_or(0)))
}
