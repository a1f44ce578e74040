//! Owns accepting TCP connections: allowed hosts, limits, and time-outs of dead connections.
//! Never reads or writes one.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::access::Access;

/// Limits on simultaneous connections of a listener: of all hosts and of one.
const MAX_CONNECTIONS: usize = 1024;
const MAX_OF_HOST: usize = MAX_CONNECTIONS / 2;
/// How long sent data may stay unacknowledged, and when an idle connection is probed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Pause after accept(2) failed, mostly for lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts connections of allowed hosts until the task is dropped; each is served by a task of its
/// own. `name` is the service's name in the log. At the limit, the oldest connection of the host
/// with the most connections is closed.
pub async fn accept<S, E>(
    name: &'static str,
    listener: TcpListener,
    access: Arc<Access>,
    serve: impl Fn(TcpStream, SocketAddr) -> S,
) where
    S: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send,
{
    let places = Places::default();
    // Numbers connections, so that the oldest is known.
    let mut number = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("{name}: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        if !access.allows(peer.ip(), name) {
            continue;
        }
        if let Err(error) = prepare(&stream) {
            log::debug!("{name}: {peer}: {error}");
            continue;
        }
        if let Some(evicted) = places.make_room(peer.ip()) {
            log::debug!("{name}: too many connections; closed the oldest of {evicted}");
        }
        number += 1;
        let serving = serve(stream, peer);
        let place = Place {
            places: places.clone(),
            number,
        };
        places.lock().insert(number, (peer.ip(), None));
        let task = tokio::spawn(async move {
            let _place = place;
            if let Err(error) = serving.await {
                log::debug!("{name}: {peer}: {error}");
            }
        });
        // It may have ended already.
        if let Some((_, handle)) = places.lock().get_mut(&number) {
            *handle = Some(task.abort_handle());
        }
    }
}

/// The open connections by number, with their hosts.
type Open = HashMap<u64, (IpAddr, Option<AbortHandle>)>;

#[derive(Clone, Default)]
struct Places(Arc<Mutex<Open>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a connection if the limit leaves no room for one more of `host`; returns the host
    /// whose it was.
    fn make_room(&self, host: IpAddr) -> Option<IpAddr> {
        let mut open = self.lock();
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (host, _) in open.values() {
            *counts.entry(*host).or_default() += 1;
        }
        let from = if counts.get(&host).is_some_and(|&count| count >= MAX_OF_HOST) {
            host
        } else if open.len() >= MAX_CONNECTIONS {
            counts.into_iter().max_by_key(|&(_, count)| count)?.0
        } else {
            return None;
        };
        let of_host = open.iter().filter(|(_, (host, _))| *host == from);
        let oldest = of_host.map(|(&number, _)| number).min()?;
        let (_, task) = open.remove(&oldest)?;
        drop(open);
        if let Some(task) = task {
            task.abort();
        }
        Some(from)
    }
}

/// Removes a connection from the table when it is dropped.
struct Place {
    places: Places,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.number);
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
