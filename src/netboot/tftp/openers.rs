//! Owns the threads that open the files TFTP clients ask for: rendering a boot script or opening a new image takes a
//! while, and no other client is to wait for that. Never sends.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use nix::sys::eventfd::EventFd;

use super::packet::{Code, Content, Files, Request, open};

/// Threads that open files, and requests that wait for them.
const THREADS: usize = 2;
const QUEUE: usize = 1024;

type OpenRequest = (u64, Request, SocketAddr);
/// The number of a request, and its file, or what the client is told.
pub type Opened = (u64, Result<Content, (Code, String)>);

/// The threads; they end when this is dropped.
pub struct Openers {
    jobs: mpsc::SyncSender<OpenRequest>,
    opened: mpsc::Receiver<Opened>,
}

impl Openers {
    /// `wake` is written to when a file has been opened.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start<F: Files + 'static>(files: Arc<F>, wake: Arc<EventFd>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<OpenRequest>(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let (sender, opened) = mpsc::channel();
        for _ in 0..THREADS {
            let (files, wake) = (files.clone(), wake.clone());
            let (waiting, sender) = (waiting.clone(), sender.clone());
            let run = move || {
                let next = || {
                    waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .recv()
                };
                while let Ok((id, request, peer)) = next() {
                    let content =
                        catch_unwind(AssertUnwindSafe(|| open(&*files, &request, peer.ip())));
                    let content = content
                        .unwrap_or_else(|_| Err((Code::Undefined, "the server failed".into())));
                    if sender.send((id, content)).is_err() {
                        return;
                    }
                    let _ = wake.write(1);
                }
            };
            thread::Builder::new()
                .name("tftp-files".into())
                .spawn(run)?;
        }
        Ok(Openers { jobs, opened })
    }

    /// Has a file opened; not if too many wait already.
    pub fn open(&self, id: u64, request: Request, peer: SocketAddr) -> bool {
        self.jobs.try_send((id, request, peer)).is_ok()
    }

    /// A file that has been opened since.
    pub fn next(&self) -> Option<Opened> {
        self.opened.try_recv().ok()
    }
}
