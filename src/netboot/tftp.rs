//! Owns the TFTP server: RFC 1350 with options (RFC 2347), blksize (2348), timeout and tsize (2349) and windowsize
//! (7440). Read-only; never decides which files there are.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::access::Access;
use super::transfers::{Admission, Transfers};

/// The files that boards see, by path without a leading slash.
pub trait Files: Send + Sync {
    /// `None` where there is no such file for this peer.
    ///
    /// # Errors
    /// If there should be one, but it cannot be made or read; the message goes to the log and to the client.
    fn open(&self, path: &str, peer: IpAddr) -> anyhow::Result<Option<Content>>;
}

/// What a file holds; it does not change while it is sent.
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

    /// Fills `buffer` from `offset` on; all of it must be there.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
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

const SERVER_PORT: u16 = 69;
const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// Error codes of RFC 1350.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Undefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
}

const DEFAULT_BLOCK: usize = 512;
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 8..=65464;
/// The largest window that is granted, in blocks: more would only overrun a board's receive ring.
const MAX_WINDOW: u64 = 64;
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a window is sent again before the client is given up.
const RETRIES: u32 = 8;
/// How long a client may take to answer the first packet, whatever it asks for: until then a forged source address
/// would do.
const UNPROVED: Duration = Duration::from_secs(5);
/// Files are converted to netascii in memory, up to this many bytes.
const MAX_NETASCII: u64 = 16 << 20;
/// Of a transfer's thread; address space only, as far as it is not used.
const STACK: usize = 512 << 10;
/// A request is one small datagram (RFC 2347: 512 bytes).
const MAX_REQUEST: usize = 1024;

pub struct Tftp<F> {
    pub files: Arc<F>,
    pub access: Arc<Access>,
}

impl<F: Files + 'static> Tftp<F> {
    /// Answers requests until the task is dropped. Each transfer has a socket of its own, on a free port of the same
    /// address, and a thread: it does nothing but wait for one acknowledgement after another, which a thread does with
    /// the fewest detours.
    pub async fn serve(self, socket: tokio::net::UdpSocket) {
        let transfers = Transfers::default();
        let address = socket
            .local_addr()
            .map_or(IpAddr::from([0, 0, 0, 0]), |local| local.ip());
        let mut datagram = vec![0; MAX_REQUEST];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut datagram).await else {
                continue;
            };
            if !self.access.allows(peer.ip(), "tftp") {
                continue;
            }
            // Only a request is ever answered (RFC 1350, section 4): two servers that answer each other's errors never
            // end. Nor does a datagram from port 0 or from another server's port get an answer.
            if !Request::is_one(&datagram[..length]) || matches!(peer.port(), 0 | SERVER_PORT) {
                continue;
            }
            let accepted = Request::parse(&datagram[..length])
                .and_then(|request| self.begin(request, &transfers, address, peer));
            if let Err(refusal) = accepted {
                log::debug!("tftp: {peer}: {}", refusal.1);
                let _ = socket.send_to(&error_packet(refusal), peer).await;
            }
        }
    }

    /// Starts the transfer that is asked for.
    fn begin(
        &self,
        request: Request,
        transfers: &Transfers,
        address: IpAddr,
        peer: SocketAddr,
    ) -> Result<(), Refusal> {
        const BUSY: Refusal = (Code::Undefined, "too many transfers; try again");
        let mut wire = match transfers.admit(&request, address, peer) {
            Ok(Admission::Begin(connection)) => connection,
            Ok(Admission::Copy) => return Ok(()),
            Ok(Admission::Busy) => return Err(BUSY),
            Err(error) => {
                log::warn!("tftp: {peer}: cannot open a socket: {error}");
                return Err(BUSY);
            }
        };
        let files = self.files.clone();
        let transfer = move || {
            if let Err(error) = answer(&*files, &request, peer, &mut wire) {
                log::info!("tftp: {peer}: {}: {error}", request.path);
            }
        };
        let thread = thread::Builder::new().name("tftp".into()).stack_size(STACK);
        thread.spawn(transfer).map(drop).map_err(|error| {
            log::warn!("tftp: {peer}: cannot start a thread: {error}");
            BUSY
        })
    }
}

/// What a client is told instead of data.
pub type Refusal = (Code, &'static str);

/// A read request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    path: String,
    is_text: bool,
    options: Vec<(String, u64)>,
}

impl Request {
    /// Whether a packet is a request, of either kind, though it may be malformed.
    fn is_one(packet: &[u8]) -> bool {
        let opcode = packet.first_chunk::<2>().copied().map(u16::from_be_bytes);
        matches!(opcode, Some(RRQ | WRQ))
    }

    /// Whatever the bytes are, the result is a request or what to tell the client.
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
        // Some boot ROMs write paths as DOS did; dnsmasq takes them too.
        let path = clean(&path.replace('\\', "/"))
            .ok_or((Code::AccessViolation, "a path that leads out"))?;
        let mut options = Vec::new();
        while let (Some(name), Some(value)) = (word(), word()) {
            let name = unquoted(name).to_ascii_lowercase();
            // The value of `tsize` says nothing in a read request. Another option whose value is no number is one that
            // we do not know: it is not acknowledged.
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

/// A word of a request without the blanks and quotes that some clients put around it.
fn unquoted(word: &str) -> &str {
    word.trim_matches(|c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\''))
}

/// The number that a word begins with, as C's `atoi`, and with it dnsmasq, reads it.
fn number(word: &str) -> Option<u64> {
    let word = unquoted(word);
    let word = word.strip_prefix('+').unwrap_or(word);
    let end = word.find(|c: char| !c.is_ascii_digit());
    word[..end.unwrap_or(word.len())].parse().ok()
}

/// A file as netascii has it (RFC 764): a line ends with CR LF, and a CR of the file's own is followed by NUL.
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

/// A path below the root without `.`, `..` or empty components; `None` for what would lead out.
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

/// What was agreed on for one transfer.
#[derive(Debug)]
struct Terms {
    block: usize,
    window: u64,
    timeout: Option<Duration>,
    /// The OACK packet; none where the client asked for no option that we know.
    acknowledgement: Option<Vec<u8>>,
}

impl Terms {
    fn agree(options: &[(String, u64)], size: u64) -> Self {
        let mut terms = Terms {
            block: DEFAULT_BLOCK,
            window: 1,
            timeout: None,
            acknowledgement: None,
        };
        let mut packet = OACK.to_be_bytes().to_vec();
        let mut agreed = HashSet::new();
        for (name, value) in options {
            let granted = match (name.as_str(), *value) {
                ("blksize", value) if value >= *BLOCK_SIZES.start() => {
                    let granted = value.min(*BLOCK_SIZES.end());
                    terms.block = granted as usize;
                    granted
                }
                ("windowsize", value) if (1..=65535).contains(&value) => {
                    terms.window = value.min(MAX_WINDOW);
                    terms.window
                }
                ("timeout", value) if (1..=255).contains(&value) => {
                    terms.timeout = Some(Duration::from_secs(value));
                    value
                }
                ("tsize", _) => size,
                _ => continue,
            };
            // An option may come only once (RFC 2347).
            if agreed.insert(name) {
                packet.extend_from_slice(format!("{name}\0{granted}\0").as_bytes());
            }
        }
        if !agreed.is_empty() {
            terms.acknowledgement = Some(packet);
        }
        terms
    }
}

fn error_packet((code, message): (Code, &str)) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    packet.extend_from_slice(message.as_bytes());
    packet.push(0);
    packet
}

/// The way to one client.
pub trait Wire {
    /// What cannot be sent is as good as lost on the way: it is sent again later.
    fn send(&mut self, packet: &[u8]);

    /// The length of the client's next packet; `None` if none comes for so long.
    ///
    /// # Errors
    /// If none will come any more.
    fn receive(&mut self, packet: &mut [u8], wait: Duration) -> io::Result<Option<usize>>;
}

/// Sends what is asked for, or says why not; returns when the client has it, or has gone.
///
/// # Errors
/// If the client stops, or answers no longer, before it has everything; if the file cannot be read.
pub fn answer(
    files: &dyn Files,
    request: &Request,
    peer: SocketAddr,
    wire: &mut dyn Wire,
) -> io::Result<()> {
    let opened = files.open(&request.path, peer.ip());
    let opened = match opened {
        Ok(Some(content)) if request.is_text => netascii(&content).map(Some).map_err(Into::into),
        opened => opened,
    };
    let refusal = match opened {
        Ok(Some(content)) => {
            let begun = Instant::now();
            let size = content.size();
            let terms = Terms::agree(&request.options, size);
            Transfer::new(wire, content, terms).run()?;
            log::info!(
                "tftp: {peer}: sent {}, {size} bytes in {:.1} s",
                request.path,
                begun.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        Ok(None) => {
            log::info!("tftp: {peer}: no file {}", request.path);
            error_packet((Code::NotFound, "no such file"))
        }
        Err(error) => {
            log::error!("tftp: {peer}: {}: {error:#}", request.path);
            error_packet((Code::Undefined, &format!("{error:#}")))
        }
    };
    wire.send(&refusal);
    Ok(())
}

struct Transfer<'a> {
    wire: &'a mut dyn Wire,
    content: Content,
    terms: Terms,
    /// The DATA packet that was made last, and its block; 0 before the first.
    packet: Vec<u8>,
    block: u64,
    /// Whether the client has answered.
    is_proved: bool,
}

/// When an answer has to be there, and how long that was to take.
#[derive(Clone, Copy)]
struct Deadline {
    end: Instant,
    wait: Duration,
}

impl<'a> Transfer<'a> {
    fn new(wire: &'a mut dyn Wire, content: Content, terms: Terms) -> Self {
        Transfer {
            packet: Vec::with_capacity(4 + terms.block),
            block: 0,
            is_proved: false,
            wire,
            content,
            terms,
        }
    }

    /// Sends the whole file, and returns when its last block has been acknowledged.
    fn run(&mut self) -> io::Result<()> {
        // Blocks count from 1; the last one is short, and empty if it has to be.
        let last = self.content.size() / self.terms.block as u64 + 1;
        let mut acknowledged = match self.terms.acknowledgement.take() {
            Some(packet) => self.agree(&packet)?,
            None => 0,
        };
        let mut retries = 0;
        let mut answered_duplicate = false;
        while acknowledged < last {
            let end = (acknowledged + self.terms.window).min(last);
            for block in acknowledged + 1..=end {
                self.make(block)?;
                self.wire.send(&self.packet);
            }
            // Read while the client is busy with these.
            if end < last {
                self.make(end + 1)?;
            }
            let deadline = self.deadline(retries);
            let next = loop {
                match self.acknowledgement(acknowledged, end, deadline)? {
                    // The client asks again for the window's first block. It is given that once: answering each of two
                    // would double every packet that follows (the sorcerer's apprentice of RFC 1123, section 4.2.3.1).
                    Some(same) if same == acknowledged => {
                        if self.terms.window > 1 && !answered_duplicate {
                            answered_duplicate = true;
                            break Some(same);
                        }
                    }
                    other => break other,
                }
            };
            match next {
                Some(block) => {
                    if block > acknowledged {
                        (retries, answered_duplicate) = (0, false);
                    }
                    acknowledged = block;
                }
                None if self.is_proved && retries < RETRIES => retries += 1,
                None => return Err(self.gave_up()),
            }
        }
        Ok(())
    }

    /// Sends the OACK, and waits until block 0 is acknowledged.
    fn agree(&mut self, packet: &[u8]) -> io::Result<u64> {
        self.wire.send(packet);
        let deadline = self.deadline(0);
        match self.acknowledgement(0, 0, deadline)? {
            Some(_) => Ok(0),
            None => Err(self.gave_up()),
        }
    }

    fn gave_up(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the client no longer answers; gave it up",
        )
    }

    fn deadline(&self, retries: u32) -> Deadline {
        let wait = match self.terms.timeout {
            // The first packet is sent once: a client that did not get it asks again.
            _ if !self.is_proved => UNPROVED,
            Some(agreed) => agreed,
            None => (FIRST_TIMEOUT * 2u32.pow(retries.min(8))).min(LAST_TIMEOUT),
        };
        let end = Instant::now() + wait;
        Deadline { end, wait }
    }

    /// Makes the DATA packet of a block, counted from 1 without end; on the wire it rolls over to 0.
    fn make(&mut self, block: u64) -> io::Result<()> {
        if self.block == block {
            return Ok(());
        }
        let offset = (block - 1) * self.terms.block as u64;
        let left = self.content.size().saturating_sub(offset);
        let length = left.min(self.terms.block as u64) as usize;
        self.packet.resize(4 + length, 0);
        self.packet[..2].copy_from_slice(&DATA.to_be_bytes());
        self.packet[2..4].copy_from_slice(&(block as u16).to_be_bytes());
        self.content.read_at(offset, &mut self.packet[4..])?;
        self.block = block;
        Ok(())
    }

    /// Waits for the acknowledgement of a block from `from` to `to`; `None` when the time is up.
    fn acknowledgement(
        &mut self,
        from: u64,
        to: u64,
        deadline: Deadline,
    ) -> io::Result<Option<u64>> {
        let mut packet = [0; 512];
        // Packets that count for nothing do not make it longer than twice the time.
        while Instant::now() < deadline.end {
            let Some(length) = self.wire.receive(&mut packet, deadline.wait)? else {
                break;
            };
            let Some((head, rest)) = packet[..length].split_first_chunk::<4>() else {
                continue;
            };
            let number = u16::from_be_bytes([head[2], head[3]]);
            match u16::from_be_bytes([head[0], head[1]]) {
                ACK => {
                    // A window is far smaller than the 16 bits of a block number: there is one candidate.
                    let block = from + u64::from(number.wrapping_sub(from as u16));
                    if block <= to {
                        self.is_proved = true;
                        return Ok(Some(block));
                    }
                }
                ERROR => {
                    let text = rest.split(|&byte| byte == 0).next().unwrap_or_default();
                    let text = String::from_utf8_lossy(text);
                    return Err(io::Error::other(format!("the client stopped: {text}")));
                }
                _ => {}
            }
        }
        Ok(None)
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
        // A cut request is one only where a string ends, behind the mode.
        let mode = b"\0\x01/images/./x\0OCTET\0".len();
        for length in 0..packet.len() {
            let read = Request::parse(&packet[..length]).is_ok();
            let ends = length >= mode && packet[length - 1] == 0;
            assert_eq!(read, ends, "{length} bytes");
        }
        let code = |packet: &[u8]| Request::parse(packet).unwrap_err().0;
        assert_eq!(code(b"\0\x02a\0octet\0"), Code::AccessViolation);
        assert_eq!(code(b"\0\x01../etc/passwd\0octet\0"), Code::AccessViolation);
        assert_eq!(code(b"\0\x01a\0mail\0"), Code::IllegalOperation);
        assert_eq!(code(b"\0\x04\0\0"), Code::IllegalOperation);
    }

    #[test]
    fn options_out_of_range_are_not_acknowledged() {
        let options = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs.iter().map(|(n, v)| (n.to_string(), *v)).collect()
        };
        let terms = Terms::agree(
            &options(&[("blksize", 4), ("windowsize", 0), ("timeout", 256)]),
            1,
        );
        assert_eq!(terms.acknowledgement, None);
        let terms = Terms::agree(&options(&[("blksize", 70_000), ("windowsize", 1000)]), 1);
        assert_eq!((terms.block, terms.window), (65464, 64));
        let oack = terms.acknowledgement.unwrap();
        assert_eq!(oack, b"\0\x06blksize\x0065464\0windowsize\x0064\0");
    }
}
