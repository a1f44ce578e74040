//! `hearth man`: the manual pages, made from the same text as `--help`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{self, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use hearth::error::Fault;
use hearth::output::Batch;
use hearth::recipe::suggestion;

use super::terminal::Terminal;

/// Show a manual page, or write all of them
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
    collect(&hearth, "hearth", &mut pages)?;
    if let Some(directory) = &arguments.output {
        let mut batch = Batch::default();
        for (name, page) in &pages {
            batch.add(&directory.join(format!("{name}.1")), page)?;
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
        let shown = hearth.get_subcommands().filter(|it| !it.is_hide_set());
        let known: Vec<&str> = shown.map(Command::get_name).collect();
        return Err(Fault::input(format!("there is no command `{name}`"))
            .remedy(suggestion(&name, &known))
            .into());
    };
    if !io::stdout().is_terminal() || !shown_by_man(page)? {
        io::stdout().write_all(page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats a page with man(1); returns `false` where that is not installed.
fn shown_by_man(page: &[u8]) -> Result<bool> {
    let mut man = process::Command::new("man");
    let mut man = match man.args(["-l", "-"]).stdin(process::Stdio::piped()).spawn() {
        Ok(man) => man,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context("cannot run man"),
    };
    let mut input = man.stdin.take().expect("its input is a pipe");
    match input.write_all(page) {
        // The user has left before the end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to man")?,
    }
    drop(input);
    man.wait().context("cannot wait for man")?;
    Ok(true)
}

/// A page for the command and one for each of its subcommands, by name: `hearth-image-show`.
fn collect(command: &Command, name: &str, pages: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        let inner = format!("{name}-{}", subcommand.get_name());
        collect(subcommand, &inner, pages)?;
    }
    pages.insert(name.to_string(), render(command, name)?);
    Ok(())
}

fn render(command: &Command, name: &str) -> Result<Vec<u8>> {
    let mut command = command.clone();
    let usage = command.render_usage().to_string();
    // In the order of their names.
    let command = command.mut_subcommands(|it| it.display_order(0));
    let has_subcommands = command.get_subcommands().any(|it| !it.is_hide_set());
    let page = Man::new(command.display_name(name))
        .title(name)
        .source(concat!("hearth ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    synopsis(&usage).to_writer(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if has_subcommands {
        page.render_subcommands_section(&mut text)?;
    }
    if name == "hearth" {
        for (title, entries) in SECTIONS {
            section(title, entries).to_writer(&mut text)?;
        }
    }
    Ok(text)
}

/// The usage as in `--help`, a paragraph for each of its lines: clap_mangen's own synopsis names
/// every option.
fn synopsis(usage: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for line in usage.trim_start_matches("Usage:").lines() {
        roff.text([roman(line.trim())]);
        roff.control("br", []);
    }
    roff
}

/// Sections of hearth's own page, each with terms and their meanings.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Tests failed, or what was compared differs."),
            ("2", "Bad usage or input: an argument, a file, a recipe."),
            ("3", "The host lacks something; see hearth-doctor(1)."),
            (
                "4",
                "A board, a network, a mirror or a power switch failed.",
            ),
            ("70", "A fault of hearth itself."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("HEARTH_LAB", "The lab file; lab.toml by default."),
            (
                "HEARTH_LAB_URL",
                "The running lab that jobs are given to, as http://HOST:8420.",
            ),
            (
                "HEARTH_TOKEN_FILE",
                "A file with the token for a running lab on another host.",
            ),
            (
                "HEARTH_MIRROR, HEARTH_MIRROR_SECURITY",
                "Addresses of the mirrors; those of the host's APT by default.",
            ),
            (
                "HEARTH_DATA",
                "A directory with recipes and boot scripts, searched first.",
            ),
            (
                "HEARTH_CACHE",
                "Downloads and built stages; $XDG_CACHE_HOME/hearth by default.",
            ),
            (
                "HEARTH_STATE",
                "Runs, console logs and the lab's store; $XDG_STATE_HOME/hearth by default.",
            ),
            (
                "SOURCE_DATE_EPOCH",
                "The date of what is made, in seconds since 1970.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            ("lab.toml", "The lab and its boards."),
            (
                "recipes/, recipes/boards/, boot-scripts/",
                "Recipes, board types and templates of boot scripts. Searched in $HEARTH_DATA, the \
                 working directory, $XDG_DATA_HOME/hearth (~/.local/share/hearth) and share/hearth \
                 of the installation; hearth-files(1) lists those that come with hearth.",
            ),
        ],
    ),
];

fn section(title: &str, entries: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, meaning) in entries {
        roff.control("TP", []);
        let term = match title {
            "FILES" => italic(*term),
            _ => bold(*term),
        };
        roff.text([term]);
        roff.text([roman(*meaning)]);
    }
    roff
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
        collect(&hearth, "hearth", &mut pages).unwrap();
        for name in ["hearth", "hearth-bootscript", "hearth-boards-show"] {
            let text = String::from_utf8(pages[name].clone()).unwrap();
            assert!(text.contains(&format!(".TH {name} 1")), "{text}");
            assert!(text.contains(&name.replace('-', "\\-")), "{text}");
        }
    }

    #[test]
    fn every_environment_variable_of_the_directories_is_in_hearths_page() {
        let mut hearth = Cli::command();
        hearth.build();
        let page = String::from_utf8(render(&hearth, "hearth").unwrap()).unwrap();
        let source = include_str!("../dirs.rs");
        let variables = source.split('"').filter(|it| it.starts_with("HEARTH_"));
        for variable in variables.chain(["HEARTH_LAB", "HEARTH_MIRROR"]) {
            assert!(page.contains(&variable.replace('-', "\\-")), "{variable}");
        }
    }
}
