//! `hearth run` and what it shares with `hearth shell`: a program of an image, over a throw-away copy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::build::{Until, layers};
use hearth::error::Fault;
use hearth::recipe::Arch;
use hearth::sandbox::{Namespaces, Program, Root, architecture_of};

use super::build::{self, NetworkArguments};
use super::terminal::Terminal;

/// Run a program of an image over a throw-away copy of it
///
/// What the program writes is gone when it ends. Its exit code is hearth's.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    pub image: Image,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Which image, and what it is given.
#[derive(Debug, Args)]
pub struct Image {
    /// A recipe's name or path, or the directory of a root file system
    #[arg(value_name = "RECIPE")]
    image: String,
    /// The image as it is before any script has run in it
    #[arg(long)]
    unpacked: bool,
    /// Give the program the host's network
    #[arg(long)]
    network: bool,
    #[command(flatten)]
    sources: NetworkArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    arguments
        .image
        .become_program(Program::new(&arguments.command), terminal)
}

impl Image {
    /// Returns only if it fails.
    pub fn become_program(&self, mut program: Program, terminal: &Terminal) -> Result<ExitCode> {
        let (arch, layers, epoch) = self.layers(terminal)?;
        let [top, below @ ..] = &layers[..] else {
            return Err(Fault::input(format!("{} has no files", self.image)).into());
        };
        program.terminal = true;
        let root = Root {
            throw_away: true,
            below: below.to_vec(),
            network: self.network,
            ignore_syncs: false,
            epoch,
            ..Root::new(top)
        };
        Err(Namespaces::running(arch).become_program(root, program))
    }

    /// Architecture, directories (topmost first) and date of the image; builds it if need be.
    fn layers(&self, terminal: &Terminal) -> Result<(Arch, Vec<PathBuf>, u64)> {
        let directory = Path::new(&self.image);
        if self.image.contains('/') && directory.is_dir() {
            let directory = directory.canonicalize()?;
            let arch = architecture_of(&directory).ok_or_else(|| {
                Fault::input(format!(
                    "{} is no root file system that hearth can run",
                    directory.display()
                ))
            })?;
            return Ok((arch, vec![directory], 0));
        }
        let plan = build::plan(&self.image, &self.sources, terminal)?;
        let until = if self.unpacked {
            Until::Unpacked
        } else {
            Until::Complete
        };
        let layers = layers(&plan, until, terminal)?;
        Ok((plan.recipe.arch, layers, u64::try_from(plan.epoch)?))
    }
}
