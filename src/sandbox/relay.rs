//! Owns what goes between a program of an image and the operator's terminal, whose descriptor it never gets.
//! Never looks at what is said: to the person at a terminal it is passed on as it is.

use std::io::{self, IsTerminal, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use rustix::io as raw;

use super::pty::Line;
use super::terminal::Raw;
use super::watch::{LOOK, Limits, Speech};

/// Bytes passed on at a time.
const PIECE: usize = 16 << 10;

/// Runs the sandbox with a terminal of its own, which shows on the operator's.
///
/// # Errors
/// If there is no terminal, or a limit is reached.
pub fn on_a_terminal(mut command: Command, name: &str, limits: &Limits) -> Result<ExitStatus> {
    let (line, theirs) = Line::pair()?;
    let mut child = command
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run hearth again")?;
    // It holds our copy of the sandbox's end.
    drop(command);
    if let Some(master) = line.master()? {
        let mut session = Session {
            terminal: Raw::enter()?,
            line,
            master,
            speech: Speech::new(name, limits),
            is_watched: limits.silence.is_some(),
        };
        if let Err(error) = session.run() {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    }
    Ok(child.wait()?)
}

struct Session<'a> {
    terminal: Raw,
    line: Line,
    master: OwnedFd,
    speech: Speech<'a>,
    is_watched: bool,
}

impl Session<'_> {
    /// Until nobody inside has the terminal any more.
    fn run(&mut self) -> Result<()> {
        self.terminal.copy_to(&self.master)?;
        let (mut noticed, tell) = UnixStream::pair()?;
        noticed.set_nonblocking(true)?;
        for signal in [Signal::SIGWINCH, Signal::SIGCONT] {
            signal_hook::low_level::pipe::register(signal as i32, tell.try_clone()?)?;
        }
        self.pass_keys()?;
        self.line.go()?;
        let mut line_is_open = true;
        loop {
            // A socket whose other end is gone would always be ready.
            let line = if line_is_open {
                self.line.as_fd()
            } else {
                self.master.as_fd()
            };
            let [said, told, changed] = ready(
                [self.master.as_fd(), line, noticed.as_fd()],
                self.is_watched,
            )?;
            if changed {
                let _ = noticed.read(&mut [0; 64]);
                // Whoever stopped hearth may have changed the modes meanwhile.
                self.terminal.resume()?;
                self.terminal.copy_size_to(&self.master)?;
            }
            if line_is_open && told {
                match self.line.heard()? {
                    Some(true) => self.suspend()?,
                    Some(false) => {}
                    None => line_is_open = false,
                }
            }
            if said && !self.show()? {
                return Ok(());
            }
            self.speech.look()?;
        }
    }

    /// Passes on what the program has written; says whether there is more to come.
    fn show(&mut self) -> Result<bool> {
        let mut buffer = [0; PIECE];
        match raw::read(&self.master, &mut buffer) {
            // The error of a terminal whose slave nobody has any more.
            Ok(0) | Err(raw::Errno::IO) => Ok(false),
            Ok(length) => {
                self.speech.heard(length)?;
                write_all(io::stdout(), &buffer[..length])?;
                Ok(true)
            }
            Err(raw::Errno::INTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Passes on what is typed, on a thread that ends with hearth: writing waits while the program does not read.
    fn pass_keys(&self) -> Result<()> {
        let master = self.master.try_clone()?;
        thread::spawn(move || {
            let mut buffer = [0; PIECE];
            loop {
                match raw::read(io::stdin(), &mut buffer) {
                    Ok(0) => return,
                    Ok(length) if write_all(&master, &buffer[..length]).is_ok() => {}
                    Err(raw::Errno::INTR) => {}
                    Ok(_) | Err(_) => return,
                }
            }
        });
        Ok(())
    }

    /// The program was stopped: hearth stops too, as the operator's shell expects of a job, and runs on with it.
    fn suspend(&mut self) -> Result<()> {
        self.terminal.suspend();
        // Without a shell that watches over jobs, the kernel ignores this.
        raise(Signal::SIGTSTP)?;
        self.terminal.resume()?;
        self.terminal.copy_size_to(&self.master)?;
        self.line.go()
    }
}

/// Runs the sandbox in a pipeline. What of standard output and error is a terminal, or is to be counted, goes through
/// hearth; from a terminal, nothing is read.
///
/// # Errors
/// If a limit is reached.
pub fn in_a_pipeline(mut command: Command, name: &str, limits: &Limits) -> Result<ExitStatus> {
    let is_counted = limits.output.is_some() || limits.silence.is_some();
    if io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let (output, error) = (io::stdout().is_terminal(), io::stderr().is_terminal());
    let mut streams = Vec::new();
    if output || is_counted {
        let (reader, writer) = io::pipe()?;
        if output && error {
            // One after the other, as they come.
            command.stderr(writer.try_clone()?);
        }
        command.stdout(writer);
        streams.push(Stream(Some(reader), To::Output));
    }
    if (error || is_counted) && !(output && error) {
        let (reader, writer) = io::pipe()?;
        command.stderr(writer);
        streams.push(Stream(Some(reader), To::Error));
    }
    let mut child = command.spawn().context("cannot run hearth again")?;
    drop(command);
    let passed = pass(&mut streams, &mut Speech::new(name, limits), is_counted);
    finish(&mut child, passed)
}

fn finish(child: &mut Child, passed: Result<()>) -> Result<ExitStatus> {
    if passed.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    passed.map(|()| status)
}

enum To {
    Output,
    Error,
}

/// What a program writes, until its end.
struct Stream(Option<PipeReader>, To);

impl Stream {
    fn pass(&mut self, speech: &mut Speech<'_>) -> Result<()> {
        let Some(reader) = &mut self.0 else {
            return Ok(());
        };
        let mut buffer = [0; PIECE];
        let length = reader.read(&mut buffer)?;
        speech.heard(length)?;
        let shown = match self.1 {
            To::Output => write_all(io::stdout(), &buffer[..length]),
            To::Error => write_all(io::stderr(), &buffer[..length]),
        };
        // Nobody reads on: neither does hearth, and the program's next write fails.
        if length == 0 || shown.is_err() {
            self.0 = None;
        }
        Ok(())
    }
}

fn pass(streams: &mut [Stream], speech: &mut Speech<'_>, is_watched: bool) -> Result<()> {
    while streams.iter().any(|stream| stream.0.is_some()) {
        let mut open: Vec<&mut Stream> = streams
            .iter_mut()
            .filter(|stream| stream.0.is_some())
            .collect();
        let mut polled: Vec<PollFd<'_>> = open
            .iter()
            .filter_map(|stream| Some(PollFd::new(stream.0.as_ref()?.as_fd(), PollFlags::POLLIN)))
            .collect();
        wait(&mut polled, is_watched)?;
        let ready: Vec<bool> = polled.iter().map(is_ready).collect();
        for (stream, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            stream.pass(speech)?;
        }
        speech.look()?;
    }
    Ok(())
}

fn ready<const COUNT: usize>(
    descriptors: [BorrowedFd<'_>; COUNT],
    is_watched: bool,
) -> Result<[bool; COUNT]> {
    let mut polled = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    wait(&mut polled, is_watched)?;
    Ok(std::array::from_fn(|at| is_ready(&polled[at])))
}

fn wait(polled: &mut [PollFd<'_>], is_watched: bool) -> Result<()> {
    let timeout = if is_watched {
        PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX)
    } else {
        PollTimeout::NONE
    };
    match poll(polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn is_ready(polled: &PollFd<'_>) -> bool {
    polled.any().unwrap_or(false)
}

/// Writes all of it, past the buffers of the standard library.
fn write_all(to: impl AsFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match raw::write(&to, data) {
            Ok(written) => data = &data[written..],
            Err(raw::Errno::INTR) => {}
            Err(raw::Errno::AGAIN) => thread::sleep(std::time::Duration::from_millis(5)),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
