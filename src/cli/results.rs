//! `hearth report`: shows the report of a run, or converts it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hearth::job::report::{self, Format};
use hearth::output::{refuse_inputs, write_atomically};

/// Show or convert the report of a run
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
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::Show { report } => {
            let report = report::load(report)?;
            io::stdout().write_all(report::table(&report).as_bytes())?;
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
    }
    Ok(ExitCode::SUCCESS)
}
