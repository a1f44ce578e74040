//! A console over TCP, raw or telnet, as ser2net and terminal servers offer it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Console, settle};
use crate::error::Fault;

const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
/// Options that make a telnet connection a plain 8-bit line: binary, echo by the other side, no go-ahead.
const WANTED: [u8; 3] = [0, 1, 3];

/// How long to wait between attempts to connect again, and for each of them.
const AGAIN: Duration = Duration::from_millis(500);

/// A TCP connection to a console; one that ends is made again.
pub(super) struct Tcp {
    address: String,
    /// The connection, or since when it is gone.
    stream: Result<TcpStream, Instant>,
    telnet: Option<Telnet>,
}

impl Tcp {
    pub(super) fn raw(address: &str) -> Result<Self> {
        Ok(Tcp {
            address: address.into(),
            stream: Ok(connect(address)?),
            telnet: None,
        })
    }

    pub(super) fn telnet(address: &str) -> Result<Self> {
        Ok(Tcp {
            address: address.into(),
            stream: Ok(connect(address)?),
            telnet: Some(Telnet::default()),
        })
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).map_err(|error| {
        Fault::infrastructure(format!("cannot reach the console at {address}: {error}"))
    })?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Tcp {
    /// Connects again, if the other side answers at once.
    fn again(&mut self) {
        let addresses = self.address.to_socket_addrs().into_iter().flatten();
        for address in addresses {
            if let Ok(stream) = TcpStream::connect_timeout(&address, AGAIN) {
                stream.set_nodelay(true).ok();
                self.telnet = self.telnet.as_ref().map(|_| Telnet::default());
                self.stream = Ok(stream);
                return;
            }
        }
    }

    /// Reads from the connection; an error is its end.
    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        let Ok(stream) = &mut self.stream else {
            return Ok(0);
        };
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let count = settle(stream.read(buffer))?;
        let Some(telnet) = &mut self.telnet else {
            return Ok(count);
        };
        let (data, answer) = telnet.decode(&buffer[..count]);
        if !answer.is_empty() {
            stream.write_all(&answer)?;
        }
        buffer[..data.len()].copy_from_slice(&data);
        Ok(data.len())
    }
}

impl Console for Tcp {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        if self.stream.is_err() {
            std::thread::sleep(patience.min(AGAIN));
            self.again();
            return Ok(0);
        }
        self.receive(buffer, patience).or_else(|error| {
            log::debug!("the console at {} is gone: {error}", self.address);
            self.stream = Err(Instant::now());
            Ok(0)
        })
    }

    fn gone(&self) -> Option<Instant> {
        self.stream.as_ref().err().copied()
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        // What is typed into nothing is lost, as on a cable that is unplugged.
        let Ok(stream) = &mut self.stream else {
            return Ok(());
        };
        if self.telnet.is_none() {
            return stream.write_all(data);
        }
        let mut escaped = Vec::with_capacity(data.len());
        for &byte in data {
            escaped.push(byte);
            if byte == IAC {
                escaped.push(IAC);
            }
        }
        stream.write_all(&escaped)
    }
}

/// The telnet protocol, RFC 854, as far as a console needs it: agrees to [`WANTED`], refuses all else.
#[derive(Debug, Default)]
struct Telnet {
    /// A command that has not come to its end.
    command: Vec<u8>,
    /// Options that were answered, so that two polite sides do not agree for ever.
    answered: Vec<(u8, u8)>,
}

impl Telnet {
    /// Gives the data in what was received, and what to answer.
    fn decode(&mut self, received: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut data, mut answer) = (Vec::new(), Vec::new());
        for &byte in received {
            if self.command.is_empty() && byte != IAC {
                data.push(byte);
                continue;
            }
            self.command.push(byte);
            match self.command[..] {
                [IAC] | [IAC, SB] | [IAC, WILL..=DONT] => {}
                [IAC, IAC] => {
                    data.push(IAC);
                    self.command.clear();
                }
                [IAC, verb @ WILL..=DONT, option] => {
                    self.command.clear();
                    self.negotiate(verb, option, &mut answer);
                }
                [IAC, SB, .., IAC, SE] => self.command.clear(),
                // An endless subnegotiation is noise.
                [IAC, SB, ..] if self.command.len() < 1024 => {}
                _ => self.command.clear(),
            }
        }
        (data, answer)
    }

    fn negotiate(&mut self, verb: u8, option: u8, answer: &mut Vec<u8>) {
        let wanted = WANTED.contains(&option);
        let reply = match verb {
            WILL if wanted => DO,
            WILL => DONT,
            DO if wanted && option != 1 => WILL,
            DO => WONT,
            _ => return,
        };
        if !self.answered.contains(&(verb, option)) {
            self.answered.push((verb, option));
            answer.extend([IAC, reply, option]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn telnet_commands_are_answered_and_kept_out_of_the_data() {
        let mut telnet = Telnet::default();
        let (data, answer) = telnet.decode(&[b'a', IAC, WILL, 1, IAC, DO, 24, b'b', IAC]);
        assert_eq!(data, b"ab");
        assert_eq!(answer, [IAC, DO, 1, IAC, WONT, 24]);
        let (data, answer) = telnet.decode(&[IAC, b'c', IAC, SB, 24, 1, IAC, SE, IAC, WILL, 1]);
        assert_eq!(data, [IAC, b'c']);
        assert!(answer.is_empty(), "{answer:?}");
    }

    #[test]
    fn a_raw_console_passes_bytes_and_is_connected_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut console = Tcp::raw(&server.local_addr().unwrap().to_string()).unwrap();
        let (mut board, _) = server.accept().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(
            console.read(&mut buffer, Duration::from_millis(5)).unwrap(),
            0
        );
        board.write_all(&[1, IAC, 2]).unwrap();
        assert_eq!(
            console.read(&mut buffer, Duration::from_secs(5)).unwrap(),
            3
        );
        drop(board);
        let mut read = || {
            console
                .read(&mut buffer, Duration::from_millis(50))
                .unwrap()
        };
        assert_eq!(read(), 0);
        assert_eq!(read(), 0);
        let (mut board, _) = server.accept().unwrap();
        board.write_all(b"back").unwrap();
        assert_eq!(read(), 4);
        assert!(console.gone().is_none());
    }
}
