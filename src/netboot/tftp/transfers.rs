//! Owns the table of TFTP transfers: one for each client, limits for each host and overall, and
//! their sockets.
//! Never reads a file, and never decides what is sent.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use super::{Request, Wire};

/// Limits on simultaneous transfers: of all hosts and of one.
const MAX_TRANSFERS: usize = 1024;
const MAX_OF_HOST: usize = 256;
/// A duplicate request within this time was duplicated by the network: no board restarts as fast.
const COPY: Duration = Duration::from_millis(200);
const ACK: [u8; 2] = [0, 4];

/// The shared state of one transfer.
#[derive(Debug)]
struct Control {
    socket: UdpSocket,
    request: Request,
    begun: Instant,
    /// The first packet sent.
    first: Mutex<Option<Vec<u8>>>,
    /// Whether the client has answered, which proves that its source address is not forged.
    is_proved: AtomicBool,
    is_stopped: AtomicBool,
}

impl Control {
    fn is_proved(&self) -> bool {
        self.is_proved.load(Ordering::Relaxed)
    }

    /// Cancels the transfer: wakes its thread up.
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Sends the first packet again for a duplicate request; does nothing while it is still being
    /// made.
    fn repeat(&self) {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packet) = &*first {
            let _ = self.socket.send(packet);
        }
    }
}

/// The clients with transfers.
#[derive(Clone, Debug, Default)]
pub struct Transfers {
    active: Arc<Mutex<HashMap<SocketAddr, Arc<Control>>>>,
}

/// How a request is handled.
#[derive(Debug)]
pub enum Admission {
    /// It starts a transfer.
    Begin(Connection),
    /// It duplicates one that is being answered.
    Copy,
    /// There are too many transfers.
    Busy,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Control>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a transfer for `peer`, with a socket on `address`. A request of a client that has
    /// a transfer cancels it, as in dnsmasq: the board was reset. A duplicate request, before the
    /// client has acknowledged anything, gets the same first packet from the same port.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub fn admit(
        &self,
        request: &Request,
        address: IpAddr,
        peer: SocketAddr,
    ) -> io::Result<Admission> {
        let mut active = self.lock();
        if let Some(old) = active.get(&peer) {
            let is_same = old.request == *request;
            if is_same && !old.is_proved() {
                old.repeat();
                return Ok(Admission::Copy);
            }
            if is_same && old.begun.elapsed() < COPY {
                return Ok(Admission::Copy);
            }
            old.stop();
            active.remove(&peer);
        }
        let of_host = active.keys().filter(|other| other.ip() == peer.ip());
        if of_host.count() >= MAX_OF_HOST && !evict(&mut active, |other| other.ip() == peer.ip()) {
            return Ok(Admission::Busy);
        }
        if active.len() >= MAX_TRANSFERS && !evict(&mut active, |_| true) {
            return Ok(Admission::Busy);
        }
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect(peer)?;
        let control = Arc::new(Control {
            socket,
            request: request.clone(),
            begun: Instant::now(),
            first: Mutex::default(),
            is_proved: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        });
        active.insert(peer, control.clone());
        Ok(Admission::Begin(Connection {
            transfers: self.clone(),
            peer,
            control,
            wait: None,
        }))
    }
}

/// Cancels the oldest transfer that its client has not acknowledged; returns `false` if there is
/// none.
fn evict(
    active: &mut HashMap<SocketAddr, Arc<Control>>,
    may_go: impl Fn(&SocketAddr) -> bool,
) -> bool {
    let oldest = active
        .iter()
        .filter(|(peer, control)| may_go(peer) && !control.is_proved())
        .min_by_key(|(_, control)| control.begun)
        .map(|(&peer, _)| peer);
    let Some(control) = oldest.and_then(|peer| active.remove(&peer)) else {
        return false;
    };
    control.stop();
    true
}

/// A socket connected to the client. Deregisters the transfer when it is dropped.
#[derive(Debug)]
pub struct Connection {
    transfers: Transfers,
    peer: SocketAddr,
    control: Arc<Control>,
    /// The socket's receive time-out as set last.
    wait: Option<Duration>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut active = self.transfers.lock();
        // The entry may belong to a later transfer by now.
        if active
            .get(&self.peer)
            .is_some_and(|there| Arc::ptr_eq(there, &self.control))
        {
            active.remove(&self.peer);
        }
    }
}

impl Wire for Connection {
    fn send(&mut self, packet: &[u8]) {
        if !self.control.is_proved() {
            let mut first = self
                .control
                .first
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| packet.to_vec());
        }
        if let Err(error) = self.control.socket.send(packet) {
            log::debug!("tftp: cannot send: {error}");
        }
    }

    fn receive(&mut self, packet: &mut [u8], wait: Duration) -> io::Result<Option<usize>> {
        if self.wait != Some(wait) {
            self.control.socket.set_read_timeout(Some(wait))?;
            self.wait = Some(wait);
        }
        loop {
            let received = self.control.socket.recv(packet);
            if self.control.is_stopped.load(Ordering::Relaxed) {
                return Err(io::Error::other(
                    "the client asked anew, or others need the place",
                ));
            }
            let error = match received {
                Ok(length) => {
                    if packet[..length].starts_with(&ACK) {
                        self.control.is_proved.store(true, Ordering::Relaxed);
                    }
                    return Ok(Some(length));
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                // Interrupted by a signal: waits again.
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
    }
}
