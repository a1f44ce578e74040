//! Owns a terminal that a test sits at. Never runs anything in the sandbox itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};
use rustix::termios::tcsetwinsize;

use crate::fixture::PATIENCE;
use common::oracle;

/// A terminal, and what runs on it as the leader of its session.
pub struct Screen {
    master: File,
    slave: OwnedFd,
    before: Termios,
    pub child: Child,
    said: String,
}

impl Screen {
    /// The command with the terminal as standard input, output and error.
    pub fn start(command: &Command) -> Self {
        let size = Winsize {
            ws_row: 33,
            ws_col: 101,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        // Becomes the command: a new child leads no process group, so that setsid(1) does not fork.
        let mut session = oracle("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "vt102")
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave.try_clone().unwrap()));
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        let child = session.spawn().unwrap();
        Screen {
            master: File::from(master),
            slave,
            before,
            child,
            said: String::new(),
        }
    }

    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads on until `text` is there; gives what came before it, since the last time.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said.find(text) {
                let rest = self.said.split_off(at + text.len());
                return std::mem::replace(&mut self.said, rest);
            }
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.said);
            self.read();
        }
    }

    fn read(&mut self) {
        let mut ready = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(50u8)).unwrap() == 0 {
            return;
        }
        let mut buffer = [0; 4096];
        let length = self.master.read(&mut buffer).unwrap();
        self.said
            .push_str(&String::from_utf8_lossy(&buffer[..length]));
    }

    /// Waits for the end of what runs here, reading what it says; gives that too.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if let Some(status) = self.child.try_wait().unwrap() {
                self.read();
                return (status, std::mem::take(&mut self.said));
            }
            assert!(Instant::now() < deadline, "still runs: {:?}", self.said);
        }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    /// Whether its modes are those it had at first.
    pub fn is_sane(&self) -> bool {
        tcgetattr(&self.slave).unwrap() == self.before
    }

    /// Waits until its modes are as they were.
    pub fn await_sanity(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_sane() {
            assert!(Instant::now() < deadline, "{:?}", tcgetattr(&self.slave));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether something has been typed that nobody has read.
    pub fn has_input(&self) -> bool {
        let mut ready = [PollFd::new(self.slave.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO).unwrap() > 0
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
