//! `hearth build`: makes a master image, and what boards boot from it.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::build::{self, Built, Plan};
use hearth::ops::plan::{self, Sources};

use super::lock::{self, MirrorArguments};
use super::terminal::Terminal;

/// Build a master image and everything that boards boot from it
///
/// Stages whose inputs did not change are taken from the cache.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A recipe's name or path
    recipe: String,
    /// Where the results go [default: out/RECIPE]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Say for each stage why it ran
    #[arg(long)]
    explain: bool,
    /// Run the image's own programs only, under qemu-user: slower, same bytes
    #[arg(long)]
    emulate: bool,
    /// How many threads unpack [default: all processors]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    network: NetworkArguments,
}

/// What may be asked of the network
#[derive(Debug, Clone, Args)]
pub struct NetworkArguments {
    /// Fail where the lock would have to be made or changed
    #[arg(long)]
    locked: bool,
    /// Do not use the network
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    mirrors: MirrorArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let mut plan = plan(&arguments.recipe, &arguments.network, terminal)?;
    if let Some(threads) = arguments.threads {
        plan.threads = threads.get();
    }
    plan.emulate = arguments.emulate;
    let out = match &arguments.output {
        Some(out) => out.clone(),
        None => PathBuf::from("out").join(&plan.name),
    };
    let built = build::build(&plan, &out, terminal)?;
    if arguments.explain {
        explain(&built, terminal);
    }
    let image = &built.manifest.image;
    match built.written {
        true => terminal.say(&format!("wrote {} ({image})", out.display())),
        false => terminal.say(&format!("{} is up to date ({image})", out.display())),
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(built: &Built, terminal: &Terminal) {
    for stage in &built.stages {
        let verb = if stage.ran { "ran" } else { "kept" };
        terminal.say(&format!("{:12} {verb}: {}", stage.stage, stage.reason));
    }
}

impl NetworkArguments {
    /// Calls `run` with what these arguments allow; a lock that had to be made is told.
    pub fn with_sources<T>(
        &self,
        terminal: &Terminal,
        run: impl FnOnce(&Sources<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut fetcher = self.mirrors.fetcher();
        fetcher.offline = self.offline;
        run(&Sources {
            fetcher,
            locked: self.locked,
            on_lock: &|relocked| lock::tell(relocked, terminal),
        })
    }
}

/// See [`hearth::ops::plan::plan`].
pub fn plan(recipe: &str, network: &NetworkArguments, terminal: &Terminal) -> Result<Plan> {
    network.with_sources(terminal, |sources| plan::plan(recipe, sources, terminal))
}
