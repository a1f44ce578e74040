//! Owns HTTP access to the network tree: the same files as over TFTP, read-only, with ranges (RFC
//! 9110, section 14).
//! Never decides which files exist; `serve` merges the lab's API in.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http_body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::netboot::net::access::Access;
use crate::netboot::net::connections::accept;
use crate::netboot::net::patience::{Timed, Watched};
use crate::netboot::tftp::{Content, Files, clean};

/// Buffer size in bytes.
const CHUNK: usize = 64 << 10;

/// Time-out for the head of a request, and its largest size.
const HEAD_TIME: Duration = Duration::from_secs(15);
const HEAD_SIZE: usize = 64 << 10;
/// How long a client may take to send the body of a request, which has a MiB at most, and to take a file.
const BODY_TIME: Duration = Duration::from_secs(60);
const FILE_TIME: Duration = Duration::from_secs(3600);

/// Accepts connections of allowed hosts until the task is dropped.
pub async fn serve(listener: TcpListener, access: Arc<Access>, router: Router) {
    accept("http", listener, access, |stream, peer, activity| {
        let stream = Watched::new(stream, activity);
        serve_connection(stream, peer, router.clone())
    })
    .await;
}

/// Answers the requests of one connection until the client closes it.
///
/// # Errors
/// If the data is not HTTP/1, or the connection fails.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
) -> hyper::Result<()> {
    let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Serves the files at every path without another route in the final router.
pub fn files<F: Files + 'static>(files: Arc<F>) -> Router {
    Router::new().fallback(get_file::<F>).with_state(files)
}

/// Refuses clients outside the allowed networks, for all routes of `router`.
pub fn restrict(router: Router, access: Arc<Access>) -> Router {
    router.layer(middleware::from_fn_with_state(access, check))
}

async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    match peer {
        Some(ConnectInfo(peer)) if access.allows(peer.ip(), "http") => {
            next.run(request.map(timed)).await
        }
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// A body of a request that fails when it takes too long.
fn timed(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(Timed::new(body, BODY_TIME))
}

async fn get_file<F: Files + 'static>(
    State(files): State<Arc<F>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET, HEAD")],
        )
            .into_response();
    }
    let Some(path) = clean(request.uri().path()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match files.open(&path, peer.ip()) {
        Ok(Some(content)) => respond(content, request.headers(), request.method(), &path),
        Ok(None) => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
        Err(error) => {
            log::error!("http: {peer}: {path}: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
        }
    }
}

fn respond(content: Content, headers: &HeaderMap, method: &Method, path: &str) -> Response {
    let size = content.size();
    let wanted = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .map_or(Wanted::All, |value| Wanted::parse(value, size));
    let mut response = Response::builder()
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, media_type(path));
    let (start, length) = match wanted {
        Wanted::All => (0, size),
        Wanted::Part(first, last) => {
            response = response.status(StatusCode::PARTIAL_CONTENT).header(
                header::CONTENT_RANGE,
                format!("bytes {first}-{last}/{size}"),
            );
            (first, last - first + 1)
        }
        Wanted::Impossible => {
            return (
                StatusCode::RANGE_NOT_SATISFIABLE,
                [(header::CONTENT_RANGE, format!("bytes */{size}"))],
            )
                .into_response();
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        body(content, start, length)
    };
    response
        .header(header::CONTENT_LENGTH, length)
        .body(body)
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn body(content: Content, start: u64, length: u64) -> Body {
    match content {
        Content::Bytes(bytes) => {
            let (start, length) = (start as usize, length as usize);
            Body::from(Bytes::from(bytes).slice(start..start + length))
        }
        Content::File { file, .. } => Body::new(Part {
            file,
            offset: start,
            left: length,
            end: Instant::now() + FILE_TIME,
        }),
    }
}

fn media_type(path: &str) -> &'static str {
    if path.ends_with(".json") || path.is_empty() {
        "application/json"
    } else {
        "application/octet-stream"
    }
}

/// A parsed Range header.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// First and last byte, inclusive.
    Part(u64, u64),
    Impossible,
}

impl Wanted {
    /// Parses one range of bytes; for several ranges and other units the whole file is sent (as RFC
    /// 9110 allows).
    fn parse(value: &str, size: u64) -> Self {
        let Some((first, last)) = value
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
        else {
            return Wanted::All;
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let (first, last) = match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => return Wanted::All,
            (Some(first), Some(last)) => (first, last.min(size.saturating_sub(1))),
            (Some(first), None) if last.is_empty() => (first, size.saturating_sub(1)),
            // A suffix range: the last bytes of the file.
            (None, Some(0)) if first.is_empty() => return Wanted::Impossible,
            (None, Some(count)) if first.is_empty() => {
                (size.saturating_sub(count), size.saturating_sub(1))
            }
            _ => return Wanted::All,
        };
        if first >= size {
            return Wanted::Impossible;
        }
        Wanted::Part(first, last)
    }
}

/// A part of a file as a stream, read on demand.
struct Part {
    file: File,
    offset: u64,
    left: u64,
    /// When the client has to have it.
    end: Instant,
}

impl HttpBody for Part {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if Instant::now() >= self.end {
            self.left = 0;
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let mut chunk = vec![0; self.left.min(CHUNK as u64) as usize];
        if let Err(error) = self.file.read_exact_at(&mut chunk, self.offset) {
            self.left = 0;
            return Poll::Ready(Some(Err(error)));
        }
        self.offset += chunk.len() as u64;
        self.left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netboot::net::connections::Activity;

    #[test]
    fn ranges_are_read_as_http_says() {
        let parse = |value: &str| Wanted::parse(value, 1000);
        assert_eq!(parse("bytes=0-499"), Wanted::Part(0, 499));
        assert_eq!(parse("bytes=500-"), Wanted::Part(500, 999));
        assert_eq!(parse("bytes=-500"), Wanted::Part(500, 999));
        assert_eq!(parse("bytes=-5000"), Wanted::Part(0, 999));
        assert_eq!(parse("bytes=999-5000"), Wanted::Part(999, 999));
        assert_eq!(parse("bytes=1000-"), Wanted::Impossible);
        assert_eq!(parse("bytes=-0"), Wanted::Impossible);
        for whole in [
            "bytes=5-1",
            "bytes=a-b",
            "bytes=",
            "lines=1-2",
            "bytes=0-1,5-6",
        ] {
            assert_eq!(parse(whole), Wanted::All, "{whole}");
        }
        assert_eq!(Wanted::parse("bytes=0-", 0), Wanted::Impossible);
    }

    /// One large file under every path.
    struct Large(tempfile::NamedTempFile);

    impl Files for Large {
        fn open(&self, _: &str, _: std::net::IpAddr) -> anyhow::Result<Option<Content>> {
            Ok(Some(Content::of(self.0.reopen()?)?))
        }
    }

    /// How many seconds pass until the server ends the connection of a client that says this and no more, and takes
    /// nothing beyond the first 64 KiB.
    async fn patience(says: &[u8]) -> f64 {
        use tokio::io::AsyncWriteExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10 << 20).unwrap();
        let access = Arc::new(Access::new(vec!["127.0.0.0/8".parse().unwrap()]));
        let api = Router::new().route("/post", axum::routing::post(|_: Bytes| async { "taken" }));
        let router = restrict(api.merge(files(Arc::new(Large(file)))), access);
        let (mut client, server) = tokio::io::duplex(64 << 10);
        client.write_all(says).await.unwrap();
        let begun = Instant::now();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1000));
        let _ = serve_connection(Watched::new(server, Activity::default()), peer, router).await;
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn no_client_is_waited_for_without_end() {
        for (says, at_most) in [
            (&b""[..], 20.0),
            (b"GET /", 20.0),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: y", 20.0),
            (
                b"POST /post HTTP/1.1\r\nContent-Length: 1000\r\n\r\n[",
                90.0,
            ),
            (
                b"POST /post HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n[[",
                90.0,
            ),
            // A body that nothing reads.
            (b"GET /file HTTP/1.1\r\nContent-Length: 1000\r\n\r\n[", 90.0),
            // Answered, and then idle.
            (b"HEAD /file HTTP/1.1\r\nHost: a\r\n\r\n", 90.0),
            // The file is larger than what the client takes.
            (b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n", 90.0),
        ] {
            let shown = String::from_utf8_lossy(says);
            let ended = tokio::time::timeout(Duration::from_secs(7200), patience(says)).await;
            let took = ended.unwrap_or_else(|_| panic!("{shown:?} is waited for"));
            assert!(took <= at_most, "{shown:?}: {took} s");
        }
    }
}
