//! Owns ONC RPC version 2 messages (RFC 5531) and decoding of their arguments (XDR, RFC 4506).
//! Independent of programs and sockets.

pub mod service;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use nfs3_types::rpc::{
    accept_stat_data, accepted_reply, auth_stat, msg_body, opaque_auth, rejected_reply, reply_body,
    rpc_msg,
};
use nfs3_types::xdr_codec::Pack;

use crate::image::index::Image;

/// Limit on a client's message in bytes: a read-only server needs no large ones.
pub const MAX_CALL: usize = 64 << 10;

/// Limit on the body of a credential or verifier (RFC 5531, section 8.2), in bytes.
const MAX_AUTH: usize = 400;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;
const CALL: u32 = 0;
const RPC_VERSION: u32 = 2;
/// The shortest whole call, in bytes: six words, and two empty authentications (RFC 5531, section 9). Over UDP nothing
/// shorter is answered, so that no refusal is larger than what is refused.
const MIN_CALL: usize = 40;

/// Malformed arguments of a procedure (GARBAGE_ARGS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage;

/// XDR data to decode. Nothing is allocated, so that false lengths cost nothing.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Arguments(data)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Garbage> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Garbage)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        self.take(N)?.try_into().map_err(|_| Garbage)
    }

    pub fn u32(&mut self) -> Result<u32, Garbage> {
        Ok(u32::from_be_bytes(self.fixed()?))
    }

    pub fn u64(&mut self) -> Result<u64, Garbage> {
        Ok(u64::from_be_bytes(self.fixed()?))
    }

    /// Variable-length opaque data or a string, of at most `max` bytes.
    pub fn opaque(&mut self, max: usize) -> Result<&'a [u8], Garbage> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(Garbage);
        }
        let data = self.take(length)?;
        self.take(length.next_multiple_of(4) - length)?;
        Ok(data)
    }
}

/// The identity in a call's credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub uid: u32,
    pub gid: u32,
    pub gids: Vec<u32>,
}

impl Credential {
    /// The user `nobody`, for calls without an identity (AUTH_NONE).
    pub const ANONYMOUS: Credential = Credential {
        uid: 65534,
        gid: 65534,
        gids: Vec::new(),
    };

    /// RFC 5531, appendix A: `authsys_parms`.
    fn auth_sys(body: &[u8]) -> Result<Self, Garbage> {
        let mut body = Arguments::new(body);
        let _stamp = body.u32()?;
        let _machine = body.opaque(255)?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let count = body.u32()?;
        if count > 16 {
            return Err(Garbage);
        }
        let gids = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
        Ok(Credential { uid, gid, gids })
    }
}

/// The transport of a call, which limits the size of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// The client's address and transport.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub transport: Transport,
    /// Whether the address is in the allowed networks.
    pub allowed: bool,
}

/// A call of one procedure.
#[derive(Debug)]
pub struct Call<'a> {
    pub peer: Peer,
    pub version: u32,
    pub procedure: u32,
    pub credential: Credential,
    pub arguments: Arguments<'a>,
}

/// Why a call has no results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    GarbageArguments,
    NoSuchProcedure,
}

impl From<Garbage> for Refusal {
    fn from(_: Garbage) -> Self {
        Refusal::GarbageArguments
    }
}

/// Bytes of an image that follow the results, padded with zeros to a multiple of 4. The transport
/// reads them when it sends the reply.
#[derive(Clone, Debug)]
pub struct Tail {
    pub image: Arc<Image>,
    /// Where in the image's tars: see [`Image::tar_at`].
    pub offset: u64,
    pub length: usize,
}

impl Tail {
    pub fn padding(&self) -> usize {
        self.length.next_multiple_of(4) - self.length
    }
}

/// An RPC program: NFS, MOUNT, the portmapper.
pub trait Program: Send + Sync {
    fn number(&self) -> u32;
    fn versions(&self) -> RangeInclusive<u32>;
    /// Runs the procedure and appends its results.
    ///
    /// # Errors
    /// If there are no results; what was appended is then removed.
    fn call(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<Option<Tail>, Refusal>;
}

/// Appends XDR data to a reply. Only more than 4 GiB could fail, and no reply is that large.
pub fn put(out: &mut Vec<u8>, value: &impl Pack) {
    value
        .pack(out)
        .expect("a reply is small, and memory takes it");
}

/// Processes one message: appends the reply to `out`, or nothing if there is none, as for a message
/// that is no call.
pub fn answer(
    programs: &[Arc<dyn Program>],
    peer: Peer,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Option<Tail> {
    if peer.transport == Transport::Udp && message.len() < MIN_CALL {
        return None;
    }
    let mut data = Arguments::new(message);
    let (Ok(xid), Ok(CALL)) = (data.u32(), data.u32()) else {
        return None;
    };
    let start = out.len();
    match dispatch(programs, peer, data, xid, out) {
        Ok(tail) => tail,
        Err(failure) => {
            out.truncate(start);
            put_reply(out, xid, failure);
            None
        }
    }
}

fn dispatch(
    programs: &[Arc<dyn Program>],
    peer: Peer,
    mut data: Arguments<'_>,
    xid: u32,
    out: &mut Vec<u8>,
) -> Result<Option<Tail>, reply_body<'static>> {
    let garbage = |_| accepted(accept_stat_data::GARBAGE_ARGS);
    if data.u32().map_err(garbage)? != RPC_VERSION {
        let versions = rejected_reply::rpc_mismatch(RPC_VERSION, RPC_VERSION);
        return Err(reply_body::MSG_DENIED(versions));
    }
    let mut number = || data.u32().map_err(garbage);
    let (program, version, procedure) = (number()?, number()?, number()?);
    let bad_credential = |_| denied(auth_stat::AUTH_BADCRED);
    let flavor = data.u32().map_err(bad_credential)?;
    let body = data.opaque(MAX_AUTH).map_err(bad_credential)?;
    let credential = match flavor {
        AUTH_NONE => Credential::ANONYMOUS,
        AUTH_SYS => Credential::auth_sys(body).map_err(bad_credential)?,
        _ => return Err(denied(auth_stat::AUTH_BADCRED)),
    };
    let _verifier = data
        .u32()
        .and_then(|_| data.opaque(MAX_AUTH))
        .map_err(|_| denied(auth_stat::AUTH_BADVERF))?;
    if !peer.allowed {
        return Err(denied(auth_stat::AUTH_TOOWEAK));
    }
    let program = programs
        .iter()
        .find(|known| known.number() == program)
        .ok_or_else(|| accepted(accept_stat_data::PROG_UNAVAIL))?;
    let versions = program.versions();
    if !versions.contains(&version) {
        return Err(accepted(accept_stat_data::PROG_MISMATCH {
            low: *versions.start(),
            high: *versions.end(),
        }));
    }
    put_reply(out, xid, accepted(accept_stat_data::SUCCESS));
    let mut call = Call {
        peer,
        version,
        procedure,
        credential,
        arguments: data,
    };
    program
        .call(&mut call, out)
        .map_err(|refusal| match refusal {
            Refusal::GarbageArguments => accepted(accept_stat_data::GARBAGE_ARGS),
            Refusal::NoSuchProcedure => accepted(accept_stat_data::PROC_UNAVAIL),
        })
}

fn put_reply(out: &mut Vec<u8>, xid: u32, body: reply_body<'static>) {
    let body = msg_body::REPLY(body);
    put(out, &rpc_msg { xid, body });
}

fn accepted(reply_data: accept_stat_data) -> reply_body<'static> {
    reply_body::MSG_ACCEPTED(accepted_reply {
        verf: opaque_auth::default(),
        reply_data,
    })
}

fn denied(status: auth_stat) -> reply_body<'static> {
    reply_body::MSG_DENIED(rejected_reply::auth_error(status))
}

/// Reassembles RPC records from a TCP stream (RFC 5531, section 11).
#[derive(Debug, Default)]
pub struct Records {
    /// Bytes received and not consumed yet.
    input: Vec<u8>,
    consumed: usize,
    /// Fragments of a record whose last one has not been received yet.
    partial: Vec<u8>,
}

/// A record longer than [`MAX_CALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Records {
    /// The buffer to which received bytes are appended.
    pub fn input(&mut self) -> &mut Vec<u8> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        &mut self.input
    }

    /// Whether a part of a record has come.
    pub fn is_begun(&self) -> bool {
        self.is_begun_before(0)
    }

    /// Whether a part of a record had come before the last `length` bytes.
    pub fn is_begun_before(&self, length: usize) -> bool {
        !self.partial.is_empty() || self.input.len() - self.consumed > length
    }

    /// Calls `handle` with the next complete record, if there is one.
    pub fn next<T>(&mut self, handle: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, TooLong> {
        loop {
            let ahead = &self.input[self.consumed..];
            let Some((mark, ahead)) = ahead.split_first_chunk::<4>() else {
                return Ok(None);
            };
            let mark = u32::from_be_bytes(*mark);
            let (last, length) = (mark >> 31 == 1, (mark & 0x7fff_ffff) as usize);
            if self.partial.len() + length > MAX_CALL {
                return Err(TooLong);
            }
            let Some(fragment) = ahead.get(..length) else {
                return Ok(None);
            };
            self.consumed += 4 + length;
            if last && self.partial.is_empty() {
                return Ok(Some(handle(fragment)));
            }
            self.partial.extend_from_slice(fragment);
            if last {
                let record = std::mem::take(&mut self.partial);
                return Ok(Some(handle(&record)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_whole_however_they_arrive() {
        let mut stream = Vec::new();
        stream.extend_from_slice(&[0x80, 0, 0, 3, b'o', b'n', b'e']);
        stream.extend_from_slice(&[0, 0, 0, 1, b't', 0, 0, 0, 0, 0x80, 0, 0, 2, b'w', b'o']);
        stream.extend_from_slice(&[0x80, 0, 0, 0]);
        for step in 1..=stream.len() {
            let mut records = Records::default();
            let mut got = Vec::new();
            for part in stream.chunks(step) {
                records.input().extend_from_slice(part);
                while let Some(record) = records.next(<[u8]>::to_vec).unwrap() {
                    got.push(record);
                }
            }
            assert_eq!(got, [b"one".to_vec(), b"two".to_vec(), Vec::new()]);
        }
    }

    #[test]
    fn a_record_without_end_is_refused_before_it_is_read() {
        let mut records = Records::default();
        records.input().extend_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(records.next(|_| ()), Err(TooLong));
    }
}
