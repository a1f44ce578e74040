//! `hearth run` and what it shares with `hearth shell`: a program of an image, over a throw-away copy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::error::Fault;
use hearth::sandbox::{Namespaces, Program, Root, architecture_of};

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
    /// A recipe, or the directory of an unpacked root file system
    recipe: PathBuf,
    /// Give the program the host's network
    #[arg(long)]
    network: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments
        .image
        .become_program(Program::new(&arguments.command))
}

impl Image {
    /// Returns only if it fails.
    pub fn become_program(&self, mut program: Program) -> Result<ExitCode> {
        let directory = self.directory()?;
        let arch = architecture_of(&directory).ok_or_else(|| {
            Fault::input(format!(
                "{} is no root file system that hearth can run",
                directory.display()
            ))
        })?;
        program.terminal = true;
        let root = Root {
            throw_away: true,
            network: self.network,
            ignore_syncs: false,
            ..Root::new(directory)
        };
        Err(Namespaces::running(arch).become_program(root, program))
    }

    fn directory(&self) -> Result<PathBuf> {
        Ok(Path::new(&self.recipe).canonicalize()?)
    }
}
