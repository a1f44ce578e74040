//! The TFTP server on arbitrary datagrams, requests and what follows them: no panic, no endless transfer, and only
//! data that is the file's.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hearth::netboot::tftp::transfer::{Next, Transfer, Wire};
use hearth::netboot::tftp::{Content, Request};
use libfuzzer_sys::fuzz_target;

/// Longer than 65,536 of the smallest blocks, so that their numbers roll over.
const SIZE: usize = 600_001;

static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| (0..SIZE).map(byte).collect());

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// A packet from the client: whether it acknowledges, how far back, or what else it is; and whether it is silent first.
type Packet = (bool, u8, bool, Vec<u8>);

/// The number of the last block that came, and how many packets.
#[derive(Default)]
struct Client {
    last: u16,
    sent: usize,
}

impl Wire for Client {
    fn send(&mut self, packet: &[u8]) -> bool {
        let opcode = u16::from_be_bytes([packet[0], packet[1]]);
        assert!(matches!(opcode, 3 | 6));
        // Now and then there is no room.
        if self.sent % 7 == 6 {
            self.sent += 1;
            return opcode == 6;
        }
        self.sent += 1;
        if opcode == 3 {
            self.last = u16::from_be_bytes([packet[2], packet[3]]);
            let data = &packet[4..];
            let first = data.first().map_or(0, |&first| usize::from(first));
            assert!(*data == DATA[first..first + data.len()]);
        }
        true
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<(String, u64)>, Vec<Packet>)| {
    let (datagram, options, packets) = input;
    let _ = Request::parse(&datagram);
    let mut now = Instant::now();
    let content = Content::Bytes(DATA.clone());
    let mut transfer = Transfer::new(content, &options, now);
    let mut client = Client::default();
    transfer.begin(&mut client).unwrap();
    let mut given_up = false;
    for (acknowledges, back, is_silent, bytes) in &packets {
        if *is_silent {
            now = transfer.deadline().max(now);
            given_up = transfer.time_out(&mut client, now).is_err();
            assert!(given_up || transfer.is_proved());
        }
        let [high, low] = client.last.wrapping_sub(u16::from(*back)).to_be_bytes();
        let acknowledgement = [0, 4, high, low];
        let packet: &[u8] = if *acknowledges {
            &acknowledgement
        } else {
            bytes
        };
        let mut next = match transfer.receive(packet, &mut client, now) {
            Ok(next) => next,
            Err(_) => break,
        };
        while next == Next::Send {
            next = transfer.go_on(&mut client).unwrap();
        }
        if given_up || next == Next::Finished {
            break;
        }
    }
    // A client that says nothing more is given up.
    for _ in 0..9 {
        now = transfer.deadline().max(now) + Duration::from_secs(1);
        given_up |= transfer.time_out(&mut client, now).is_err();
    }
    assert!(given_up);
    // Every packet, and each silence, is worth a window and its retries at most.
    assert!(client.sent <= 2 * 64 * (2 * packets.len() + 11));
});
