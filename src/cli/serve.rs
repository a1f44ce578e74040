//! `hearth serve`: TFTP, NFS, HTTP and DHCP for the lab's boards, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use hearth::dirs;
use hearth::error::Fault;
use hearth::lab::{LabStore, listing};
use hearth::netboot::serve::Server;
use hearth::recipe::LoadedLab;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::serving::with_api;
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
    /// The directory that builds are in, each a directory
    #[arg(long, value_name = "DIR", default_value = "out")]
    images: PathBuf,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    // Before any thread runs: it takes variables out of the environment.
    let inherited = ListenFd::from_env();
    let lab = LoadedLab::find(arguments.lab.as_deref())?.ok_or_else(|| {
        Fault::input("there is no lab.toml here")
            .remedy("name the lab file with --lab; recipes/lab-example.toml is one to begin with")
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(serve(lab, arguments, inherited, terminal))?;
    // Transfers under way are cut off: boards ask again.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    lab: LoadedLab,
    arguments: &Arguments,
    inherited: ListenFd,
    terminal: &Terminal,
) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let store = Arc::new(LabStore::open(&dirs::state().join("lab.sqlite"))?);
    let server = Server::open(lab.clone(), &arguments.images, inherited)?;
    let list = listing(
        Arc::new(server.index()),
        lab.settings.address,
        &store.operator_token()?,
    );
    let server = with_api(server, &lab, store).with_routes(list);
    for line in server.status() {
        terminal.say(&line);
    }
    let store = server.store();
    let stop = async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                _ = hangup.recv() => store.refresh(),
            }
        }
    };
    sd_notify::notify(&[NotifyState::Ready])
        .context("cannot tell systemd that the server is ready")?;
    server.run(stop).await?;
    sd_notify::notify(&[NotifyState::Stopping]).ok();
    terminal.say("stopped");
    Ok(())
}
