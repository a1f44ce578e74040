//! `hearth __companion`, hidden: becomes a program that ends when hearth does, however hearth ends.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use hearth::error::Fault;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The process that must live
    parent: u32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What to put before a command line, so that its process ends with this one.
pub fn launcher() -> Vec<String> {
    vec![
        // Not by its path: a lab goes on with its program while that is replaced by a newer one.
        "/proc/self/exe".into(),
        "__companion".into(),
        std::process::id().to_string(),
    ]
}

/// Asks for SIGTERM when `parent`, which started this process, ends, however it ends. None asks for nothing.
///
/// # Errors
/// If that process has ended already.
pub fn end_with(parent: Option<u32>) -> Result<()> {
    let Some(parent) = parent else {
        return Ok(());
    };
    set_pdeathsig(Signal::SIGTERM).context("cannot ask to end with the caller")?;
    if parent_id() != parent {
        bail!(Fault::infrastructure(
            "the process that started this one has ended"
        ));
    }
    Ok(())
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL).context("cannot ask to end with hearth")?;
    // It may have died before the request was made.
    if parent_id() != arguments.parent {
        return Ok(ExitCode::FAILURE);
    }
    let program = &arguments.command[0];
    let error = Command::new(program).args(&arguments.command[1..]).exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}
