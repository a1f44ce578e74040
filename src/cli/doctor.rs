//! `hearth doctor`: says what the host lacks, and what to do about it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::doctor::{Check, Host, State, examine, is_able};
use hearth::error::Class;
use hearth::recipe::{LoadedLab, Ports};

/// Check this host for what hearth needs, and how to get it
///
/// Ends with exit code 3 if something is missing without which images cannot
/// be built. Changes nothing.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The lab file whose ports are checked; HEARTH_LAB, else lab.toml, by
    /// default
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

/// As wide as the text may be.
const WIDTH: usize = 80;
/// Where the second column begins.
const INDENT: usize = 24;

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let lab = LoadedLab::find(arguments.lab.as_deref())?;
    let ports = lab.map_or_else(Ports::default, |lab| lab.settings.ports);
    let checks = examine(&Host, &ports);
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &checks)?;
        writeln!(out)?;
    } else {
        for check in &checks {
            out.write_all(lines(check).as_bytes())?;
        }
    }
    Ok(if is_able(&checks) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Class::Host.exit_code())
    })
}

/// A check as lines of at most [`WIDTH`] columns, if its words allow that.
fn lines(check: &Check) -> String {
    let state = match check.state {
        State::Good => "good",
        State::Limited => "limited",
        State::Missing => "MISSING",
    };
    let mut text = format!("{state:8}{:<16}{}\n", check.name, wrap(&check.found));
    if let Some(remedy) = &check.remedy {
        text += &format!("{:INDENT$}{}\n", "", wrap(&format!("-> {remedy}")));
    }
    text
}

/// Breaks a text between words so that it fits the second column.
fn wrap(text: &str) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH - INDENT {
            wrapped += &format!("\n{:INDENT$}", "");
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped += word;
        column += length;
    }
    wrapped
}
