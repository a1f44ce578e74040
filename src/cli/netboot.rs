//! `hearth netboot`: writes the files that a TFTP server needs for a lab's boards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth::clock;
use hearth::error::Fault;
use hearth::netboot::tree::{Client, NetbootTree};
use hearth::ops::BuildOutput;
use hearth::recipe::{Board, LoadedLab, board_or_type};
use hearth::uboot::Templates;

use super::terminal::Terminal;

/// Write the tree of a TFTP server: kernel, initrd, scripts
///
/// Takes the boards of the lab that boot the recipe. Each gets its own boot
/// script; a board without a card finds it by its MAC. `hearth serve` needs no
/// such tree.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The recipe whose image the boards boot: a name or a file
    recipe: String,
    /// The directory to write; what is there of an earlier tree is replaced
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Only this board, or a board type; may be repeated
    #[arg(long, value_name = "BOARD")]
    board: Vec<String>,
    /// The output of `hearth build` [default: out/RECIPE]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The NFS root is a tree of `hearth provision --to DIR`
    #[arg(long, value_name = "DIR")]
    nfs_root: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let build = BuildOutput::find(&arguments.recipe, arguments.from.as_deref())?;
    let (lab, boards) = boards(arguments)?;
    let clients: Vec<Client<'_>> = boards
        .iter()
        .map(|board| Client {
            board,
            build: &build.directory,
            image: &build.image,
        })
        .collect();
    let nfs_root = arguments.nfs_root.as_deref().map(as_exported).transpose()?;
    NetbootTree {
        lab: &lab.settings,
        clients: &clients,
        templates: &Templates::load()?,
        nfs_root: nfs_root.as_deref(),
        time: clock::reproducible()?,
    }
    .write(&arguments.output, terminal)?;
    terminal.say(&format!("wrote {}", arguments.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// The path under which boards mount the directory: as `hearth provision` exports it, and they know no working directory.
fn as_exported(directory: &Path) -> Result<PathBuf> {
    // It may be one of another host.
    directory
        .canonicalize()
        .or_else(|_| std::path::absolute(directory))
        .with_context(|| format!("cannot tell the whole path of {}", directory.display()))
}

/// The boards that were named, else those of the lab that boot the recipe.
fn boards(arguments: &Arguments) -> Result<(LoadedLab, Vec<Board>)> {
    let lab = arguments.lab.as_deref();
    if let Some((first, others)) = arguments.board.split_first() {
        let (found, board) = board_or_type(lab, first)?;
        let mut boards = vec![board];
        for name in others {
            boards.push(found.board(name)?.clone());
        }
        return Ok((found, boards));
    }
    let mut lab = LoadedLab::find(lab)?.ok_or_else(|| {
        Fault::input("there is no lab file here")
            .remedy("name one with --lab FILE, or a board type with --board TYPE")
    })?;
    let mut boards = std::mem::take(&mut lab.boards);
    boards.retain(|board| {
        let recipe = board.recipe.as_deref();
        recipe.is_none_or(|recipe| name(recipe) == name(&arguments.recipe))
    });
    if boards.is_empty() {
        return Err(Fault::input(format!(
            "no board of lab `{}` boots `{}`",
            lab.settings.name, arguments.recipe
        ))
        .remedy("set the boards' `recipe` in the lab file")
        .into());
    }
    Ok((lab, boards))
}

/// The name of a recipe that is given by name or file.
fn name(recipe: &str) -> &std::ffi::OsStr {
    Path::new(recipe).file_stem().unwrap_or_default()
}
