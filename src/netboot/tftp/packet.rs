//! Owns TFTP's packets (RFC 1350, 2347 to 2349, 7440) and the files that boards see by it.
//! Never sends one.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;

/// The files visible to boards, by path without a leading slash.
pub trait Files: Send + Sync {
    /// `None` if there is no such file for this peer.
    ///
    /// # Errors
    /// If the file exists but cannot be made or read; the message is logged and sent to the client.
    fn open(&self, path: &str, peer: IpAddr) -> anyhow::Result<Option<Content>>;
}

/// The content of a file; it does not change during a transfer.
#[derive(Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    File { file: File, size: u64 },
}

impl Content {
    /// A file of the host.
    pub fn of(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Content::File { file, size })
    }

    pub fn size(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File { size, .. } => *size,
        }
    }

    /// Fills `buffer` from `offset` on; fails if the file ends before.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Content::Bytes(bytes) => {
                let start = offset as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
            Content::File { file, .. } => file.read_exact_at(buffer, offset),
        }
    }
}

const RRQ: u16 = 1;
const WRQ: u16 = 2;
pub(super) const DATA: u16 = 3;
pub(super) const ACK: u16 = 4;
pub(super) const ERROR: u16 = 5;
pub(super) const OACK: u16 = 6;

/// Error codes of RFC 1350.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Undefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
}

/// Limit on files converted to netascii, which is done in memory, in bytes.
const MAX_NETASCII: u64 = 16 << 20;

/// An ERROR packet's code and text.
pub type Refusal = (Code, &'static str);

/// A read request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) path: String,
    pub(super) is_text: bool,
    pub(super) options: Vec<(String, u64)>,
}

impl Request {
    /// Whether a packet is a request, of either kind, possibly malformed.
    pub(super) fn is_one(packet: &[u8]) -> bool {
        let opcode = packet.first_chunk::<2>().copied().map(u16::from_be_bytes);
        matches!(opcode, Some(RRQ | WRQ))
    }

    /// Parses arbitrary bytes: returns a request, or the error for the client.
    ///
    /// # Errors
    /// If the packet is no read request, or one that is never granted.
    pub fn parse(packet: &[u8]) -> Result<Self, Refusal> {
        let illegal = (Code::IllegalOperation, "not a read request");
        let (opcode, rest) = packet.split_first_chunk::<2>().ok_or(illegal)?;
        match u16::from_be_bytes(*opcode) {
            RRQ => {}
            WRQ => return Err((Code::AccessViolation, "this server is read-only")),
            _ => return Err(illegal),
        }
        let rest = rest.strip_suffix(b"\0").ok_or(illegal)?;
        let mut words = rest.split(|&byte| byte == 0);
        let mut word =
            || -> Option<&str> { words.next().and_then(|word| str::from_utf8(word).ok()) };
        let path = word().ok_or(illegal)?;
        let mode = word().ok_or(illegal)?;
        let is_text = mode.eq_ignore_ascii_case("netascii");
        if !is_text && !mode.eq_ignore_ascii_case("octet") {
            return Err((Code::IllegalOperation, "only octet and netascii are served"));
        }
        // Some boot ROMs use backslashes in paths; dnsmasq accepts them too.
        let path = clean(&path.replace('\\', "/"))
            .ok_or((Code::AccessViolation, "a path that leads out"))?;
        let mut options = Vec::new();
        while let (Some(name), Some(value)) = (word(), word()) {
            let name = unquoted(name).to_ascii_lowercase();
            // The value of `tsize` has no meaning in a read request. Other options with a value
            // that is no number are treated as unknown: they are not acknowledged.
            if let Some(value) = number(value).or((name == "tsize").then_some(0)) {
                options.push((name, value));
            }
        }
        Ok(Request {
            path,
            is_text,
            options,
        })
    }
}

/// A word of a request without the spaces and quotes that some clients put around it.
fn unquoted(word: &str) -> &str {
    word.trim_matches(|c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\''))
}

/// The number at the beginning of a word, as parsed by C's `atoi`, and therefore by dnsmasq.
fn number(word: &str) -> Option<u64> {
    let word = unquoted(word);
    let word = word.strip_prefix('+').unwrap_or(word);
    let end = word.find(|c: char| !c.is_ascii_digit());
    word[..end.unwrap_or(word.len())].parse().ok()
}

/// Converts a file to netascii (RFC 764): a line ends with CR LF, and a CR in the file is followed
/// by NUL.
///
/// # Errors
/// If the file is too large, or cannot be read.
fn netascii(content: &Content) -> io::Result<Content> {
    if content.size() > MAX_NETASCII {
        return Err(io::Error::other("too large for netascii; ask for octet"));
    }
    let mut bytes = vec![0; content.size() as usize];
    content.read_at(0, &mut bytes)?;
    let mut text = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    for byte in bytes {
        match byte {
            b'\n' => text.extend(b"\r\n"),
            b'\r' => text.extend(b"\r\0"),
            _ => text.push(byte),
        }
    }
    Ok(Content::Bytes(text))
}

/// Normalises a path: removes `.`, `..` and empty components; `None` if it leads out of the root.
pub fn clean(path: &str) -> Option<String> {
    let mut clean: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => return None,
            _ if component.contains(['\\', '\0']) => return None,
            _ => clean.push(component),
        }
    }
    Some(clean.join("/"))
}

/// An ERROR packet that answers a request of `length` bytes. The message ends where the packet would be twice as large as
/// the request, which may have a forged source.
pub(super) fn error_packet((code, message): (Code, &str), length: usize) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    let room = (2 * length).saturating_sub(packet.len() + 1);
    packet.extend_from_slice(&message.as_bytes()[..message.floor_char_boundary(room)]);
    packet.push(0);
    packet
}

/// The file that is asked for, as the client wants it.
///
/// # Errors
/// If there is none for this peer, or it cannot be read; code and message for the client.
pub(super) fn open(
    files: &dyn Files,
    request: &Request,
    peer: IpAddr,
) -> Result<Content, (Code, String)> {
    let opened = match files.open(&request.path, peer) {
        Ok(Some(content)) if request.is_text => netascii(&content).map(Some).map_err(Into::into),
        opened => opened,
    };
    match opened {
        Ok(Some(content)) => Ok(content),
        Ok(None) => {
            log::info!("tftp: {peer}: no file {}", request.path);
            Err((Code::NotFound, "no such file".into()))
        }
        Err(error) => {
            log::error!("tftp: {peer}: {}: {error:#}", request.path);
            Err((Code::Undefined, format!("{error:#}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_whatever_their_options() {
        let packet = b"\0\x01/images/./x\0OCTET\0BlkSize\x001468\0tsize\x000\0x\0y\0";
        let request = Request::parse(packet).unwrap();
        assert_eq!(request.path, "images/x");
        assert_eq!(
            request.options,
            [("blksize".into(), 1468), ("tsize".into(), 0)]
        );
        for length in 0..packet.len() {
            let _ = Request::parse(&packet[..length]);
        }
        let code = |packet: &[u8]| Request::parse(packet).unwrap_err().0;
        assert_eq!(code(b"\0\x02a\0octet\0"), Code::AccessViolation);
        assert_eq!(code(b"\0\x01../etc/passwd\0octet\0"), Code::AccessViolation);
        assert_eq!(code(b"\0\x01a\0mail\0"), Code::IllegalOperation);
        assert_eq!(code(b"\0\x04\0\0"), Code::IllegalOperation);
    }

    #[test]
    fn an_error_is_less_than_three_times_its_request() {
        for length in 2..100 {
            let packet = error_packet((Code::Undefined, "größer als die Anfrage"), length);
            assert!(packet.len() <= 2 * length.max(3), "{length}");
            assert!(packet.len() < 3 * length && packet.ends_with(b"\0"));
            assert!(str::from_utf8(&packet[4..]).is_ok());
        }
    }
}
