//! Owns RPC over sockets: connections and datagrams. Never interprets a call.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

use super::{MAX_CALL, Peer, Program, Records, Tail, TooLong, Transport, answer};
use crate::netboot::net::access::Access;
use crate::netboot::net::connections::{Activity, accept};

/// Size of the receive buffer, and of the replies that are sent together, in bytes.
const READ_AT_ONCE: usize = 16 << 10;
const SEND_AT_ONCE: usize = 64 << 10;
/// How long a client may be silent, as with the kernel's server, and how long it may take for one call.
const IDLE: Duration = Duration::from_secs(360);
const HALF_CALL: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what it asked for.
const STALLED: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The largest datagram.
const MAX_DATAGRAM: usize = 65_536;

/// Programs on one port.
#[derive(Clone)]
pub struct Service {
    /// Its name in the log.
    pub name: &'static str,
    pub programs: Arc<[Arc<dyn Program>]>,
    pub access: Arc<Access>,
}

impl Service {
    /// Accepts connections of allowed hosts until the task is dropped.
    pub async fn serve_tcp(self, listener: TcpListener) {
        let access = self.access.clone();
        accept(self.name, listener, access, |stream, address, activity| {
            let service = self.clone();
            async move {
                // `accept` has looked.
                let peer = Peer {
                    address,
                    transport: Transport::Tcp,
                    allowed: true,
                };
                service.serve_connection(stream, peer, &activity).await
            }
        })
        .await;
    }

    /// Answers the calls of one connection, in order, until the client closes it or says nothing for long.
    async fn serve_connection(
        &self,
        mut stream: TcpStream,
        peer: Peer,
        activity: &Activity,
    ) -> io::Result<()> {
        let mut records = Records::default();
        let mut replies = Vec::new();
        // Looked at now and then: to set a timer for each call would take longer than many a call.
        let mut look = pin!(sleep(LOOK));
        let mut last_call = Instant::now();
        loop {
            let input = records.input();
            input.reserve(READ_AT_ONCE);
            let length = tokio::select! {
                biased;
                length = stream.read_buf(input) => length?,
                () = &mut look => {
                    let patience = if records.is_begun() { HALF_CALL } else { IDLE };
                    if last_call.elapsed() >= patience {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    look.as_mut().reset(Instant::now() + LOOK);
                    continue;
                }
            };
            if length == 0 {
                return Ok(());
            }
            let mut is_new = !records.is_begun_before(length);
            activity.touch();
            loop {
                let next = records.next(|record| self.answer_record(peer, record, &mut replies));
                let tail = match next {
                    Ok(Some(tail)) => tail,
                    Ok(None) => break,
                    Err(TooLong) => {
                        let limit = format!("a call of more than {MAX_CALL} bytes");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, limit));
                    }
                };
                is_new = true;
                if let Some(tail) = tail {
                    send_all(
                        &stream,
                        &replies,
                        MsgFlags::from_bits_retain(nix::libc::MSG_MORE),
                    )
                    .await?;
                    replies.clear();
                    send_tail(&stream, &tail).await?;
                    replies.resize(tail.padding(), 0);
                } else if replies.len() >= SEND_AT_ONCE {
                    send_all(&stream, &replies, MsgFlags::empty()).await?;
                    replies.clear();
                }
            }
            if is_new {
                last_call = Instant::now();
            }
            send_all(&stream, &replies, MsgFlags::empty()).await?;
            replies.clear();
            replies.shrink_to(SEND_AT_ONCE);
        }
    }

    /// Appends the reply to one record, with its record mark.
    fn answer_record(&self, peer: Peer, record: &[u8], replies: &mut Vec<u8>) -> Option<Tail> {
        let start = replies.len();
        replies.extend_from_slice(&[0; 4]);
        let tail = answer(&self.programs, peer, record, replies);
        let tail_length = tail.as_ref().map_or(0, |tail| tail.length + tail.padding());
        let length = replies.len() - start - 4 + tail_length;
        if length == 0 {
            replies.truncate(start);
            return None;
        }
        let mark = 0x8000_0000 | length as u32;
        replies[start..start + 4].copy_from_slice(&mark.to_be_bytes());
        tail
    }

    /// Answers datagrams until the task is dropped. Hosts that are not allowed, and sources that are no client's, get no
    /// answer at all, so that the server cannot be used to flood others.
    pub async fn serve_udp(self, socket: UdpSocket) {
        let Ok(own) = socket.local_addr() else {
            return;
        };
        let mut datagram = vec![0; MAX_DATAGRAM];
        let mut reply = Vec::new();
        loop {
            let (length, address) = match socket.recv_from(&mut datagram).await {
                Ok(received) => received,
                // A pending ICMP error of an earlier reply, which concerns only its client.
                Err(_) => continue,
            };
            if !self.access.answers(address, own, self.name) {
                continue;
            }
            let peer = Peer {
                address,
                transport: Transport::Udp,
                allowed: true,
            };
            reply.clear();
            let tail = answer(&self.programs, peer, &datagram[..length], &mut reply);
            debug_assert!(tail.is_none(), "datagrams carry their data themselves");
            if !reply.is_empty()
                && let Err(error) = socket.send_to(&reply, address).await
            {
                log::debug!("{}: {address}: {error}", self.name);
            }
        }
    }
}

async fn send_all(stream: &TcpStream, mut data: &[u8], flags: MsgFlags) -> io::Result<()> {
    while !data.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || {
            let flags = flags | MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            Ok(send(stream.as_raw_fd(), data, flags)?)
        });
        let sent = timeout(STALLED, sent).await??;
        data = &data[sent..];
    }
    Ok(())
}

thread_local! {
    /// The data of one READ, sent from the page cache to a socket.
    static DATA: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

async fn send_tail(stream: &TcpStream, tail: &Tail) -> io::Result<()> {
    let sent = send_tail_to_end(stream, tail).await;
    if let Err(error) = &sent
        && error.kind() == io::ErrorKind::UnexpectedEof
    {
        let path = tail.image.path().display();
        log::error!("the image {path} became shorter while it was served");
    }
    sent
}

/// Data that the socket accepts at once is copied, which over fast links, such as those to emulated
/// boards, is nearly twice as fast as sendfile with its small pieces. The rest, for slower links,
/// is sent with sendfile, which needs no buffer meanwhile.
async fn send_tail_to_end(stream: &TcpStream, tail: &Tail) -> io::Result<()> {
    let copied = stream.async_io(Interest::WRITABLE, || copy_tail(stream, tail));
    let mut sent = timeout(STALLED, copied).await??;
    let (tar, start) = tail.image.tar_at(tail.offset);
    while sent < tail.length {
        let mut offset = i64::try_from(start + sent as u64).map_err(io::Error::other)?;
        let more = stream.async_io(Interest::WRITABLE, || {
            let left = tail.length - sent;
            Ok(sendfile(stream, tar, Some(&mut offset), left)?)
        });
        match timeout(STALLED, more).await?? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => sent += more,
        }
    }
    Ok(())
}

/// How many bytes the socket has accepted.
fn copy_tail(stream: &TcpStream, tail: &Tail) -> io::Result<usize> {
    DATA.with_borrow_mut(|data| {
        data.resize(data.len().max(tail.length), 0);
        let data = &mut data[..tail.length];
        let (tar, offset) = tail.image.tar_at(tail.offset);
        tar.read_exact_at(data, offset)?;
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        Ok(send(stream.as_raw_fd(), data, flags)?)
    })
}
