//! `hearth __run-job`, hidden: one attempt at a job of a lab, in a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::ops::run_job::run_job;

use super::board_arguments::{cancelled_by_signal, host};
use super::build::NetworkArguments;
use super::terminal::Terminal;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The directory of the attempt's order
    directory: PathBuf,
    #[command(flatten)]
    network: NetworkArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let host = host()?;
    arguments.network.with_sources(terminal, |sources| {
        run_job(
            &arguments.directory,
            host,
            cancelled_by_signal,
            sources,
            terminal,
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
