//! The HTTP server on arbitrary bytes: no panic, no connection that goes on for ever, and only answers in HTTP.
#![no_main]

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use hearth::netboot::http;
use hearth::netboot::net::access::Access;
use hearth::netboot::tftp::{Content, Files};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// One file that is in memory, and one that is not, under every other name.
struct Shelf(tempfile::NamedTempFile);

const SIZE: usize = 100_000;

impl Files for Shelf {
    fn open(&self, path: &str, _: IpAddr) -> anyhow::Result<Option<Content>> {
        assert!(!path.split('/').any(|component| component == ".."));
        match path {
            "none" => Ok(None),
            "broken" => anyhow::bail!("it cannot be read"),
            "short" => Ok(Some(Content::Bytes(b"short".to_vec()))),
            _ => Ok(Some(Content::of(self.0.reopen()?)?)),
        }
    }
}

static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![b'x'; SIZE]).unwrap();
    let access = Arc::new(Access::new(vec!["127.0.0.0/8".parse().unwrap()]));
    let routes = http::restrict(http::files(Arc::new(Shelf(file))), access);
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    (runtime, routes)
});

/// What the server says to these bytes, after which the client says no more.
async fn converse(bytes: &[u8], router: Router) -> Vec<u8> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1000));
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let serving = http::serve_connection(server, peer, router);
    let talking = async {
        let mut answer = Vec::new();
        let (mut from, mut to) = tokio::io::split(&mut client);
        let sending = async {
            let _ = to.write_all(bytes).await;
            let _ = to.shutdown().await;
        };
        let _ = tokio::join!(sending, from.read_to_end(&mut answer));
        answer
    };
    tokio::join!(serving, talking).1
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<u8>)| {
    let (raw, path, headers) = input;
    let request = [
        &b"GET /"[..],
        &path,
        b" HTTP/1.1\r\nHost: a\r\n",
        &headers,
        b"\r\n\r\n",
    ]
    .concat();
    let ranged = [
        &b"GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes="[..],
        &path,
        b"\r\n\r\n",
    ]
    .concat();
    let (runtime, router) = &*SERVER;
    for bytes in [&raw, &request, &ranged] {
        let talk = converse(bytes, router.clone());
        let answer = runtime.block_on(async { timeout(Duration::from_secs(20), talk).await });
        let answer = answer.expect("it came to no end");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
        // Each request of a pipeline is at least this long.
        assert!(answer.len() <= (SIZE + 1000) * (1 + bytes.len() / 16));
    }
});
