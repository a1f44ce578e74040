//! `hearth import`: makes an output directory of a root file system that others made.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use hearth::dirs;
use hearth::import::Options;
use hearth::ops::import::{self, Import};
use hearth::ops::import_boot::BootFiles;
use hearth::recipe::Arch;

use super::terminal::Terminal;

/// Make an image of a root file system that others made
///
/// The output is as that of `hearth build`: serve, provision, netboot, media,
/// test, diff and shell take it. Nothing is mounted, and nothing of the root is
/// run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What to call it, as a recipe's name
    name: String,
    /// A directory, a tar, a cpio (newc), an ext4 or squashfs image, or a disk
    /// image with one of these; files may be compressed with gzip, xz or zstd
    #[arg(long, value_name = "PATH")]
    rootfs: PathBuf,
    /// The partition with the root, where a disk image has several that may be
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// Make root the owner of what belongs to you in a directory
    #[arg(long)]
    owner_root: bool,
    /// The kernel: a zImage, Image or Image.gz [default: the one in /boot]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's release, or which of several in /boot
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    /// A device tree, or a directory of them [default: those of the root]
    #[arg(long, value_name = "PATH")]
    dtb: Option<PathBuf>,
    /// Modules, as a layer over the root: what `make modules_install` wrote, a
    /// directory or a tar
    #[arg(long, value_name = "PATH")]
    modules: Option<PathBuf>,
    /// The initrd [default: built out of the root, as `hearth build` does]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Bootloaders: the `bootloader` directory of a build's output, or a
    /// directory with files of Debian's packages [default: those of the root]
    #[arg(long, value_name = "DIR")]
    bootloader: Option<PathBuf>,
    /// The architecture, where no program of the root tells it
    #[arg(long, value_name = "ARCH", value_parser = architectures())]
    arch: Option<String>,
    /// Where the results go [default: out/NAME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

fn architectures() -> PossibleValuesParser {
    PossibleValuesParser::new(Arch::ALL.map(Arch::debian))
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let out = match &arguments.output {
        Some(out) => out.clone(),
        None => PathBuf::from("out").join(&arguments.name),
    };
    let arch = arguments.arch.as_deref();
    let imported = import::import(
        &Import {
            name: &arguments.name,
            rootfs: &arguments.rootfs,
            options: Options {
                partition: arguments.partition,
                owner_root: arguments.owner_root,
            },
            arch: arch.and_then(|name| Arch::ALL.into_iter().find(|arch| arch.debian() == name)),
            boot: BootFiles {
                kernel: arguments.kernel.as_deref(),
                release: arguments.release.as_deref(),
                dtb: arguments.dtb.as_deref(),
                initrd: arguments.initrd.as_deref(),
                bootloader: arguments.bootloader.as_deref(),
            },
            modules: arguments.modules.as_deref(),
        },
        &out,
        &dirs::cache(),
        terminal,
    )?;
    for note in &imported.notes {
        log::warn!("{note}");
    }
    let image = &imported.manifest.image;
    match imported.written {
        true => terminal.say(&format!("wrote {} ({image})", out.display())),
        false => terminal.say(&format!("{} is up to date ({image})", out.display())),
    }
    Ok(ExitCode::SUCCESS)
}
