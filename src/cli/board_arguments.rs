//! Owns what the commands that switch a board on have in common: which board, and how a signal ends the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use hearth::lab::client::Client;
use hearth::lab::service::BoardStatus;
use hearth::ops::target::{Choice, Host, Target};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::build::NetworkArguments;
use super::companion;
use super::lab_arguments::lab_of;
use super::power::asking;
use super::terminal::Terminal;

/// Which board
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// A board of the lab, or a board type
    board: String,
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// The recipe to boot instead of the board's own
    #[arg(long)]
    recipe: Option<String>,
    /// Boot what this output directory of a build holds, and build nothing
    #[arg(long, value_name = "DIR", conflicts_with = "recipe")]
    image: Option<PathBuf>,
    /// Fail at once if another run has the board, instead of waiting
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    network: NetworkArguments,
}

impl TargetArguments {
    /// See [`Target::ready`].
    pub fn ready(&self, terminal: &Terminal) -> Result<Target> {
        self.network.with_sources(terminal, |sources| {
            Target::ready(&self.choice(), sources, terminal)
        })
    }

    /// See [`Target::built`].
    pub fn built(&self, terminal: &Terminal) -> Result<Target> {
        self.network.with_sources(terminal, |sources| {
            Target::built(&self.choice(), sources, terminal)
        })
    }

    /// The running lab that has the board, if there is one; see [`lab_of`].
    pub fn lab(&self) -> Result<Option<(Client, BoardStatus)>> {
        lab_of(self.lab.as_deref(), &self.board)
    }

    fn choice(&self) -> Choice<'_> {
        Choice {
            board: &self.board,
            lab: self.lab.as_deref(),
            recipe: self.recipe.as_deref(),
            image: self.image.as_deref(),
            builds: Path::new("out"),
        }
    }

    /// Whether a board that another run has is waited for.
    pub fn waits(&self) -> bool {
        !self.no_wait
    }
}

/// What the run needs of this program.
pub fn host() -> Result<Host> {
    Ok(Host {
        launcher: companion::launcher(),
        ask: asking(),
    })
}

/// Becomes true when this process is told to end.
pub fn cancelled_by_signal() -> Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled))?;
    }
    Ok(cancelled)
}
