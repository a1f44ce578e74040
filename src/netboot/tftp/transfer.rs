//! Owns one TFTP transfer: what is sent next, and what the client's packets and its silence mean (RFC 1350, 2347 to 2349,
//! 7440). Never waits, and knows no socket.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use super::packet::{ACK, Content, DATA, ERROR, OACK};

const DEFAULT_BLOCK: usize = 512;
/// Bytes read of a file at a time, unless a block is larger: a system call for each block would be half of its cost.
const READ: usize = 32 << 10;
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 8..=65464;
/// The largest window granted, in blocks: more would overrun a board's receive ring.
const MAX_WINDOW: u64 = 64;
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a window is sent again before the client is given up, and how long it may be silent, whatever time-out it
/// asked for.
const RETRIES: u32 = 8;
const SILENCE: Duration = Duration::from_secs(60);
/// Time-out for the client's answer to the first packet, whatever it asks for: until then its
/// source address may be forged.
const UNPROVED: Duration = Duration::from_secs(5);
/// Codes of ERRORs that answer a packet that was not asked for: illegal operation, unknown transfer ID (RFC 1350).
const UNEXPECTED: [u16; 2] = [4, 5];

/// The negotiated parameters of one transfer.
#[derive(Debug)]
struct Terms {
    block: usize,
    window: u64,
    timeout: Option<Duration>,
    /// The OACK packet; `None` if the client sent no known option.
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
            // An option may occur only once (RFC 2347).
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

/// Whether options are among those that are answered by an OACK.
pub fn are_known(options: &[(String, u64)]) -> bool {
    Terms::agree(options, 0).acknowledgement.is_some()
}

/// The connection to one client.
pub trait Wire {
    /// Whether the packet could be sent, or is lost; not if there is no room for it yet.
    fn send(&mut self, packet: &[u8]) -> bool;
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for a packet of the client's, or for the deadline.
    Listen,
    /// Call [`Transfer::go_on`] when there is room for more packets.
    Send,
    /// Nothing: the client has everything.
    Finished,
}

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    content: Content,
    terms: Terms,
    /// The last DATA packet, and its block; 0 before the first.
    packet: Vec<u8>,
    made: u64,
    /// What was read of the content, and its offset there.
    ahead: Vec<u8>,
    offset: u64,
    /// Blocks count from 1; the last one is short, and empty if it has to be.
    last: u64,
    acknowledged: u64,
    /// The block that is sent next, and the last one of the window.
    next: u64,
    end: u64,
    /// Whether the OACK has been acknowledged, or there is none.
    is_agreed: bool,
    /// Whether the client has answered.
    is_proved: bool,
    retries: u32,
    answered_duplicate: bool,
    heard: Instant,
    deadline: Instant,
}

impl Transfer {
    pub fn new(content: Content, options: &[(String, u64)], now: Instant) -> Self {
        let terms = Terms::agree(options, content.size());
        let last = content.size() / terms.block as u64 + 1;
        Transfer {
            packet: Vec::with_capacity(4 + terms.block),
            made: 0,
            ahead: Vec::new(),
            offset: 0,
            last,
            acknowledged: 0,
            next: 1,
            end: 0,
            is_agreed: terms.acknowledgement.is_none(),
            is_proved: false,
            retries: 0,
            answered_duplicate: false,
            heard: now,
            deadline: now + UNPROVED,
            content,
            terms,
        }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// Whether the client has answered, which proves that its source address is not forged.
    pub fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// When the client was heard last, or asked.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// When [`Transfer::time_out`] is to be called, if no packet comes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Sends the first packet, also once more; returns its length. Until it is acknowledged nothing else is sent.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn begin(&mut self, wire: &mut dyn Wire) -> io::Result<usize> {
        if let Some(packet) = &self.terms.acknowledgement {
            wire.send(packet);
            return Ok(packet.len());
        }
        self.make(1)?;
        wire.send(&self.packet);
        (self.next, self.end) = (2, 1);
        Ok(self.packet.len())
    }

    /// Takes a packet of the client's.
    ///
    /// # Errors
    /// If the client stops, or the file cannot be read.
    pub fn receive(
        &mut self,
        packet: &[u8],
        wire: &mut dyn Wire,
        now: Instant,
    ) -> io::Result<Next> {
        let Some((head, rest)) = packet.split_first_chunk::<4>() else {
            return Ok(Next::Listen);
        };
        let number = u16::from_be_bytes([head[2], head[3]]);
        match u16::from_be_bytes([head[0], head[1]]) {
            ACK => {
                // A window is far smaller than the 16 bits of a block number: there is one candidate.
                let from = self.acknowledged;
                let block = from + u64::from(number.wrapping_sub(from as u16));
                if block < self.next {
                    return self.acknowledge(block, wire, now);
                }
            }
            ERROR => {
                // A client that stops got the first packet. One that was not waited for is answered by an ERROR too, of an
                // illegal operation or an unknown port: it proves nothing.
                self.is_proved |= !UNEXPECTED.contains(&number);
                let text = rest.split(|&byte| byte == 0).next().unwrap_or_default();
                let text = String::from_utf8_lossy(text);
                return Err(io::Error::other(format!("the client stopped: {text}")));
            }
            _ => {}
        }
        Ok(Next::Listen)
    }

    fn acknowledge(&mut self, block: u64, wire: &mut dyn Wire, now: Instant) -> io::Result<Next> {
        self.is_proved = true;
        self.heard = now;
        let is_duplicate = self.is_agreed && block == self.acknowledged;
        self.is_agreed = true;
        if is_duplicate {
            // The client asks again for the window's first block. It is given that once: answering each of two would
            // double every packet that follows (the sorcerer's apprentice of RFC 1123, section 4.2.3.1).
            if self.terms.window == 1 || self.answered_duplicate {
                return Ok(Next::Listen);
            }
            self.answered_duplicate = true;
        } else {
            (self.retries, self.answered_duplicate) = (0, false);
        }
        self.acknowledged = block;
        if block == self.last {
            return Ok(Next::Finished);
        }
        self.open_window(wire, now)
    }

    /// What the client's silence until the deadline means.
    ///
    /// # Errors
    /// If the client is given up, or the file cannot be read.
    pub fn time_out(&mut self, wire: &mut dyn Wire, now: Instant) -> io::Result<Next> {
        let is_silent = now.duration_since(self.heard) >= SILENCE;
        // The first packet is sent once: a client that did not get it asks again.
        if !self.is_proved || self.retries >= RETRIES || is_silent {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client no longer answers; gave it up",
            ));
        }
        self.retries += 1;
        self.open_window(wire, now)
    }

    /// Sends the window that begins with the first block that is not acknowledged.
    fn open_window(&mut self, wire: &mut dyn Wire, now: Instant) -> io::Result<Next> {
        let usual = (FIRST_TIMEOUT * 2u32.pow(self.retries.min(8))).min(LAST_TIMEOUT);
        let wait = self.terms.timeout.unwrap_or(usual).min(SILENCE);
        self.deadline = now + wait;
        self.next = self.acknowledged + 1;
        self.end = (self.acknowledged + self.terms.window).min(self.last);
        self.go_on(wire)
    }

    /// Sends what is left of the window.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn go_on(&mut self, wire: &mut dyn Wire) -> io::Result<Next> {
        while self.next <= self.end {
            self.make(self.next)?;
            if !wire.send(&self.packet) {
                return Ok(Next::Send);
            }
            self.next += 1;
        }
        // Read while the client is busy with these.
        if self.end < self.last {
            self.make(self.end + 1)?;
        }
        Ok(Next::Listen)
    }

    /// Makes the DATA packet of a block, counted from 1 without limit; its 16-bit number rolls over
    /// to 0.
    fn make(&mut self, block: u64) -> io::Result<()> {
        if self.made == block {
            return Ok(());
        }
        let offset = (block - 1) * self.terms.block as u64;
        let left = self.content.size().saturating_sub(offset);
        let length = left.min(self.terms.block as u64) as usize;
        self.packet.resize(4 + length, 0);
        self.packet[..2].copy_from_slice(&DATA.to_be_bytes());
        self.packet[2..4].copy_from_slice(&(block as u16).to_be_bytes());
        self.read_ahead(offset, length)?;
        let start = (offset - self.offset) as usize;
        self.packet[4..].copy_from_slice(&self.ahead[start..start + length]);
        self.made = block;
        Ok(())
    }

    /// Makes sure that `length` bytes from `offset` on have been read.
    fn read_ahead(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let is_there = offset >= self.offset
            && offset + length as u64 <= self.offset + self.ahead.len() as u64;
        if is_there {
            return Ok(());
        }
        let left = self.content.size().saturating_sub(offset);
        self.ahead
            .resize(left.min(READ.max(length) as u64) as usize, 0);
        self.offset = offset;
        self.content
            .read_at(offset, &mut self.ahead)
            .inspect_err(|_| self.ahead.clear())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Counts packets, and takes so many of them.
    struct Counter {
        sent: usize,
        room: usize,
    }

    impl Wire for Counter {
        fn send(&mut self, _: &[u8]) -> bool {
            let is_room = self.sent < self.room;
            self.sent += usize::from(is_room);
            is_room
        }
    }

    #[test]
    fn a_window_goes_on_where_there_was_no_room_and_silence_has_an_end() {
        let options = [("windowsize".to_string(), 8), ("timeout".to_string(), 255)];
        let begun = Instant::now();
        let content = Content::Bytes(vec![1; 100_000]);
        let mut transfer = Transfer::new(content, &options, begun);
        let mut wire = Counter { sent: 0, room: 4 };
        transfer.begin(&mut wire).unwrap();
        let next = transfer.receive(&[0, 4, 0, 0], &mut wire, begun).unwrap();
        assert_eq!((next, wire.sent), (Next::Send, 4));
        wire.room = 100;
        assert_eq!(transfer.go_on(&mut wire).unwrap(), Next::Listen);
        assert_eq!(wire.sent, 9);
        // It asked for a time-out of 255 s.
        assert!(transfer.deadline() <= begun + SILENCE);
        assert!(transfer.time_out(&mut wire, begun + SILENCE).is_err());
    }
}
