//! `hearth serve`: TFTP, NFS, HTTP and DHCP for the lab's boards, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::error::Fault;
use hearth::ops::serve_lab::serve_lab;
use hearth::recipe::LoadedLab;
use listenfd::ListenFd;

use super::terminal::Terminal;

/// Serve a lab's boards: TFTP, NFS root, HTTP, DHCP if asked
///
/// Every board gets the boot script and the image that are current when it
/// boots; a board that runs keeps the image it has, even when that is built
/// again. Nothing is extracted, and no privilege is needed where the ports
/// are allowed (sysctl net.ipv4.ip_unprivileged_port_start).
#[derive(Debug, Args)]
pub struct Arguments {
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// The directory of the builds' output directories [default: out]
    #[arg(
        long,
        value_name = "DIR",
        default_value = "out",
        hide_default_value = true
    )]
    images: PathBuf,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    // Before any thread runs: it takes variables out of the environment.
    let inherited = ListenFd::from_env();
    let lab = LoadedLab::find(arguments.lab.as_deref())?.ok_or_else(|| {
        Fault::input("there is no lab.toml here")
            .remedy("name the lab file with --lab; `hearth files recipes/lab-example.toml` prints one to begin with")
    })?;
    serve_lab(lab, &arguments.images, inherited, terminal)?;
    Ok(ExitCode::SUCCESS)
}
