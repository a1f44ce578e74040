//! `hearth run` and what it shares with `hearth shell`: a program of an image, over a throw-away copy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::build::{Until, layers};
use hearth::dirs;
use hearth::error::Fault;
use hearth::image::Manifest;
use hearth::ops::image_tree::{ImageTree, image_tree};
use hearth::recipe::{Arch, Limits};
use hearth::sandbox::{self, Namespaces, Program, Root, architecture_of};

use super::build::{self, NetworkArguments};
use super::terminal::Terminal;

/// Run a program of an image over a throw-away copy of it
///
/// What the program writes is gone when it ends. Its exit code is hearth's.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Which image, and what it is given.
#[derive(Debug, Args)]
pub struct ImageArguments {
    /// A recipe's name or path, the output directory of a build or an import,
    /// or the directory of a root file system
    #[arg(value_name = "RECIPE")]
    image: String,
    /// The image as it is before any script has run in it
    #[arg(long)]
    unpacked: bool,
    /// Give the program the host's network
    #[arg(long)]
    network: bool,
    /// Let it take no more than this: silence=SECONDS, output=SIZE,
    /// memory=SIZE, disk=SIZE or processes=NUMBER; may be repeated
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
    #[command(flatten)]
    sources: NetworkArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    arguments
        .image
        .run(Program::new(&arguments.command), terminal)
}

/// What is known of an image whose programs are to be run.
struct Found {
    arch: Arch,
    /// Directories, topmost first.
    layers: Vec<PathBuf>,
    epoch: u64,
    limits: Limits,
    /// Keeps what was laid out in the cache.
    _tree: Option<ImageTree>,
}

impl ImageArguments {
    /// Runs a program to its end, and gives its exit code.
    pub fn run(&self, program: Program, terminal: &Terminal) -> Result<ExitCode> {
        let mut given = Limits::default();
        for text in &self.limits {
            given.set(text).map_err(|wrong| {
                Fault::input(format!("--limit: {wrong}")).remedy("see docs/sandbox.md")
            })?;
        }
        let found = self.find(terminal)?;
        let [top, below @ ..] = &found.layers[..] else {
            return Err(Fault::input(format!("{} has no files", self.image)).into());
        };
        let root = Root {
            throw_away: true,
            below: below.to_vec(),
            network: self.network,
            ignore_syncs: false,
            epoch: found.epoch,
            limits: sandbox::Limits::by_hand().with(&found.limits.with(&given)),
            ..Root::new(top)
        };
        Namespaces::running(found.arch).attended(root, program)
    }

    /// Builds the image if need be.
    fn find(&self, terminal: &Terminal) -> Result<Found> {
        let directory = Path::new(&self.image);
        let is_output = directory.join(Manifest::FILE).is_file();
        if self.image.contains('/') && is_output {
            let tree = image_tree(directory, &dirs::cache(), terminal)?;
            return Ok(Found {
                arch: tree.arch,
                layers: vec![tree.directory.clone()],
                epoch: u64::try_from(tree.epoch)?,
                limits: Limits::default(),
                _tree: Some(tree),
            });
        }
        if self.image.contains('/') && directory.is_dir() {
            let directory = directory.canonicalize()?;
            let arch = architecture_of(&directory).ok_or_else(|| {
                Fault::input(format!(
                    "{} is no root file system that hearth can run",
                    directory.display()
                ))
            })?;
            return Ok(Found {
                arch,
                layers: vec![directory],
                epoch: 0,
                limits: Limits::default(),
                _tree: None,
            });
        }
        let plan = build::plan(&self.image, &self.sources, terminal)?;
        let until = if self.unpacked {
            Until::Unpacked
        } else {
            Until::Complete
        };
        let layers = layers(&plan, until, terminal)?;
        // Silence and output are limited in builds, which run unattended.
        let limits = Limits {
            silence: None,
            output: None,
            ..plan.recipe.limits.clone()
        };
        Ok(Found {
            arch: plan.recipe.arch,
            layers,
            epoch: u64::try_from(plan.epoch)?,
            limits,
            _tree: None,
        })
    }
}
