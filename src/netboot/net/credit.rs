//! Owns how much TFTP may send to addresses that have acknowledged nothing: a forged request is to bring its victim less
//! than three times its own bytes. Never sends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The first DATA packet of a request without options, in bytes: it is sent before the client has proved its address.
pub const FIRST: usize = 4 + 512;
/// First packets that an address gets for nothing, and how often it regains one.
const FREE_OF_SOURCE: u32 = 5;
const SOURCE_REGAINS: Duration = Duration::from_secs(10);
/// The same for all addresses together that never acknowledged one: forged requests may come from many.
const FREE_OF_ALL: u32 = 32;
const ALL_REGAIN: Duration = Duration::from_millis(250);
/// The most that an address can have to its credit, in bytes.
const MOST: usize = 64 * FIRST;
/// Addresses that are remembered, and how long without a request from them.
const MAX_SOURCES: usize = 4096;
const REMEMBER: Duration = Duration::from_secs(3600);
/// When there are too many: those that were heard of this lately stay.
const LATELY: Duration = Duration::from_secs(60);

/// What each address may be sent. An address gains the bytes of its requests, twice a first packet for each one that it
/// acknowledges, and a few packets for nothing. What is answered otherwise, by an OACK or an ERROR, is less than twice as
/// large as its request and not counted.
#[derive(Debug)]
pub struct Credit {
    sources: HashMap<IpAddr, Source>,
    of_all: Free,
    /// When room was made last.
    forgot: Option<Instant>,
}

#[derive(Debug)]
struct Source {
    bytes: usize,
    free: Free,
    is_proved: bool,
    heard: Instant,
}

/// Packets for nothing, which come back with time.
#[derive(Debug)]
struct Free {
    count: u32,
    most: u32,
    regains: Duration,
    since: Instant,
}

impl Free {
    fn new(most: u32, regains: Duration, now: Instant) -> Self {
        Free {
            count: most,
            most,
            regains,
            since: now,
        }
    }

    fn is_left(&mut self, now: Instant) -> bool {
        let periods = now.duration_since(self.since).as_millis() / self.regains.as_millis();
        let gained = u32::try_from(periods).unwrap_or(u32::MAX);
        self.count = self.count.saturating_add(gained).min(self.most);
        self.since = match self.count == self.most {
            true => now,
            false => self.since + self.regains * gained,
        };
        self.count > 0
    }

    fn give_back(&mut self) {
        self.count = (self.count + 1).min(self.most);
    }
}

impl Credit {
    pub fn new(now: Instant) -> Self {
        Credit {
            sources: HashMap::new(),
            of_all: Free::new(FREE_OF_ALL, ALL_REGAIN, now),
            forgot: None,
        }
    }

    /// Notes a request of so many bytes that a first DATA packet may answer.
    pub fn requested(&mut self, from: IpAddr, bytes: usize, now: Instant) {
        if let Some(source) = self.source(from, now) {
            source.bytes = (source.bytes + bytes).min(MOST);
        }
    }

    /// Whether a first DATA packet may be sent to the address now; if so, it is counted.
    pub fn pay(&mut self, from: IpAddr, now: Instant) -> bool {
        let is_any_left = self.of_all.is_left(now);
        let Some(source) = self.source(from, now) else {
            // Too many addresses to know each.
            self.of_all.count -= u32::from(is_any_left);
            return is_any_left;
        };
        if source.bytes >= FIRST {
            source.bytes -= FIRST;
            return true;
        }
        let is_free = source.free.is_left(now) && (source.is_proved || is_any_left);
        if is_free {
            source.free.count -= 1;
            let of_all = u32::from(!source.is_proved);
            self.of_all.count -= of_all;
        }
        is_free
    }

    /// Takes back what a packet needed less than [`FIRST`].
    pub fn refund(&mut self, from: IpAddr, bytes: usize) {
        if let Some(source) = self.sources.get_mut(&from) {
            source.bytes = (source.bytes + bytes).min(MOST);
        }
    }

    /// Notes that the address has answered the first packet of a transfer as its client: it asked for it itself.
    pub fn proved(&mut self, from: IpAddr, now: Instant) {
        if let Some(source) = self.source(from, now) {
            source.is_proved = true;
            source.free.count = source.free.most;
            source.bytes = (source.bytes + 2 * FIRST).min(MOST);
        }
        self.of_all.give_back();
    }

    /// What is known of an address; `None` if there is no room for one more.
    fn source(&mut self, from: IpAddr, now: Instant) -> Option<&mut Source> {
        if !self.sources.contains_key(&from) {
            if self.sources.len() >= MAX_SOURCES {
                self.forget(now);
            }
            if self.sources.len() >= MAX_SOURCES {
                return None;
            }
        }
        let source = self.sources.entry(from).or_insert_with(|| Source {
            bytes: 0,
            free: Free::new(FREE_OF_SOURCE, SOURCE_REGAINS, now),
            is_proved: false,
            heard: now,
        });
        source.heard = now;
        Some(source)
    }

    /// Makes room, at most once a second.
    fn forget(&mut self, now: Instant) {
        let is_soon = |at: Instant| now.duration_since(at) < Duration::from_secs(1);
        if self.forgot.is_some_and(is_soon) {
            return;
        }
        self.forgot = Some(now);
        self.sources.retain(|_, source| {
            let keep = if source.is_proved { REMEMBER } else { LATELY };
            now.duration_since(source.heard) < keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many packets `requests` get within a second, each from the address that `from` says.
    fn sent(requests: u32, bytes: usize, from: impl Fn(u32) -> IpAddr) -> usize {
        let begun = Instant::now();
        let mut credit = Credit::new(begun);
        let sent = (0..requests).filter(|&number| {
            let now = begun + Duration::from_secs(1) * number / requests;
            credit.requested(from(number), bytes, now);
            credit.pay(from(number), now)
        });
        sent.count()
    }

    #[test]
    fn a_flood_brings_less_than_three_times_its_bytes() {
        let smallest = 17;
        let one = |_: u32| IpAddr::from([10, 0, 0, 1]);
        let many = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        for requests in [100, 500, 1_000, 20_000] {
            let bytes = requests as usize * smallest;
            assert!(sent(requests, smallest, one) * FIRST < 3 * bytes);
            if requests >= 500 {
                assert!(sent(requests, smallest, many) * FIRST < 3 * bytes);
            }
        }
    }

    #[test]
    fn a_client_that_acknowledges_is_always_answered() {
        let begun = Instant::now();
        let client = IpAddr::from([10, 0, 0, 1]);
        let mut credit = Credit::new(begun);
        for _ in 0..10_000 {
            credit.requested(client, 17, begun);
            assert!(credit.pay(client, begun));
            credit.proved(client, begun);
        }
        // Others cannot take it from this one.
        for number in 0..10_000_u32 {
            credit.pay(IpAddr::from(number.to_be_bytes()), begun);
        }
        assert!(credit.pay(client, begun));
    }

    #[test]
    fn what_was_lost_is_regained_with_time() {
        let begun = Instant::now();
        let client = IpAddr::from([10, 0, 0, 1]);
        let mut credit = Credit::new(begun);
        while credit.pay(client, begun) {}
        assert!(credit.pay(client, begun + SOURCE_REGAINS));
        assert!(!credit.pay(client, begun + SOURCE_REGAINS));
    }
}
