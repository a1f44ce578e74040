//! Owns serving a lab until it is told to stop: servers, both APIs, the queue's manager, and systemd's notifications.
//! Never serves what an image is not in: see `netboot`.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::lab_runs::Processes;
use super::servers::with_api;
use crate::dirs;
use crate::error::Fault;
use crate::lab::service::{Directories, Lab, Manager, Parts};
use crate::lab::{LabStore, listing, people};
use crate::netboot::serve::Server;
use crate::netboot::serve::current_lab::CurrentLab;
use crate::progress::Progress;
use crate::recipe::LoadedLab;

/// Serves the lab's boards and its queue until SIGINT or SIGTERM. `images` is the directory that builds are in, `inherited`
/// the sockets that systemd opened.
///
/// # Errors
/// If a socket or the lab's store cannot be opened, or another process serves a lab with this state.
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
    let mut signals = Signals::new()?;
    let state = dirs::state();
    let store = Arc::new(LabStore::open(&state.join("lab.sqlite"))?);
    let _only = only(&state)?;
    let server = Server::open(lab.clone(), images, inherited)?;
    let operator = store.operator_token()?;
    let list = listing(Arc::new(server.index()), lab.settings.address, &operator);
    let (running, manager) = queue(&lab, images, &state, &server, &store)?;
    let people = people(
        Arc::clone(&running),
        &lab.settings.name,
        lab.settings.address,
        &operator,
    );
    let server = with_api(server, &lab, Arc::clone(&store))
        .with_routes(list)
        .with_routes(people);
    for line in server.status() {
        progress.note(&line);
    }
    progress.note(&queued(&store)?);
    let managed = tokio::task::spawn_blocking(move || manager.run());
    let served_images = server.images();
    let stop = async {
        signals.wait(|| served_images.refresh()).await;
        running.stop();
        progress.note("ending the jobs that run; again: at once");
        // Boards need the servers until they are off.
        tokio::select! {
            _ = managed => {}
            () = signals.wait(|| ()) => {}
        }
    };
    sd_notify::notify(&[NotifyState::Ready])
        .context("cannot tell systemd that the server is ready")?;
    server.run(stop).await?;
    sd_notify::notify(&[NotifyState::Stopping]).ok();
    progress.note("stopped");
    Ok(())
}

/// The signals that end a lab, and the one that has it look for new images.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends the lab.
    async fn wait(&mut self, refresh: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => refresh(),
            }
        }
    }
}

/// The lab's queue and its manager.
fn queue(
    lab: &LoadedLab,
    images: &Path,
    state: &Path,
    server: &Server,
    store: &Arc<LabStore>,
) -> Result<(Arc<Lab>, Manager)> {
    let current = CurrentLab::new(lab.clone());
    let lab_file = lab.path.clone().context("a lab is served from its file")?;
    let state = absolute(state)?;
    Ok(Lab::new(Parts {
        store: Arc::clone(store),
        // A file that is broken now was right then.
        roster: Arc::new(move || current.get().unwrap_or_else(|_| current.first().clone())),
        runner: Arc::new(Processes::new(server.images())?),
        directories: Directories::open(&state)?,
        images: absolute(images)?,
        lab_file: absolute(&lab_file)?,
    }))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))
}

fn queued(store: &LabStore) -> Result<String> {
    Ok(match store.counts()? {
        (0, 0) => "the queue is empty: `hearth submit` gives the lab jobs".into(),
        (waiting, running) => format!("jobs: {waiting} waiting, {running} on boards"),
    })
}

/// Makes sure that this is the only lab with this state: two would give one board two jobs.
fn only(state: &Path) -> Result<File> {
    let path = state.join("serve.lock");
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    if lock.try_lock().is_err() {
        let mut who = String::new();
        lock.read_to_string(&mut who)?;
        return Err(Fault::host(format!(
            "another `hearth serve` (process {}) has the lab's state in {}",
            who.trim(),
            state.display()
        ))
        .remedy("end it, or give this lab a directory of its own with HEARTH_STATE")
        .into());
    }
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{}", std::process::id())?;
    Ok(lock)
}
