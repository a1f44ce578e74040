//! Owns transfers from a mirror: HTTP, HTTPS and `file://`, time-outs, proxies, redirects, byte
//! ranges.
//! Never interprets the data.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use thiserror::Error;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, http};

use crate::input;

/// The lowest acceptable rate, in bytes per second, measured over the stall time-out.
const SLOWEST: f64 = 1024.0;

/// The same for a whole file with all attempts.
const SLOWEST_FILE: u64 = 2048;

/// All time-outs and retry counts of the archive client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For name resolution and connecting.
    pub connect: Duration,
    /// Time without a byte after which a transfer has stalled.
    pub stall: Duration,
    /// Consecutive attempts without progress after which a transfer has failed.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one.
    pub pause: Duration,
    /// Number of parallel transfers.
    pub parallel: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            attempts: 4,
            pause: Duration::from_millis(500),
            parallel: 8,
        }
    }
}

impl Limits {
    /// How long a file of so many bytes may take with all attempts: a mirror that brings a little each time would else never
    /// be given up.
    pub fn patience(&self, size: u64) -> Duration {
        self.stall * 20 + Duration::from_secs(size / SLOWEST_FILE)
    }
}

/// Why a transfer ended early.
#[derive(Debug, Error)]
pub enum TransferError {
    #[error("{0} does not exist there")]
    Missing(String),
    #[error("{url} was refused with HTTP status {status}")]
    Refused { url: String, status: u16 },
    #[error("{url} stalled: no data for {} s", seconds.as_secs_f32())]
    Stalled { url: String, seconds: Duration },
    #[error("{url} comes too slowly: under {SLOWEST} bytes per second for {} s", seconds.as_secs_f32())]
    Slow { url: String, seconds: Duration },
    #[error("{url} takes too long: it was not complete after {} s", seconds.as_secs())]
    Late { url: String, seconds: Duration },
    #[error("{url} was cut short")]
    Cut { url: String },
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url}: {reason}")]
    Address { url: String, reason: String },
    #[error("cannot read {url}")]
    Local { url: String, source: io::Error },
}

impl TransferError {
    /// Whether a retry may help.
    pub fn is_transient(&self) -> bool {
        match self {
            TransferError::Stalled { .. }
            | TransferError::Cut { .. }
            | TransferError::Unreachable { .. } => true,
            TransferError::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            // A slow transfer makes progress each time, so that retries would never end.
            TransferError::Slow { .. }
            | TransferError::Late { .. }
            | TransferError::Missing(_)
            | TransferError::Address { .. }
            | TransferError::Local { .. } => false,
        }
    }
}

/// A mirror's response.
pub struct Answer {
    url: String,
    stall: Duration,
    /// The offset of the body's first byte: the requested one, or 0 if the mirror ignores ranges.
    pub offset: u64,
    /// The number of bytes to come, if the mirror gave it.
    pub length: Option<u64>,
    body: Box<dyn Read + Send>,
    /// Bytes received and time waited since the rate was checked last.
    came: u64,
    waited: Duration,
}

impl Answer {
    /// Reads some more bytes; returns 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TransferError> {
        let begun = Instant::now();
        let read = self.body.read(buffer);
        self.waited += begun.elapsed();
        let n = read.map_err(|error| explain(&self.url, self.stall, ureq::Error::from(error)))?;
        self.came += n as u64;
        // Only time spent waiting counts, not the caller's own work.
        if n > 0 && self.waited >= self.stall {
            if (self.came as f64) < SLOWEST * self.waited.as_secs_f64() {
                return Err(TransferError::Slow {
                    url: self.url.clone(),
                    seconds: self.stall,
                });
            }
            (self.came, self.waited) = (0, Duration::ZERO);
        }
        Ok(n)
    }
}

/// An HTTP client for mirrors. Clones are cheap and share connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    limits: Limits,
}

impl Client {
    /// Uses the proxies in `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in either case.
    pub fn new(limits: Limits) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.stall))
            .timeout_per_read(Some(limits.stall))
            .timeout_per_write(Some(limits.stall))
            .http_status_as_error(false)
            .max_redirects(10)
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            // Byte ranges and hashes refer to the file as it is stored.
            .accept_encoding("identity")
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .build();
        Client {
            agent: Agent::new_with_config(config),
            limits,
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Requests a file from the byte `offset` on.
    ///
    /// # Errors
    /// If it does not exist, the mirror refuses or is unreachable, or the address is invalid.
    pub fn get(&self, url: &str, offset: u64) -> Result<Answer, TransferError> {
        match url.split_once("://") {
            Some(("file", path)) => self.open_file(url, path, offset),
            Some(("http" | "https", _)) => self.request(url, offset),
            _ => Err(TransferError::Address {
                url: url.into(),
                reason: "only http://, https:// and file:// are known".into(),
            }),
        }
    }

    fn open_file(&self, url: &str, path: &str, offset: u64) -> Result<Answer, TransferError> {
        let path = percent_decode(path).ok_or_else(|| TransferError::Address {
            url: url.into(),
            reason: "not a file:// address with an absolute path".into(),
        })?;
        let open = || -> io::Result<File> {
            let mut file = input::open(std::path::Path::new(&path))?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(self.answer(url, offset, None, Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(TransferError::Missing(url.into()))
            }
            Err(source) => Err(TransferError::Local {
                url: url.into(),
                source,
            }),
        }
    }

    fn request(&self, url: &str, offset: u64) -> Result<Answer, TransferError> {
        // Proxies must revalidate what they have cached.
        let mut request = self.agent.get(url).header("cache-control", "max-age=0");
        if offset > 0 {
            request = request.header("range", format!("bytes={offset}-"));
        }
        let response = request
            .call()
            .map_err(|error| explain(url, self.limits.stall, error))?;
        let status = response.status().as_u16();
        let begins = match status {
            200 => 0,
            206 if begins_at(response.headers(), offset) => offset,
            404 | 410 => return Err(TransferError::Missing(url.into())),
            // The partial download is no prefix of the mirror's file.
            206 | 416 if offset > 0 => return self.request(url, 0),
            _ => {
                return Err(TransferError::Refused {
                    url: url.into(),
                    status,
                });
            }
        };
        let body = response.into_body();
        let length = body.content_length();
        Ok(self.answer(url, begins, length, Box::new(body.into_reader())))
    }

    fn answer(
        &self,
        url: &str,
        offset: u64,
        length: Option<u64>,
        body: Box<dyn Read + Send>,
    ) -> Answer {
        Answer {
            url: url.into(),
            stall: self.limits.stall,
            offset,
            length,
            body,
            came: 0,
            waited: Duration::ZERO,
        }
    }
}

/// Whether a header `Content-Range: bytes 100-199/200` says that the body begins at `offset`.
fn begins_at(headers: &http::HeaderMap, offset: u64) -> bool {
    headers
        .get("content-range")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(first, _)| first.trim().parse() == Ok(offset))
}

fn explain(url: &str, stall: Duration, error: ureq::Error) -> TransferError {
    let url = url.to_string();
    match error {
        ureq::Error::Timeout(
            ureq::Timeout::RecvResponse | ureq::Timeout::RecvBody | ureq::Timeout::PerRead,
        ) => TransferError::Stalled {
            url,
            seconds: stall,
        },
        ureq::Error::Timeout(kind) => TransferError::Unreachable {
            url,
            reason: format!("no answer in time ({kind})"),
        },
        ureq::Error::Io(error) if is_cut(error.kind()) => TransferError::Cut { url },
        ureq::Error::Io(error) if url.starts_with("file:") => {
            TransferError::Local { url, source: error }
        }
        ureq::Error::BadUri(reason) => TransferError::Address { url, reason },
        ureq::Error::Http(error) => TransferError::Address {
            url,
            reason: error.to_string(),
        },
        ureq::Error::TooManyRedirects => TransferError::Address {
            url,
            reason: "redirects without end".into(),
        },
        error => TransferError::Unreachable {
            url,
            reason: error.to_string(),
        },
    }
}

fn is_cut(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

/// Percent-encodes a path: all but letters, digits and `/._-~`.
pub fn percent_encode(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The path of a `file://` address, whose host must be empty or `localhost`.
fn percent_decode(address: &str) -> Option<String> {
    let path = address.strip_prefix("localhost").unwrap_or(address);
    if !path.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_file_addresses_are_decoded() {
        assert_eq!(percent_decode("/a%20b/c").as_deref(), Some("/a b/c"));
        assert_eq!(percent_decode("localhost/a").as_deref(), Some("/a"));
        let name = "/pool/a_1%3a2+b~1 é.deb";
        assert_eq!(percent_decode(&percent_encode(name)).as_deref(), Some(name));
        for wrong in ["host/a", "a", "/a%2", "/a%zz"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_refused() {
        let client = Client::new(Limits::default());
        for wrong in ["ftp://x/y", "/srv/mirror", "file://host/x"] {
            assert!(
                matches!(client.get(wrong, 0), Err(TransferError::Address { .. })),
                "{wrong}"
            );
        }
    }
}
