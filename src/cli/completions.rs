//! `hearth completions`: writes a shell's completion script to standard output.

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

pub fn run(arguments: &Arguments, mut hearth: Command) -> Result<ExitCode> {
    clap_complete::generate(arguments.shell, &mut hearth, "hearth", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}
