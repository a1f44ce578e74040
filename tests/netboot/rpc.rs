//! An RPC client made by hand, so that single calls can be made, wrong ones too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nfs3_types::rpc::auth_unix;
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};

use crate::fixture::NfsServer;

/// Program and version.
pub const NFS: (u32, u32) = (100_003, 3);
pub const NFS_ACL: (u32, u32) = (100_227, 3);
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Client {
    pub stream: TcpStream,
    pub xid: u32,
    /// User and group; root without one.
    pub credential: Option<(u32, u32)>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream,
            xid: 1,
            credential: None,
        }
    }

    pub fn send(&mut self, program: (u32, u32), procedure: u32, arguments: &[u8]) {
        let (uid, gid) = self.credential.unwrap_or((0, 0));
        let call = call(self.xid, program, procedure, uid, gid, arguments);
        let mark = 0x8000_0000 | call.len() as u32;
        self.stream
            .write_all(&[&mark.to_be_bytes()[..], &call].concat())
            .unwrap();
    }

    /// The xid of the next reply, and what follows the message's type.
    pub fn receive(&mut self) -> (u32, Vec<u8>) {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(0) >> 31, word(8)), (1, 1), "no reply in one piece");
        let mut rest = vec![0; (word(0) & 0x7fff_ffff) as usize - 8];
        self.stream.read_exact(&mut rest).unwrap();
        (word(4), rest)
    }

    /// What follows the message's type in the reply.
    pub fn reply(&mut self, program: (u32, u32), procedure: u32, arguments: &[u8]) -> Vec<u8> {
        self.xid += 1;
        self.send(program, procedure, arguments);
        let (xid, rest) = self.receive();
        assert_eq!(xid, self.xid);
        rest
    }

    /// The results of a call that is accepted.
    pub fn raw_call(&mut self, program: (u32, u32), procedure: u32, arguments: &[u8]) -> Vec<u8> {
        let mut reply = self.reply(program, procedure, arguments);
        // MSG_ACCEPTED, an empty verifier, SUCCESS.
        assert_eq!(reply[..16], [0; 16]);
        reply.split_off(16)
    }

    /// The same, read; nothing may be left over.
    pub fn call<T: Unpack>(&mut self, program: (u32, u32), procedure: u32, arguments: &[u8]) -> T {
        let results = self.raw_call(program, procedure, arguments);
        let (value, length) = T::unpack(&mut results.as_slice()).unwrap();
        assert_eq!(length, results.len());
        value
    }
}

/// A call message, with AUTH_SYS.
pub fn call(
    xid: u32,
    (program, version): (u32, u32),
    procedure: u32,
    uid: u32,
    gid: u32,
    arguments: &[u8],
) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [xid, 0, 2, program, version, procedure, 1] {
        message.extend(word.to_be_bytes());
    }
    let mut credential = Vec::new();
    auth_unix {
        uid,
        gid,
        ..auth_unix::default()
    }
    .pack(&mut credential)
    .unwrap();
    Opaque::owned(credential).pack(&mut message).unwrap();
    message.extend([0; 8]);
    message.extend(arguments);
    message
}

/// XDR arguments: opaque data, then numbers.
pub fn arguments(opaque: &[&[u8]], words: &[u32]) -> Vec<u8> {
    let mut data = Vec::new();
    for part in opaque {
        Opaque::borrowed(part).pack(&mut data).unwrap();
    }
    for word in words {
        data.extend(word.to_be_bytes());
    }
    data
}

pub fn root_handle(server: &NfsServer) -> Vec<u8> {
    let export = server.exports.by_id("test-image").unwrap();
    hearth::netboot::nfs::handle(&export, hearth::image::index::Number::ROOT).to_vec()
}
