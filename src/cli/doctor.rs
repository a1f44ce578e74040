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
    /// The lab file whose ports are checked [default: $HEARTH_LAB, else
    /// lab.toml]
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

/// Breaks a text between words so that it fits the second column. A command between backquotes stays
/// on one line, to be copied, if it fits one.
fn wrap(text: &str) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in words(text) {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH - INDENT {
            wrapped += &format!("\n{:INDENT$}", "");
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped += &word;
        column += length;
    }
    wrapped
}

/// The words of a text, each quoted command as one word.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut quoted = false;
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(command) if quoted => *command += &format!(" {word}"),
            _ => words.push(word.to_string()),
        }
        quoted ^= word.matches('`').count() % 2 == 1;
    }
    let fits = |word: &str| word.chars().count() <= WIDTH - INDENT;
    words
        .iter()
        .flat_map(|word| match fits(word) {
            true => vec![word.clone()],
            false => word.split(' ').map(String::from).collect::<Vec<_>>(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_stays_on_one_line_if_it_fits() {
        let short = "as root: `sysctl -w net.ipv4.ip_unprivileged_port_start=69`; or another port";
        let lines: Vec<String> = wrap(short)
            .lines()
            .map(|it| it.trim().to_string())
            .collect();
        assert_eq!(
            lines,
            [
                "as root:",
                "`sysctl -w net.ipv4.ip_unprivileged_port_start=69`; or",
                "another port"
            ]
        );
        let long = format!(
            "as root: `usermod {} carol`",
            "--add-subuids 1-2 ".repeat(4).trim()
        );
        for line in wrap(&long).lines() {
            assert!(line.trim().len() <= WIDTH - INDENT, "{line}");
        }
        assert_eq!(
            wrap(&long).split_whitespace().collect::<Vec<_>>().join(" "),
            long
        );
    }
}
