//! `hearth private-network`: runs a command in a network of its own, for emulated boards.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;
use hearth::board::network;
use hearth::error::Fault;

/// Run a command in a network of its own, for emulated boards
///
/// In it the command and what it starts have a loopback device with one more
/// address, all ports for themselves, and no way out. Start `hearth serve` and
/// QEMU in the same one: `hearth private-network sh -c 'hearth serve & …'`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The servers' address, as in the lab file [default: 10.99.0.1]
    #[arg(long, value_name = "ADDRESS", default_value_t = network::SERVER, hide_default_value = true)]
    address: Ipv4Addr,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    network::enter(arguments.address)?;
    let (program, rest) = arguments
        .command
        .split_first()
        .ok_or_else(|| Fault::input("there is no command to run"))?;
    let error = Command::new(program).args(rest).exec();
    Err(Fault::host(format!("cannot run {}: {error}", program.to_string_lossy())).into())
}
