//! Owns the servers that run beside a use case, in a thread of their own.
//! Never decides what they serve: see `netboot` and `lab`.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::{Known, LabStore, router};
use crate::netboot::serve::current_lab::CurrentLab;
use crate::netboot::serve::{Pin, Server};
use crate::recipe::LoadedLab;
use anyhow::{Context, Result};
use listenfd::ListenFd;
use tokio::sync::oneshot;

use super::target::Target;

/// How long another `hearth serve` may take to answer on the lab's HTTP port.
const PROBE: Duration = Duration::from_secs(1);

/// The lab's servers, until this is dropped.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves the target's lab, unless another process, such as `hearth serve`, does so already. Returns when all sockets are open.
    ///
    /// # Errors
    /// If one cannot be, or the board's image is none that can be served.
    pub fn start(target: &Target, store: &Arc<LabStore>) -> Result<Self> {
        if target.served || TcpStream::connect_timeout(&target.lab.settings.http(), PROBE).is_ok() {
            return Ok(Serving {
                stop: None,
                thread: None,
            });
        }
        let (opened, is_open) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        // As the command line has changed it, not as the file has it.
        let lab = LoadedLab {
            path: None,
            ..target.lab.clone()
        };
        let (builds, store) = (target.images().to_path_buf(), Arc::clone(store));
        let recipe = target.board.recipe.clone();
        let open = move || {
            let server = Server::open(lab.clone(), &builds, ListenFd::empty())?;
            if let Some(recipe) = &recipe {
                server.images().current(recipe)?;
            }
            Ok(with_api(server, &lab, store))
        };
        let thread = std::thread::spawn(move || serve(open, &opened, stopped));
        is_open.recv().context("the servers ended at once")??;
        Ok(Serving {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    open: impl FnOnce() -> Result<Server>,
    opened: &mpsc::Sender<Result<()>>,
    stop: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        match open() {
            Ok(server) => {
                let _ = opened.send(Ok(()));
                let stopped = async {
                    let _ = stop.await;
                };
                if let Err(error) = server.run(stopped).await {
                    log::error!("the servers failed: {error:#}");
                }
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    });
    runtime.shutdown_background();
}

/// Adds the boards' API to the servers.
pub fn with_api(server: Server, lab: &LoadedLab, store: Arc<LabStore>) -> Server {
    let images = server.images();
    let idle = lab.settings.idle;
    let current = CurrentLab::new(lab.clone());
    let roster = move || {
        // The lab file may have changed since; one that is broken now was right then.
        let lab = current.get().unwrap_or_else(|_| current.first().clone());
        let ids: Vec<String> = images.listing().into_iter().map(|(id, _)| id).collect();
        let known = |board: &crate::recipe::Board| Known {
            name: board.name.clone(),
            mac: board.mac,
            images: match images.pin_of(&board.name) {
                Some(Pin::Image(id)) => vec![id],
                Some(Pin::Recipe(recipe)) => images_of(Some(&recipe), &ids),
                None => images_of(board.recipe.as_deref(), &ids),
            },
        };
        lab.boards.iter().map(known).collect()
    };
    server.with_routes(router(store, Arc::new(roster), idle))
}

/// All builds of the recipe that are served: a board may have begun with the one before the newest.
fn images_of(recipe: Option<&str>, ids: &[String]) -> Vec<String> {
    let Some(name) = recipe.and_then(|recipe| Path::new(recipe).file_stem()?.to_str()) else {
        return Vec::new();
    };
    ids.iter()
        .filter(|id| {
            id.rsplit_once('-')
                .is_some_and(|(recipe, _)| recipe == name)
        })
        .cloned()
        .collect()
}
