//! Owns accepting TCP connections: allowed hosts, limits, and time-outs of dead connections.
//! Never reads or writes one.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::access::Access;
use super::limits;

/// How long sent data may stay unacknowledged, and when an idle connection is probed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Pause after the system could not accept a connection, mostly for want of file descriptors; and how often that is told.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// When a connection was last of use to its client.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<AtomicU64>);

impl Activity {
    /// Notes that the client has just sent or taken something.
    pub fn touch(&self) {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let now = BEGUN.elapsed().as_millis();
        self.0.store(now as u64, Ordering::Relaxed);
    }

    /// Milliseconds since a moment that is the same for all.
    fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Accepts connections of allowed hosts until the task is dropped; each is served by a task of its own. `name` is what
/// the log calls the service. When there is no room, the connection that was idle for longest makes room, of the host that
/// has most; a quarter of the places is for boards of the lab, whose connections make room for nobody else.
pub async fn accept<S, E>(
    name: &'static str,
    listener: TcpListener,
    access: Arc<Access>,
    serve: impl Fn(TcpStream, SocketAddr, Activity) -> S,
) where
    S: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send,
{
    let places = Places::new(limits::clients());
    let mut number = 0;
    let mut told: Option<Instant> = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                    log::warn!("{name}: cannot accept a connection: {error}");
                    told = Some(Instant::now());
                }
                if is_full(&error) {
                    places.make_way();
                }
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
        let is_board = access.is_board(peer.ip());
        if let Some(evicted) = places.make_room(peer.ip(), is_board) {
            log::debug!("{name}: too many connections; closed one of {evicted}");
        }
        number += 1;
        let activity = Activity::default();
        activity.touch();
        let serving = serve(stream, peer, activity.clone());
        let place = ConnectionSlot {
            places: places.clone(),
            number,
        };
        places.lock().insert(
            number,
            Connection {
                host: peer.ip(),
                is_board,
                activity,
                task: None,
            },
        );
        let task = tokio::spawn(async move {
            let _place = place;
            if let Err(error) = serving.await {
                log::debug!("{name}: {peer}: {error}");
            }
        });
        // It may have ended already.
        if let Some(connection) = places.lock().get_mut(&number) {
            connection.task = Some(task.abort_handle());
        }
    }
}

/// Whether there are no more descriptors, of the process or the host.
fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
    matches!(
        errno,
        Some(nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE)
    )
}

struct Connection {
    host: IpAddr,
    is_board: bool,
    activity: Activity,
    task: Option<AbortHandle>,
}

/// The open connections by number.
#[derive(Clone)]
struct Places {
    open: Arc<Mutex<HashMap<u64, Connection>>>,
    most: usize,
}

impl Places {
    fn new(most: usize) -> Self {
        Places {
            open: Arc::default(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a connection if the limit leaves no room for one more of `host`; returns the host
    /// whose it was.
    fn make_room(&self, host: IpAddr, is_board: bool) -> Option<IpAddr> {
        let open = self.lock();
        let of_host = open.values().filter(|c| c.host == host).count();
        let of_others = open.values().filter(|c| !c.is_board).count();
        let most_of_others = self.most - self.most / 4;
        let from = if of_host >= self.most / 2 {
            host
        } else if open.len() >= self.most || (!is_board && of_others >= most_of_others) {
            largest(&open)?
        } else {
            return None;
        };
        drop(open);
        self.end_one_of(from)
    }

    /// Ends a connection, so that its descriptor is free.
    fn make_way(&self) {
        let from = largest(&self.lock());
        if let Some(from) = from {
            self.end_one_of(from);
        }
    }

    /// Ends the connection of a host that was idle for longest.
    fn end_one_of(&self, host: IpAddr) -> Option<IpAddr> {
        let mut open = self.lock();
        let of_host = open.iter().filter(|(_, c)| c.host == host);
        let idlest = of_host.min_by_key(|&(&number, c)| (c.activity.last(), number));
        let number = idlest.map(|(&number, _)| number)?;
        let task = open.remove(&number)?.task;
        drop(open);
        if let Some(task) = task {
            task.abort();
        }
        Some(host)
    }
}

/// The host that has most connections; a board only where there are no others.
fn largest(open: &HashMap<u64, Connection>) -> Option<IpAddr> {
    let mut counts: HashMap<(bool, IpAddr), usize> = HashMap::new();
    for connection in open.values() {
        let whose = (connection.is_board, connection.host);
        *counts.entry(whose).or_default() += 1;
    }
    let largest = counts
        .into_iter()
        .max_by_key(|&((is_board, _), count)| (!is_board, count));
    largest.map(|((_, host), _)| host)
}

/// Removes a connection from the table when it is dropped.
struct ConnectionSlot {
    places: Places,
    number: u64,
}

impl Drop for ConnectionSlot {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> IpAddr {
        IpAddr::from([192, 168, 7, number])
    }

    /// Takes a place as `accept` does; returns whose connection was ended for it.
    fn come(places: &Places, number: u64, from: u8, is_board: bool) -> Option<IpAddr> {
        let evicted = places.make_room(host(from), is_board);
        let activity = Activity(Arc::new(AtomicU64::new(number)));
        let connection = Connection {
            host: host(from),
            is_board,
            activity,
            task: None,
        };
        places.lock().insert(number, connection);
        evicted
    }

    #[test]
    fn a_quarter_of_the_places_is_for_boards_and_none_of_theirs_is_taken() {
        let places = Places::new(40);
        for number in 0..15 {
            assert_eq!(come(&places, number, 1, true), None);
        }
        for number in 15..1000 {
            come(&places, number, 2 + (number % 200) as u8, false);
        }
        let of_boards = |places: &Places| places.lock().values().filter(|c| c.is_board).count();
        assert_eq!((of_boards(&places), places.lock().len()), (15, 40));
        // More boards come: others make room.
        for number in 1000..1020 {
            let evicted = come(&places, number, 210 + (number % 5) as u8, true);
            assert!(evicted.is_some_and(|evicted| evicted != host(1)));
        }
        assert_eq!((of_boards(&places), places.lock().len()), (35, 40));
    }

    #[test]
    fn who_has_most_loses_what_was_idle_for_longest() {
        let places = Places::new(40);
        for number in 0..10 {
            come(&places, number, 1, false);
        }
        for number in 10..30 {
            come(&places, number, 2, false);
        }
        // The oldest of the second host is in use.
        let in_use = places.lock()[&10].activity.clone();
        in_use.0.store(1000, Ordering::Relaxed);
        assert_eq!(come(&places, 30, 3, false), Some(host(2)));
        let open = places.lock();
        assert!(open.contains_key(&10) && !open.contains_key(&11));
    }
}
