//! Owns what the commands that switch a board on have in common: which board, and how a signal ends the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use hearth::error::Fault;
use hearth::lab::client::Client;
use hearth::lab::service::BoardStatus;
use hearth::ops::target::{Choice, Host, Target};
use hearth::recipe::{Board, BootMethod, Login, board_or_type};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::build::NetworkArguments;
use super::companion;
use super::lab_arguments::lab_of;
use super::own::OwnArguments;
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
    /// Where the root file system comes from: the image by NFS, the card's
    /// own partition, or the initrd [default: the board's]
    #[arg(long, value_name = "METHOD", value_parser = boot_method)]
    boot: Option<BootMethod>,
    /// Log in on the console as this user, and have its shell run the tests
    ///
    /// For a root without hearth's agent. See docs/any-root.md.
    #[arg(long, value_name = "USER")]
    login: Option<String>,
    /// The user's password; better put it into the lab file
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
    /// What the shell shows when it waits, a regular expression: 'root@.*#'
    ///
    /// Without --login, for a console that is a shell at once.
    #[arg(long, value_name = "REGEX")]
    prompt: Option<String>,
    /// Fail at once if another run has the board, instead of waiting
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    network: NetworkArguments,
    #[command(flatten)]
    own: OwnArguments,
}

impl TargetArguments {
    /// See [`Target::ready`].
    pub fn ready(&self, terminal: &Terminal) -> Result<Target> {
        let login = self.login()?;
        self.network.with_sources(terminal, |sources| {
            Target::ready(&self.choice(login.as_ref()), sources, terminal)
        })
    }

    /// See [`Target::built`].
    pub fn built(&self, terminal: &Terminal) -> Result<Target> {
        let login = self.login()?;
        self.network.with_sources(terminal, |sources| {
            Target::built(&self.choice(login.as_ref()), sources, terminal)
        })
    }

    /// The running lab that has the board, if there is one; see [`lab_of`].
    pub fn lab(&self) -> Result<Option<(Client, BoardStatus)>> {
        lab_of(self.lab.as_deref(), &self.board)
    }

    /// Whether the board boots or is reached in a way that only this command knows of.
    pub fn is_special(&self) -> bool {
        let has_login = self.login.is_some() || self.password.is_some() || self.prompt.is_some();
        has_login || self.boot.is_some() || !self.own.own().is_empty()
    }

    fn choice<'a>(&'a self, login: Option<&'a Login>) -> Choice<'a> {
        Choice {
            board: &self.board,
            lab: self.lab.as_deref(),
            recipe: self.recipe.as_deref(),
            image: self.image.as_deref(),
            own: self.own.own(),
            exactly: None,
            boot: self.boot,
            login,
            builds: Path::new("out"),
        }
    }

    fn login(&self) -> Result<Option<Login>> {
        let login = Login {
            user: self.login.clone(),
            password: self.password.clone(),
            prompt: self.prompt.clone(),
        };
        login.check().map_err(|(key, wrong)| {
            let option = if key == "user" { "login" } else { key };
            Fault::input(format!("--{option}: {wrong}"))
        })?;
        Ok((login != Login::default()).then_some(login))
    }

    /// The board and the recipe that it boots, as far as the arguments and the lab file say.
    pub fn board(&self) -> Result<Board> {
        let (_, mut board) = board_or_type(self.lab.as_deref(), &self.board)?;
        if self.recipe.is_some() {
            board.recipe.clone_from(&self.recipe);
        }
        Ok(board)
    }

    /// Whether a board that another run has is waited for.
    pub fn waits(&self) -> bool {
        !self.no_wait
    }
}

fn boot_method(name: &str) -> Result<BootMethod, String> {
    let names = BootMethod::ALL.map(BootMethod::name);
    let found = BootMethod::ALL
        .into_iter()
        .find(|method| method.name() == name);
    found.ok_or_else(|| format!("a board boots by one of {}", names.join(", ")))
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
