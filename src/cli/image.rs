//! `hearth image`: tells what an image is and whether it is whole, and takes files out of it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hearth::error::Fault;
use hearth::output::refuse_inputs;
use hearth::uboot;
use hearth::uboot::read::{self, ImageHeader, Report};
use hearth::uboot::write::has_table;
use serde::Serialize;

use super::{listing, report};

/// Inspect and take apart images for U-Boot and boot ROMs
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Identify and check images: checksums, sizes, files, script text
    ///
    /// Knows uImages and the vendor images omapimage, gpimage and sunxi_egon.
    /// Exits with 2 if one of the files is damaged or is no image.
    Show {
        /// The images; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print an array of objects
        #[arg(long)]
        json: bool,
    },
    /// Take the data, or one file of several, out of an image that is whole
    Extract {
        /// The image; `-` is standard input
        file: PathBuf,
        /// The file to take, counted from 0, where there are several
        #[arg(short, long, value_name = "N")]
        part: Option<usize>,
        /// Where to write it; `-` is standard output
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Command::Show { files, json } => show(files, *json),
        Command::Extract { file, part, output } => extract(file, *part, output),
    }
}

/// A file of `image show --json`.
#[derive(Serialize)]
struct Shown<'a> {
    file: String,
    #[serde(flatten)]
    report: &'a Report,
}

fn show(files: &[PathBuf], json: bool) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut all = Vec::new();
    for file in files {
        let damage = match inspect(file) {
            Ok(report) => {
                let damage = report.damage();
                if json {
                    all.push((file, report));
                } else {
                    print(file, &report)?;
                }
                damage.map(|damage| anyhow::Error::new(damage).context(name_of(file)))
            }
            Err(error) => Some(error),
        };
        if let Some(error) = damage {
            code = report::failure(&error);
        }
    }
    if json {
        let shown: Vec<_> = all
            .iter()
            .map(|(file, report)| Shown {
                file: name_of(file),
                report,
            })
            .collect();
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, &shown).map_err(io::Error::from)?;
        writeln!(stdout)?;
    }
    Ok(code)
}

fn print(file: &Path, report: &Report) -> Result<()> {
    let what = match &report.image {
        ImageHeader::Uimage(_) => "uImage".to_string(),
        ImageHeader::Omapimage(header) if header.byteswapped => {
            "omapimage, byte-swapped".to_string()
        }
        _ => report.image.kind().to_string(),
    };
    let mut text = format!("{}: {what}\n", name_of(file));
    for line in listing::listing(report).lines() {
        text += &format!("  {line}\n");
    }
    if has_table(report.image.kind())
        && let Some(script) = report.parts.first().and_then(|part| part.text.as_deref())
    {
        text += "Script:\n";
        for line in script.lines() {
            text += &format!("  {}\n", listing::printable(line));
        }
    }
    for note in &report.notes {
        text += &format!("Note: {}\n", listing::printable(note));
    }
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn extract(file: &Path, part: Option<usize>, output: &Path) -> Result<ExitCode> {
    let (input, length) = open(file)?;
    let output = if output == Path::new("-") {
        Path::new("/dev/stdout")
    } else {
        output
    };
    if file != Path::new("-") {
        refuse_inputs(output, [file])?;
    }
    read::extract(&name_of(file), input, length, part, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads an image and tells what it is; every failure names the file.
pub fn inspect(file: &Path) -> Result<Report> {
    let (input, length) = open(file)?;
    read::inspect(input, length, None).with_context(|| name_of(file))
}

fn name_of(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".to_string()
    } else {
        file.display().to_string()
    }
}

/// The file, and its length if it has one.
fn open(file: &Path) -> Result<(Box<dyn Read>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let opened = uboot::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let meta = opened.metadata()?;
    if meta.is_dir() {
        return Err(
            Fault::input(format!("{} is a directory, not an image", file.display())).into(),
        );
    }
    Ok((Box::new(opened), meta.is_file().then_some(meta.len())))
}
