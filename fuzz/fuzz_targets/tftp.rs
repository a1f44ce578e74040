//! The TFTP server on arbitrary datagrams, requests and what follows them: no panic, no endless transfer, and only
//! data that is the file's.
#![no_main]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use hearth::netboot::tftp::{Content, Files, Request, Wire, answer};
use libfuzzer_sys::fuzz_target;

/// One file, under every name.
struct Shelf;

/// Longer than 65,536 of the smallest blocks, so that their numbers roll over.
const SIZE: usize = 600_001;

static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| (0..SIZE).map(byte).collect());

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

impl Files for Shelf {
    fn open(&self, path: &str, _: IpAddr) -> anyhow::Result<Option<Content>> {
        assert!(!path.split('/').any(|component| component == ".."));
        match path {
            "none" => Ok(None),
            "broken" => anyhow::bail!("it cannot be read"),
            "empty" => Ok(Some(Content::Bytes(vec![]))),
            _ => Ok(Some(Content::Bytes(DATA.clone()))),
        }
    }
}

/// A client that sends what the fuzzer says, whatever it is sent; then nothing any more.
struct Client<'a> {
    packets: std::slice::Iter<'a, Packet>,
    /// The number of the last block that came, and how many packets.
    last: u16,
    sent: usize,
    waits: usize,
}

/// A packet from the client.
type Packet = (bool, u8, Vec<u8>);

impl Wire for Client<'_> {
    fn send(&mut self, packet: &[u8]) {
        self.sent += 1;
        let opcode = u16::from_be_bytes([packet[0], packet[1]]);
        assert!(matches!(opcode, 3 | 5 | 6));
        if opcode == 3 {
            self.last = u16::from_be_bytes([packet[2], packet[3]]);
            let data = &packet[4..];
            let first = data.first().map_or(0, |&first| usize::from(first));
            assert!(*data == DATA[first..first + data.len()]);
        }
    }

    fn receive(&mut self, packet: &mut [u8], _: Duration) -> io::Result<Option<usize>> {
        let Some((acknowledges, back, bytes)) = self.packets.next() else {
            self.waits += 1;
            return Ok(None);
        };
        let block = self.last.wrapping_sub(u16::from(*back));
        let [high, low] = block.to_be_bytes();
        let acknowledgement = [0, 4, high, low];
        let bytes: &[u8] = if *acknowledges {
            &acknowledgement
        } else {
            bytes
        };
        let length = bytes.len().min(packet.len());
        packet[..length].copy_from_slice(&bytes[..length]);
        Ok(Some(length))
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<Packet>)| {
    let (datagram, options, packets) = input;
    let _ = Request::parse(&datagram);
    // A read request that is well begun, so that its options and the transfer are what is tried.
    let request = [&b"\0\x01file\0octet\0"[..], &options, b"\0"].concat();
    for request in [&datagram, &request] {
        let Ok(request) = Request::parse(request) else {
            continue;
        };
        let peer = SocketAddr::from(([127, 0, 0, 1], 1000));
        let mut client = Client {
            packets: packets.iter(),
            last: 0,
            sent: 0,
            waits: 0,
        };
        let _ = answer(&Shelf, &request, peer, &mut client);
        // Every packet, and each silence, is worth a window at most.
        assert!(client.waits <= 2 * 9);
        assert!(client.sent <= 64 * (packets.len() + client.waits + 1) + 1);
    }
});
