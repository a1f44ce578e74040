//! `hearth completions`: writes a shell's completion script to standard output.

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    clap_complete::generate(
        arguments.shell,
        &mut Cli::command(),
        "hearth",
        &mut io::stdout(),
    );
    Ok(ExitCode::SUCCESS)
}
