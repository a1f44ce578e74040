//! `hearth lock`: resolves a recipe against the archive and writes its lock.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::archive::{Cache, Fetcher, Limits, Mirrors, Options, Policy, Update};
use hearth::clock;
use hearth::ops::lock::{Relocked, lock};
use hearth::recipe::RecipeFile;

use super::changes;
use super::terminal::Terminal;

/// Choose the exact packages of a recipe and write its lock
///
/// Versions that are already locked stay, as long as the archive has them.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The recipe's name, or the path of its file
    recipe: String,
    /// Take the newest versions: of all packages, or of these
    #[arg(long, value_name = "PACKAGE", num_args = 0..)]
    update: Option<Vec<String>>,
    #[command(flatten)]
    mirrors: MirrorArguments,
    /// Accept releases whose time is over
    #[arg(long)]
    allow_expired: bool,
    /// Accept releases that are older than the lock's
    #[arg(long)]
    allow_rollback: bool,
}

/// Where packages come from
#[derive(Debug, Clone, Default, Args)]
pub struct MirrorArguments {
    /// Address of the mirror; else $HEARTH_MIRROR, else this host's
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// The same for security updates; else $HEARTH_MIRROR_SECURITY
    #[arg(long, value_name = "URL")]
    pub mirror_security: Option<String>,
}

impl MirrorArguments {
    /// A fetcher into the user's cache.
    pub fn fetcher(&self) -> Fetcher {
        let mirrors = Mirrors::find(self.mirror.as_deref(), self.mirror_security.as_deref());
        Fetcher::new(Cache::default(), mirrors, Limits::default())
    }
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let file = RecipeFile::open(&arguments.recipe)?;
    let fetcher = arguments.mirrors.fetcher();
    let options = Options {
        update: match &arguments.update {
            None => Update::Vanished,
            Some(names) if names.is_empty() => Update::All,
            Some(names) => Update::Only(names.clone()),
        },
        policy: Policy {
            now: clock::now(),
            allow_expired: arguments.allow_expired,
        },
        allow_rollback: arguments.allow_rollback,
    };
    tell(&lock(&file, &fetcher, &options, terminal)?, terminal)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells what is different in a lock that was made.
pub fn tell(relocked: &Relocked, terminal: &Terminal) -> Result<()> {
    let path = relocked.path.display();
    if !relocked.is_new() {
        terminal.say(&format!("{path} is up to date"));
        return Ok(());
    }
    match &relocked.before {
        Some(before) => changes::print(&before.changes(&relocked.lock))?,
        None => terminal.say(&format!("{} packages", relocked.lock.packages.len())),
    }
    terminal.say(&format!("wrote {path}"));
    Ok(())
}
