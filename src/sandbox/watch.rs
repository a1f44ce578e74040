//! Owns the watch over a program of an image: how long it is silent, how much it writes, takes and says.
//! Never decides what its output means.

use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::recipe;
use crate::sanitise;

/// What a program of an image may take. What it cannot have alone, such as memory, is that of all programs of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Without a byte of output; none for ever.
    pub silence: Option<Duration>,
    /// Bytes of output in all; none without end.
    pub output: Option<u64>,
    /// Bytes of a line; the rest of a longer one is left out.
    pub line: usize,
    /// Bytes of memory that are in use; 0 is three quarters of the machine's.
    pub memory: u64,
    /// Bytes by which the file system of the image may shrink, and of a single file; of a throw-away copy, if that is less than
    /// half of the memory, all that is written.
    pub disk: u64,
    /// Processes and threads of a program and what it starts.
    pub processes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            silence: Some(Duration::from_secs(30 * 60)),
            output: Some(256 << 20),
            line: 64 << 10,
            memory: 0,
            disk: 32 << 30,
            processes: 1024,
        }
    }
}

impl Limits {
    /// Those of a program that is used by hand: it may be silent, and its output is the user's.
    pub fn by_hand() -> Self {
        Limits {
            silence: None,
            output: None,
            ..Limits::default()
        }
    }

    /// With those that are given.
    #[must_use]
    pub fn with(self, given: &recipe::Limits) -> Self {
        Limits {
            silence: given.silence.map(Duration::from_secs).or(self.silence),
            output: given.output.map(u64::from).or(self.output),
            line: self.line,
            memory: given.memory.map_or(self.memory, u64::from),
            disk: given.disk.map_or(self.disk, u64::from),
            processes: given.processes.unwrap_or(self.processes),
        }
    }
}

/// How often memory, disk and silence are looked at.
pub const LOOK: Duration = Duration::from_millis(500);

/// Passes each line on until the writing ends are closed.
///
/// # Errors
/// [`Fault::input`] if a limit is reached; the caller ends the program then.
pub fn follow(
    mut reader: PipeReader,
    name: &str,
    directory: &Path,
    limits: &Limits,
    output: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut lines = Lines::new(limits.line);
    let mut speech = Speech::new(name, limits);
    let mut takings = Takings::new(name, Some(directory), limits);
    let mut buffer = [0; 1 << 16];
    loop {
        if is_ready(&reader)? {
            let length = reader.read(&mut buffer)?;
            if length == 0 {
                lines.end(output);
                return Ok(());
            }
            speech.heard(length)?;
            lines.add(&buffer[..length], output);
        }
        speech.look()?;
        takings.look()?;
    }
}

/// Whether there is something to read, or an end, before the next look.
fn is_ready(reader: &PipeReader) -> Result<bool> {
    let mut descriptors = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
    match poll(&mut descriptors, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for a program whose output goes elsewhere.
///
/// # Errors
/// As [`follow`]; the program has been ended then.
pub fn stay_with(mut child: Child, name: &str, limits: &Limits) -> Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut takings = Takings::new(name, None, limits);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait()));
    loop {
        match told.recv_timeout(LOOK) {
            Ok(status) => return Ok(status?),
            Err(RecvTimeoutError::Disconnected) => bail!("cannot wait for {name}"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(error) = takings.look() {
            kill(pid, Signal::SIGKILL)?;
            let _ = told.recv();
            return Err(error);
        }
    }
}

/// How much a program says, and how long it is silent.
pub struct Speech<'a> {
    name: &'a str,
    limits: &'a Limits,
    said: u64,
    heard: Instant,
}

impl<'a> Speech<'a> {
    pub fn new(name: &'a str, limits: &'a Limits) -> Self {
        Speech {
            name,
            limits,
            said: 0,
            heard: Instant::now(),
        }
    }

    /// # Errors
    /// If it says too much.
    pub fn heard(&mut self, bytes: usize) -> Result<()> {
        self.heard = Instant::now();
        self.said += bytes as u64;
        match self.limits.output {
            Some(limit) if self.said > limit => Err(over(
                self.name,
                &format!("has written {} MiB of messages", self.said >> 20),
            )),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// If it has been silent for too long.
    pub fn look(&self) -> Result<()> {
        match self.limits.silence {
            Some(limit) if self.heard.elapsed() > limit => Err(over(
                self.name,
                &format!("has said nothing for {} s", limit.as_secs()),
            )),
            _ => Ok(()),
        }
    }
}

/// How much memory and disk the programs that this process has started take.
struct Takings<'a> {
    name: &'a str,
    /// On the file system to be watched, if it is one of the host's.
    directory: Option<&'a Path>,
    limits: &'a Limits,
    memory: u64,
    free: Option<u64>,
    looked: Instant,
}

impl<'a> Takings<'a> {
    fn new(name: &'a str, directory: Option<&'a Path>, limits: &'a Limits) -> Self {
        let memory = match limits.memory {
            0 => total_memory().map_or(u64::MAX, |total| total / 4 * 3),
            given => given,
        };
        Takings {
            name,
            directory,
            limits,
            memory,
            free: directory.and_then(free),
            looked: Instant::now(),
        }
    }

    fn look(&mut self) -> Result<()> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        if let (Some(before), Some(now)) = (self.free, self.directory.and_then(free)) {
            let taken = before.saturating_sub(now);
            if taken > self.limits.disk {
                return Err(over(
                    self.name,
                    &format!("has written {} MiB to the disk", taken >> 20),
                ));
            }
        }
        let memory = memory_of_children();
        if memory > self.memory {
            return Err(over(
                self.name,
                &format!("takes {} MiB of memory", memory >> 20),
            ));
        }
        Ok(())
    }
}

fn over(name: &str, what: &str) -> anyhow::Error {
    Fault::input(format!("{name} in the image {what}, and was ended"))
        .remedy("look at what it waits for or repeats, with `hearth shell`; `[limits]` in the recipe allows more")
        .into()
}

/// Bytes free for its user on a directory's file system.
fn free(directory: &Path) -> Option<u64> {
    let stats = statvfs(directory).ok()?;
    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    Some(stats.blocks_available() as u64 * stats.fragment_size() as u64)
}

pub fn total_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// Bytes of memory in use by this process's descendants, with what is swapped out.
fn memory_of_children() -> u64 {
    let mut pending = vec!["self".to_owned()];
    let mut total = 0;
    while let Some(pid) = pending.pop() {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().map(str::to_owned));
        }
        if pid != "self" {
            total += memory_of(&pid);
        }
    }
    total
}

fn memory_of(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("RssAnon:")
                .or(line.strip_prefix("VmSwap:"))
        })
        .filter_map(|value| value.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib << 10)
        .sum()
}

/// Makes lines of what comes in pieces.
struct Lines {
    line: Vec<u8>,
    limit: usize,
}

impl Lines {
    fn new(limit: usize) -> Self {
        Lines {
            line: Vec::new(),
            limit,
        }
    }

    fn add(&mut self, data: &[u8], output: &mut dyn FnMut(&str)) {
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = self.limit - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.pass(output);
            }
        }
    }

    fn end(&mut self, output: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.pass(output);
        }
    }

    fn pass(&mut self, output: &mut dyn FnMut(&str)) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        output(&sanitise::bytes(line));
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn followed(data: &'static [u8], limits: &Limits) -> (Result<()>, Vec<String>) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            let _ = writer.write_all(data);
        });
        let mut lines = Vec::new();
        let done = follow(
            reader,
            "dash.postinst",
            Path::new("/"),
            limits,
            &mut |line| {
                lines.push(line.to_owned());
            },
        );
        writing.join().unwrap();
        (done, lines)
    }

    #[test]
    fn lines_are_cut_and_cleaned_and_all_told() {
        let limits = Limits {
            line: 4,
            ..Limits::default()
        };
        let (done, lines) = followed(b"abcdefg\n\n\x1bxy\r\nend", &limits);
        done.unwrap();
        assert_eq!(lines, ["abcd", "", "\\u{1b}xy", "end"]);
    }

    #[test]
    fn a_flood_and_silence_end_it_by_name() {
        let limits = Limits {
            output: Some(1 << 20),
            ..Limits::default()
        };
        let (done, lines) = followed(&[b'\n'; 3 << 20], &limits);
        let error = done.unwrap_err().to_string();
        assert!(
            error.contains("dash.postinst") && error.contains("of messages"),
            "{error}"
        );
        assert!(lines.len() <= 1 << 20);

        let (reader, _writer) = std::io::pipe().unwrap();
        let limits = Limits {
            silence: Some(Duration::from_millis(200)),
            ..Limits::default()
        };
        let error = follow(reader, "x", Path::new("/"), &limits, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("said nothing"), "{error}");
    }
}
