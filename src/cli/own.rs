//! Owns the options by which a board boots what the user has built: a kernel, and what goes with it.

use std::path::PathBuf;

use clap::Args;
use hearth::recipe::{Own, check_kernel_arguments};

/// Parts to boot instead of the image's
#[derive(Debug, Args)]
#[command(next_help_heading = "Own parts")]
pub struct OwnArguments {
    /// A kernel: the tree it was built in, with its modules and device trees;
    /// a zImage, Image or uImage; or a package, .deb or `make tar-pkg`
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// The device tree, or a directory that has the board type's
    #[arg(long, value_name = "FILE|DIR")]
    dtb: Option<PathBuf>,
    /// What `make modules_install` wrote, as a directory or a tar
    #[arg(long, value_name = "PATH")]
    modules: Option<PathBuf>,
    /// An initrd, instead of one that hearth makes for the kernel
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel arguments in addition, separated by spaces
    #[arg(long, value_name = "ARGUMENTS", value_parser = check_kernel_arguments)]
    #[arg(allow_hyphen_values = true)]
    kernel_args: Option<String>,
    #[command(flatten)]
    bootloader: BootloaderArguments,
}

/// Another bootloader
#[derive(Debug, Args)]
pub struct BootloaderArguments {
    /// The directory that U-Boot was built in, or a file of the board type's
    /// bootloader; may be repeated
    #[arg(long, value_name = "PATH")]
    pub bootloader: Vec<PathBuf>,
}

impl OwnArguments {
    pub fn own(&self) -> Own {
        Own {
            kernel: self.kernel.clone(),
            dtb: self.dtb.clone(),
            modules: self.modules.clone(),
            initrd: self.initrd.clone(),
            kernel_args: self.kernel_args.clone(),
            bootloader: self.bootloader.bootloader.clone(),
        }
    }
}
