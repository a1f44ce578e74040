//! `hearth lock`: resolves a recipe against the archive and writes its lock.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::archive::{self, Cache, Fetcher, Limits, Mirrors, Options, Policy, Update};
use hearth::clock;
use hearth::error::Fault;
use hearth::recipe::{Lock, RecipeFile};

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
#[derive(Debug, Clone, Args)]
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
    if file.is_built_in() {
        return Err(Fault::input(format!(
            "the recipe {} is part of hearth, with its lock",
            file.name
        ))
        .remedy("put a recipe of your own into a file, and lock that")
        .into());
    }
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
    update(&file, &fetcher, &options, terminal).map(|_| ExitCode::SUCCESS)
}

/// Makes the lock of a recipe that has none that fits.
pub fn refresh(file: &RecipeFile, fetcher: &Fetcher, terminal: &Terminal) -> Result<Lock> {
    let options = Options {
        update: Update::Vanished,
        policy: Policy {
            now: clock::now(),
            allow_expired: false,
        },
        allow_rollback: false,
    };
    update(file, fetcher, &options, terminal)
}

/// Makes the lock, writes it, and tells what is different.
fn update(
    file: &RecipeFile,
    fetcher: &Fetcher,
    options: &Options,
    terminal: &Terminal,
) -> Result<Lock> {
    let old = file.existing_lock()?;
    let new = archive::make_lock(fetcher, file, old.as_ref(), options, terminal)?;
    let path = file.lock_path();
    if old.as_ref() == Some(&new) {
        terminal.say(&format!("{} is up to date", path.display()));
        return Ok(new);
    }
    new.save(&path)?;
    match &old {
        Some(old) => changes::print(&old.changes(&new))?,
        None => terminal.say(&format!("{} packages", new.packages.len())),
    }
    terminal.say(&format!("wrote {}", path.display()));
    Ok(new)
}
