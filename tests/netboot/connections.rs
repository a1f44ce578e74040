//! Hosts that take all connections there are: others are still served.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use crate::fixture::NfsServer;
use crate::rpc::{Client, NFS};

/// Connects from an address of this host's; says nothing.
async fn idle(from: &str, to: SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[test]
fn idle_connections_of_two_hosts_do_not_lock_out_a_third() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let runtime = Runtime::new().unwrap();
    let mut waiting = Vec::new();
    for from in ["127.0.0.2", "127.0.0.3"] {
        for _ in 0..600 {
            waiting.push(runtime.block_on(idle(from, server.address)));
        }
    }
    let mut client = Client::connect(server.address);
    // MSG_ACCEPTED, no verifier, SUCCESS.
    assert_eq!(client.reply(NFS, 0, &[])[..4], [0, 0, 0, 0]);
}

#[test]
fn a_stranger_s_connection_is_closed_at_once() {
    let server = NfsServer::start(&["10.1.2.0/24"]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    let wait = Some(Duration::from_secs(2));
    stream.set_read_timeout(wait).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}
