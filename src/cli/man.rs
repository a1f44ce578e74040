//! `hearth man`: the manual pages, made from the same text as `--help`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use hearth::error::Fault;
use hearth::output::Batch;
use hearth::recipe::suggestion;

use super::Cli;
use super::terminal::Terminal;

/// Print a manual page, or write all of them
#[derive(Debug, Args)]
pub struct Arguments {
    /// The subcommand [default: hearth itself]
    command: Option<String>,
    /// Write every page into this directory, as hearth-COMMAND.1
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let mut hearth = Cli::command();
    hearth.build();
    let pages = pages(&hearth);
    if let Some(directory) = &arguments.output {
        let mut batch = Batch::default();
        for page in &pages {
            batch.add(&directory.join(page.get_filename()), &render(page)?)?;
        }
        batch.commit()?;
        terminal.say(&format!(
            "wrote {} pages in {}",
            pages.len(),
            directory.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = match &arguments.command {
        None => "hearth.1".to_string(),
        Some(command) => format!("hearth-{command}.1"),
    };
    let Some(page) = pages.iter().find(|page| page.get_filename() == wanted) else {
        let name = arguments.command.as_deref().unwrap_or_default();
        let known: Vec<&str> = hearth.get_subcommands().map(Command::get_name).collect();
        return Err(Fault::input(format!("there is no command `{name}`"))
            .remedy(suggestion(name, &known))
            .into());
    };
    io::stdout().write_all(&render(page)?)?;
    Ok(ExitCode::SUCCESS)
}

/// One page for hearth and one for each of its subcommands.
fn pages(hearth: &Command) -> Vec<Man> {
    let page = |command: Command, name: String| Man::new(command.display_name(&name)).title(name);
    let mut pages = vec![page(hearth.clone(), "hearth".into())];
    for subcommand in hearth.get_subcommands().filter(|it| !it.is_hide_set()) {
        let name = format!("hearth-{}", subcommand.get_name());
        pages.push(page(subcommand.clone(), name));
    }
    pages
}

fn render(page: &Man) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(text)
}
