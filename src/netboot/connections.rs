//! Owns the accepting of TCP connections: how many there may be, and how long a dead one is kept.
//! Never reads or writes one.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time, over all clients of a listener.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may leave what was sent to it unacknowledged, and when an idle one is probed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Pause after the system could not accept a connection, mostly for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts connections until the task is dropped; each is served by a task of its own. `name` is what the log calls
/// the service.
pub async fn accept<S, E>(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> S,
) where
    S: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("{name}: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            log::warn!("{name}: too many connections; closed {peer}");
            continue;
        };
        if let Err(error) = prepare(&stream) {
            log::debug!("{name}: {peer}: {error}");
            continue;
        }
        let serving = serve(stream, peer);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                log::debug!("{name}: {peer}: {error}");
            }
            drop(place);
        });
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    let unacknowledged = UNACKNOWLEDGED.as_millis() as u32;
    Ok(setsockopt(
        stream,
        sockopt::TcpUserTimeout,
        &unacknowledged,
    )?)
}
