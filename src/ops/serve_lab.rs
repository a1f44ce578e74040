//! Owns serving a lab until it is told to stop: servers, the boards' API, and systemd's notifications.
//! Never serves what an image is not in: see `netboot`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::servers::with_api;
use crate::dirs;
use crate::lab::{LabStore, listing};
use crate::netboot::serve::Server;
use crate::progress::Progress;
use crate::recipe::LoadedLab;

/// Serves the lab's boards until SIGINT or SIGTERM. `images` is the directory that builds are in, `inherited` the sockets
/// that systemd opened.
///
/// # Errors
/// If a socket or the lab's store cannot be opened.
pub fn serve_lab(
    lab: LoadedLab,
    images: &Path,
    inherited: ListenFd,
    progress: &dyn Progress,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(serve(lab, images, inherited, progress))?;
    // Transfers under way are cut off: boards ask again.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(
    lab: LoadedLab,
    images: &Path,
    inherited: ListenFd,
    progress: &dyn Progress,
) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let store = Arc::new(LabStore::open(&dirs::state().join("lab.sqlite"))?);
    let server = Server::open(lab.clone(), images, inherited)?;
    let list = listing(
        Arc::new(server.index()),
        lab.settings.address,
        &store.operator_token()?,
    );
    let server = with_api(server, &lab, store).with_routes(list);
    for line in server.status() {
        progress.note(&line);
    }
    let store = server.images();
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
    progress.note("stopped");
    Ok(())
}
