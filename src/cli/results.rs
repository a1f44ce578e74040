//! `hearth report`: shows, converts, lists and compares the reports of runs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hearth::error;
use hearth::job::report::{self, Format};
use hearth::ops::reports;
use hearth::output::{refuse_inputs, write_atomically};

use super::compared;
use super::table::Table;
use super::terminal::Terminal;

/// Show, convert, list or compare the reports of runs
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a report as a table
    Show {
        /// A report.json, or the directory of a run
        report: PathBuf,
    },
    /// Convert a report to another form
    Convert {
        /// A report.json, or the directory of a run
        report: PathBuf,
        /// The form
        #[arg(long, value_enum)]
        to: Format,
        /// The file to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the runs whose reports are in a directory
    List {
        /// The directory of runs [default: out/test]
        directory: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what changed from one run to another
    ///
    /// The exit code is 1 if something passed before and does not any more, and
    /// 0 otherwise.
    Compare {
        /// A report.json, or the directory of a run
        before: PathBuf,
        /// The same, of the later run
        after: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    match &arguments.action {
        Action::Show { report } => {
            let report = report::load(report)?;
            io::stdout().write_all(report::table(&report).as_bytes())?;
            if let Some(lack) = report::lack(&report) {
                terminal.say(&format!("this report {lack}"));
            }
        }
        Action::Convert { report, to, output } => {
            let text = report::render(&report::load(report)?, *to)?;
            match output {
                Some(file) => {
                    refuse_inputs(file, [report, &report.join("report.json")])?;
                    write_atomically(file, text.as_bytes())?;
                }
                None => io::stdout().write_all(text.as_bytes())?,
            }
        }
        Action::List { directory, json } => return list(directory.as_deref(), *json),
        Action::Compare {
            before,
            after,
            json,
        } => return compare(before, after, *json),
    }
    Ok(ExitCode::SUCCESS)
}

/// A report that cannot be read is told, and the others are listed.
fn list(directory: Option<&Path>, json: bool) -> Result<ExitCode> {
    let directory = directory.unwrap_or(Path::new(reports::DEFAULT));
    let listing = reports::list(directory)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &listing.runs)?;
        writeln!(out)?;
    } else {
        let heading = [
            "WHEN",
            "BOARD",
            "IMAGE",
            "VERDICT",
            "PASSED",
            "FAILED",
            "DIRECTORY",
        ];
        let mut table = Table::new(heading);
        for run in &listing.runs {
            table.row([
                &run.started,
                &run.board,
                &run.image,
                &run.verdict,
                &run.passed.to_string(),
                &run.failed.to_string(),
                &run.directory.display().to_string(),
            ]);
        }
        write!(out, "{table}")?;
    }
    for (_, error) in &listing.unreadable {
        log::warn!("{error:#}");
    }
    Ok(match listing.unreadable.first() {
        Some((_, error)) => ExitCode::from(error::class_of(error).exit_code()),
        None => ExitCode::SUCCESS,
    })
}

fn compare(before: &Path, after: &Path, json: bool) -> Result<ExitCode> {
    let compared = reports::compare(before, after)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &compared.comparison)?;
        writeln!(out)?;
    } else {
        out.write_all(compared::text(&compared).as_bytes())?;
    }
    Ok(ExitCode::from(u8::from(compared.comparison.regression)))
}
