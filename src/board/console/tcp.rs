//! A console over TCP, raw or telnet, as ser2net and terminal servers offer it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

use super::line::{Console, settle};
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

/// A TCP connection to a console.
pub(super) struct Tcp {
    stream: TcpStream,
    telnet: Option<Telnet>,
}

impl Tcp {
    pub(super) fn raw(address: &str) -> Result<Self> {
        Ok(Tcp {
            stream: connect(address)?,
            telnet: None,
        })
    }

    pub(super) fn telnet(address: &str) -> Result<Self> {
        Ok(Tcp {
            stream: connect(address)?,
            telnet: Some(Telnet::default()),
        })
    }
}

/// How long a console server may take to answer; who waits for it cannot be interrupted in that time.
const CONNECT: Duration = Duration::from_secs(3);

fn connect(address: &str) -> Result<TcpStream> {
    let unreachable = |error: io::Error| {
        Fault::infrastructure(format!("cannot reach the console at {address}: {error}"))
    };
    let mut stream = Err(io::Error::other("it has no address"));
    for address in address.to_socket_addrs().map_err(unreachable)? {
        stream = TcpStream::connect_timeout(&address, CONNECT);
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream.map_err(unreachable)?;
    stream.set_nodelay(true)?;
    // A server that lost its power does not say good-bye: it is missed after some 15 + 3 × 5 s.
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &15)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &3)?;
    Ok(stream)
}

impl Console for Tcp {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.stream
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let count = settle(self.stream.read(buffer))?;
        let Some(telnet) = &mut self.telnet else {
            return Ok(count);
        };
        let (data, answer) = telnet.decode(&buffer[..count]);
        if !answer.is_empty() {
            self.stream.write_all(&answer)?;
        }
        buffer[..data.len()].copy_from_slice(&data);
        Ok(data.len())
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.telnet.is_none() {
            return self.stream.write_all(data);
        }
        let mut escaped = Vec::with_capacity(data.len());
        for &byte in data {
            escaped.push(byte);
            if byte == IAC {
                escaped.push(IAC);
            }
        }
        self.stream.write_all(&escaped)
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
    fn a_raw_console_passes_bytes_and_its_end_is_told() {
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
        assert!(console.read(&mut buffer, Duration::from_secs(5)).is_err());
    }
}
