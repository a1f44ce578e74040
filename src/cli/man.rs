//! `hearth man`: the manual pages, made from the same text as `--help`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command};
use clap_mangen::Man;
use hearth::error::Fault;
use hearth::output::Batch;
use hearth::recipe::suggestion;

use super::terminal::Terminal;

/// Print a manual page, or write all of them
#[derive(Debug, Args)]
pub struct Arguments {
    /// The subcommand, such as `image show` [default: hearth itself]
    command: Vec<String>,
    /// Write every page into this directory, as hearth-COMMAND.1
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, mut hearth: Command, terminal: &Terminal) -> Result<ExitCode> {
    hearth.build();
    let mut pages = BTreeMap::new();
    collect(&hearth, "hearth", &mut pages);
    if let Some(directory) = &arguments.output {
        let mut batch = Batch::default();
        for (name, page) in &pages {
            batch.add(&directory.join(format!("{name}.1")), &render(page)?)?;
        }
        batch.commit()?;
        terminal.say(&format!(
            "wrote {} pages in {}",
            pages.len(),
            directory.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let mut wanted = vec!["hearth"];
    wanted.extend(arguments.command.iter().map(String::as_str));
    let Some(page) = pages.get(&wanted.join("-")) else {
        let name = arguments.command.join(" ");
        let known: Vec<&str> = hearth.get_subcommands().map(Command::get_name).collect();
        return Err(Fault::input(format!("there is no command `{name}`"))
            .remedy(suggestion(&name, &known))
            .into());
    };
    io::stdout().write_all(&render(page)?)?;
    Ok(ExitCode::SUCCESS)
}

/// A page for the command and one for each of its subcommands, by name: `hearth-image-show`.
fn collect(command: &Command, name: &str, pages: &mut BTreeMap<String, Man>) {
    for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        let inner = format!("{name}-{}", subcommand.get_name());
        collect(subcommand, &inner, pages);
    }
    let page = Man::new(command.clone().display_name(name)).title(name);
    pages.insert(name.to_string(), page);
}

fn render(page: &Man) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_a_page_that_names_it() {
        let mut pages = BTreeMap::new();
        let mut hearth = Cli::command();
        hearth.build();
        collect(&hearth, "hearth", &mut pages);
        for name in ["hearth", "hearth-bootscript", "hearth-boards-show"] {
            let text = String::from_utf8(render(&pages[name]).unwrap()).unwrap();
            assert!(text.contains(&format!(".TH {name} 1")), "{text}");
            assert!(text.contains(&name.replace('-', "\\-")), "{text}");
        }
    }
}
