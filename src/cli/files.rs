//! `hearth files`: lists, prints or copies the files that come with hearth.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth::data::shipped_files;
use hearth::error::Fault;
use hearth::output::Batch;
use hearth::recipe::suggestion;

use super::terminal::Terminal;

/// List, print or copy recipes, boot scripts and examples
///
/// These files are part of the program; a copy is a beginning for one of your
/// own. Without a path, lists all of them.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print these, such as recipes/lab-example.toml
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Copy them, or all without a path, below this directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let chosen = choose(&arguments.paths)?;
    if let Some(directory) = &arguments.output {
        let taken = chosen.iter().map(|(path, _)| directory.join(path));
        if let Some(taken) = taken.into_iter().find(|path| path.exists()) {
            return Err(Fault::input(format!("{} exists already", taken.display()))
                .remedy("name another directory, or the files that you want")
                .into());
        }
        let mut batch = Batch::default();
        for (path, text) in &chosen {
            batch.add(&directory.join(path), text.as_bytes())?;
        }
        batch.commit()?;
        terminal.say(&format!(
            "wrote {} files below {}",
            chosen.len(),
            directory.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    for (path, text) in chosen {
        if arguments.paths.is_empty() {
            writeln!(out, "{path}")
        } else {
            out.write_all(text.as_bytes())
        }
        .context("cannot write to standard output")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The files at these paths with their texts; all files if there are none.
fn choose(paths: &[String]) -> Result<Vec<(&'static str, &'static str)>> {
    let all = shipped_files();
    if paths.is_empty() {
        return Ok(all.to_vec());
    }
    paths
        .iter()
        .map(|path| {
            let found = all.iter().find(|(shipped, _)| shipped == path);
            found.copied().ok_or_else(|| {
                let known: Vec<&str> = all.iter().map(|(shipped, _)| *shipped).collect();
                Fault::input(format!("no file `{path}` comes with hearth"))
                    .remedy(suggestion(path, &known))
                    .into()
            })
        })
        .collect()
}
