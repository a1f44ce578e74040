//! Owns the TFTP transfers under way: one thread waits for all their sockets and for requests, and decides who gets a
//! place. Never decides what is sent in a transfer.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::openers::{Opened, Openers};
use super::packet::{Code, Files, Refusal, Request, error_packet};
use super::transfer::{Next, Transfer, Wire, are_known};
use crate::netboot::net::access::Access;
use crate::netboot::net::credit::{Credit, FIRST};
use crate::netboot::net::limits;

/// Of all transfers, the part that one host may have.
const PART_OF_HOST: usize = 4;
/// A duplicate request within this time was duplicated by the network: no board restarts as fast.
const COPY: Duration = Duration::from_millis(200);
/// How long a request waits until its first packet may be sent; its client asks again.
const PATIENCE: Duration = Duration::from_secs(30);
/// A client that has been silent for so long may lose its place to another.
const SILENT: Duration = Duration::from_secs(5);
/// How often deadlines are looked at, while there are transfers.
const TICK: Duration = Duration::from_millis(100);
/// A request is one small datagram (RFC 2347: 512 bytes), and so is what clients send in a transfer.
const MAX_PACKET: usize = 1024;
/// Requests that are taken before the transfers have their turn.
const REQUESTS_AT_ONCE: usize = 64;
/// The port of other TFTP servers.
const SERVER_PORT: u16 = 69;
const BUSY: Refusal = (Code::Undefined, "too many transfers; try again");

/// What an event is about: the socket for requests, the wake-up, and from `FIRST_ID` on a transfer.
const REQUESTS: u64 = 0;
const WAKE_UP: u64 = 1;
const FIRST_ID: u64 = 2;

/// The server's thread; it ends when this is dropped.
pub struct Transfers {
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    ended: oneshot::Receiver<()>,
}

impl Transfers {
    /// Serves requests to `socket`. Each transfer has a socket of its own, on a free port of the same address.
    ///
    /// # Errors
    /// If the system has no more threads or descriptors.
    pub fn start<F: Files + 'static>(
        files: Arc<F>,
        access: Arc<Access>,
        socket: UdpSocket,
    ) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let stop = Arc::new(AtomicBool::new(false));
        let openers = Openers::start(files, wake.clone())?;
        let mut table = Table::new(socket, access, openers)?;
        let (epoll, wakes) = (&table.epoll, EpollEvent::new(EpollFlags::EPOLLIN, WAKE_UP));
        epoll.add(&*wake, wakes)?;
        let (sender, ended) = oneshot::channel();
        let (stopped, woken) = (stop.clone(), wake.clone());
        thread::Builder::new().name("tftp".into()).spawn(move || {
            if let Err(error) = table.serve(&stopped, &woken) {
                log::error!("tftp: {error}");
            }
            let _ = sender.send(());
        })?;
        Ok(Transfers { stop, wake, ended })
    }

    /// Waits until the thread ends by itself, which only a failure of the system makes it do.
    pub async fn ended(mut self) {
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.wake.write(1);
    }
}

/// One client.
struct Active {
    peer: SocketAddr,
    request: Request,
    /// Bytes of the request's datagram.
    length: usize,
    begun: Instant,
    state: State,
}

enum State {
    /// Its first packet would be more than its address may be sent now.
    Waiting,
    /// Its file is being opened.
    Opening,
    Running(Box<Running>),
}

struct Running {
    /// Connected: what others send to it does not arrive.
    socket: UdpSocket,
    transfer: Transfer,
    /// Whether the socket is watched for room.
    is_full: bool,
}

impl Wire for &UdpSocket {
    fn send(&mut self, packet: &[u8]) -> bool {
        match UdpSocket::send(self, packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                // As good as lost on the way: it is sent again later.
                log::debug!("tftp: cannot send: {error}");
                true
            }
            Ok(_) => true,
        }
    }
}

impl Active {
    fn is_proved(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.transfer.is_proved())
    }

    fn heard(&self) -> Instant {
        match &self.state {
            State::Running(running) => running.transfer.heard(),
            _ => self.begun,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting => Some(self.begun + PATIENCE),
            State::Opening => None,
            State::Running(running) => Some(running.transfer.deadline()),
        }
    }

    /// Whether the first packet is DATA, which is sent to who may not have asked for it.
    fn is_plain(&self) -> bool {
        !are_known(&self.request.options)
    }
}

/// All clients, and what is needed to serve them.
struct Table {
    socket: UdpSocket,
    own: SocketAddr,
    access: Arc<Access>,
    openers: Openers,
    epoll: Epoll,
    active: HashMap<u64, Active>,
    by_peer: HashMap<SocketAddr, u64>,
    waiting: VecDeque<u64>,
    credit: Credit,
    next_id: u64,
    most: usize,
}

impl Table {
    fn new(socket: UdpSocket, access: Arc<Access>, openers: Openers) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, REQUESTS))?;
        Ok(Table {
            own: socket.local_addr()?,
            socket,
            access,
            openers,
            epoll,
            active: HashMap::new(),
            by_peer: HashMap::new(),
            waiting: VecDeque::new(),
            credit: Credit::new(Instant::now()),
            next_id: FIRST_ID,
            most: limits::clients(),
        })
    }

    fn serve(&mut self, stop: &AtomicBool, wake: &EventFd) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let mut looked = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let timeout = match self.active.is_empty() {
                true => EpollTimeout::NONE,
                false => EpollTimeout::from(TICK.as_millis() as u16),
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            for event in &events[..count] {
                match event.data() {
                    REQUESTS => self.take_requests(now),
                    WAKE_UP => {
                        let _ = wake.read();
                        while let Some(opened) = self.openers.next() {
                            self.begin(opened, now);
                        }
                    }
                    id => self.serve_client(id, event.events(), now),
                }
            }
            if now.duration_since(looked) >= TICK {
                looked = now;
                self.look_at_deadlines(now);
                self.go_on_waiting(now);
            }
        }
        Ok(())
    }

    fn take_requests(&mut self, now: Instant) {
        let mut datagram = [0; MAX_PACKET];
        for _ in 0..REQUESTS_AT_ONCE {
            let (length, peer) = match self.socket.recv_from(&mut datagram) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            // Only a request is ever answered (RFC 1350, section 4): two servers that answer each other's errors never
            // end.
            let datagram = &datagram[..length];
            if !Request::is_one(datagram) || !self.access.answers(peer, self.own, "tftp") {
                continue;
            }
            let taken =
                Request::parse(datagram).and_then(|request| self.take(request, length, peer, now));
            if let Err(refusal) = taken {
                log::debug!("tftp: {peer}: {}", refusal.1);
                self.refuse(refusal, length, peer);
            }
        }
    }

    fn refuse(&self, refusal: (Code, &str), length: usize, peer: SocketAddr) {
        let _ = self.socket.send_to(&error_packet(refusal, length), peer);
    }

    /// Makes a place for what `peer` asks for. A request of a client that has a transfer ends it, as in dnsmasq: the
    /// board was reset. The same request once more, before the client has acknowledged anything, gets the same first
    /// packet from the same port.
    fn take(
        &mut self,
        request: Request,
        length: usize,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        if !are_known(&request.options) {
            self.credit.requested(peer.ip(), length, now);
        }
        if let Some(&id) = self.by_peer.get(&peer) {
            let old = &self.active[&id];
            let is_same = old.request == request;
            if is_same && !old.is_proved() {
                self.repeat(id, now);
                return Ok(());
            }
            if is_same && now.duration_since(old.begun) < COPY {
                return Ok(());
            }
            self.end(id);
        }
        self.make_room(peer.ip(), now).ok_or(BUSY)?;
        let id = self.next_id;
        self.next_id += 1;
        let active = Active {
            peer,
            request,
            length,
            begun: now,
            state: State::Waiting,
        };
        let is_plain = active.is_plain();
        self.active.insert(id, active);
        self.by_peer.insert(peer, id);
        if is_plain && !self.credit.pay(peer.ip(), now) {
            self.waiting.push_back(id);
            return Ok(());
        }
        self.open(id);
        Ok(())
    }

    /// One answer to one more request.
    fn repeat(&mut self, id: u64, now: Instant) {
        let Some(active) = self.active.get_mut(&id) else {
            return;
        };
        let is_plain = active.is_plain();
        let State::Running(running) = &mut active.state else {
            return;
        };
        if !is_plain || self.credit.pay(active.peer.ip(), now) {
            let _ = running.transfer.begin(&mut &running.socket);
        }
    }

    /// Ends a transfer if there is no room for one more of `host`: one that its client has not acknowledged, else one
    /// whose client has been silent. `None` if there is none.
    fn make_room(&mut self, host: IpAddr, now: Instant) -> Option<()> {
        let of_host = self
            .active
            .values()
            .filter(|active| active.peer.ip() == host);
        let is_full_of_host = of_host.count() >= (self.most / PART_OF_HOST).max(2);
        if !is_full_of_host && self.active.len() < self.most {
            return Some(());
        }
        let may_go = self.active.iter().filter(|(_, active)| {
            let is_candidate = !is_full_of_host || active.peer.ip() == host;
            let is_silent = now.duration_since(active.heard()) >= SILENT;
            is_candidate && (!active.is_proved() || is_silent)
        });
        let first = may_go.min_by_key(|(_, active)| (active.is_proved(), active.heard()));
        let id = first.map(|(&id, _)| id)?;
        self.end(id);
        Some(())
    }

    /// Forgets a client; its socket is closed, which takes it out of `epoll`.
    fn end(&mut self, id: u64) -> Option<Active> {
        let active = self.active.remove(&id)?;
        self.by_peer.remove(&active.peer);
        if matches!(active.state, State::Waiting) {
            self.waiting.retain(|&waiting| waiting != id);
        }
        Some(active)
    }

    /// Lets the file of a client be opened, by a thread that may wait for it.
    fn open(&mut self, id: u64) {
        let Some(active) = self.active.get_mut(&id) else {
            return;
        };
        active.state = State::Opening;
        let (request, peer, length) = (active.request.clone(), active.peer, active.length);
        if !self.openers.open(id, request, peer) {
            self.end(id);
            self.refuse(BUSY, length, peer);
        }
    }

    /// Opens the files of those who may be sent their first packet by now, in the order in which they came.
    fn go_on_waiting(&mut self, now: Instant) {
        for _ in 0..self.waiting.len() {
            let Some(id) = self.waiting.pop_front() else {
                return;
            };
            let Some(active) = self.active.get(&id) else {
                continue;
            };
            if self.credit.pay(active.peer.ip(), now) {
                self.open(id);
            } else {
                self.waiting.push_back(id);
            }
        }
    }

    /// Sends the first packet, or why there is none.
    fn begin(&mut self, (id, opened): Opened, now: Instant) {
        let Some(active) = self.active.get_mut(&id) else {
            return;
        };
        let (peer, length, is_plain) = (active.peer, active.length, active.is_plain());
        let sent = match opened {
            Ok(content) => {
                let transfer = Transfer::new(content, &active.request.options, now);
                let begun = start(&self.epoll, self.own.ip(), id, peer, transfer);
                begun.map(|(running, sent)| {
                    active.state = State::Running(Box::new(running));
                    sent
                })
            }
            Err((code, message)) => {
                self.refuse((code, &message), length, peer);
                self.end(id);
                Ok(0)
            }
        };
        match sent {
            Ok(sent) if is_plain => {
                self.credit.refund(peer.ip(), FIRST.saturating_sub(sent));
            }
            Ok(_) => {}
            Err(error) => {
                log::warn!("tftp: {peer}: cannot begin: {error}");
                self.end(id);
                self.refuse(BUSY, length, peer);
            }
        }
    }

    /// Takes what a client has sent, and sends what it may have next.
    fn serve_client(&mut self, id: u64, ready: EpollFlags, now: Instant) {
        let Some(active) = self.active.get_mut(&id) else {
            return;
        };
        let peer = active.peer;
        let State::Running(running) = &mut active.state else {
            return;
        };
        let was_proved = running.transfer.is_proved();
        let next = running.take(ready, now).and_then(|next| {
            running.watch(&self.epoll, id, next)?;
            Ok(next)
        });
        // A server's port asks for nothing: what comes from there may answer what a forged request brought it.
        if !was_proved && running.transfer.is_proved() && peer.port() != SERVER_PORT {
            self.credit.proved(peer.ip(), now);
            self.go_on_waiting(now);
        }
        self.settle(id, next, now);
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        let late = |active: &Active| active.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<u64> = self
            .active
            .iter()
            .filter(|(_, active)| late(active))
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            let Some(active) = self.active.get_mut(&id) else {
                continue;
            };
            let State::Running(running) = &mut active.state else {
                // The client asks again, and its requests pay for the answer.
                self.end(id);
                continue;
            };
            let next = running
                .transfer
                .time_out(&mut &running.socket, now)
                .and_then(|next| {
                    running.watch(&self.epoll, id, next)?;
                    Ok(next)
                });
            self.settle(id, next, now);
        }
    }

    /// Ends a transfer that has come to its end.
    fn settle(&mut self, id: u64, next: io::Result<Next>, now: Instant) {
        let ended = match next {
            Ok(Next::Listen | Next::Send) => return,
            Ok(Next::Finished) => Ok(()),
            Err(error) => Err(error),
        };
        let Some(active) = self.end(id) else {
            return;
        };
        let (peer, path) = (active.peer, &active.request.path);
        match (ended, active.state) {
            (Ok(()), State::Running(running)) => log::info!(
                "tftp: {peer}: sent {path}, {} bytes in {:.1} s",
                running.transfer.size(),
                now.duration_since(active.begun).as_secs_f64()
            ),
            (Ok(()), _) => {}
            (Err(error), _) => log::info!("tftp: {peer}: {path}: {error}"),
        }
    }
}

/// Sends the first packet of a transfer from a socket of its own; returns the packet's length.
fn start(
    epoll: &Epoll,
    address: IpAddr,
    id: u64,
    peer: SocketAddr,
    mut transfer: Transfer,
) -> io::Result<(Running, usize)> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, id))?;
    let sent = transfer.begin(&mut &socket)?;
    let running = Running {
        socket,
        transfer,
        is_full: false,
    };
    Ok((running, sent))
}

impl Running {
    /// Takes one packet, or goes on sending.
    fn take(&mut self, ready: EpollFlags, now: Instant) -> io::Result<Next> {
        let mut wire = &self.socket;
        if !ready.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR) {
            return self.transfer.go_on(&mut wire);
        }
        let mut packet = [0; MAX_PACKET];
        match self.socket.recv(&mut packet) {
            Ok(length) => self.transfer.receive(&packet[..length], &mut wire, now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(if self.is_full {
                Next::Send
            } else {
                Next::Listen
            }),
            // The client's host says that its port is closed.
            Err(error) => Err(error),
        }
    }

    /// Watches the socket for room where there was none, and no longer where there is.
    fn watch(&mut self, epoll: &Epoll, id: u64, next: Next) -> io::Result<()> {
        let is_full = next == Next::Send;
        if is_full != self.is_full {
            let mut wanted = EpollFlags::EPOLLIN;
            wanted.set(EpollFlags::EPOLLOUT, is_full);
            epoll.modify(&self.socket, &mut EpollEvent::new(wanted, id))?;
            self.is_full = is_full;
        }
        Ok(())
    }
}
