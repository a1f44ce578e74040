//! Owns the watch over a program of an image: how long it is silent, how much it writes, takes and says.
//! Never decides what its output means.

use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::said;
use crate::error::Fault;

/// What a program of an image may take. What it cannot have alone, such as memory, is that of all programs of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Without a byte of output.
    pub silence: Duration,
    /// Bytes of output in all.
    pub output: u64,
    /// Bytes of a line; the rest of a longer one is left out.
    pub line: usize,
    /// Bytes of memory that are in use; 0 is three quarters of the machine's.
    pub memory: u64,
    /// Bytes by which the file system of the image may shrink, and of a single file.
    pub disk: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            silence: Duration::from_secs(30 * 60),
            output: 256 << 20,
            line: 64 << 10,
            memory: 0,
            disk: 32 << 30,
        }
    }
}

/// How often memory and disk are looked at.
const LOOK: Duration = Duration::from_millis(500);

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
    let mut watch = Watch::new(name, directory, limits);
    let mut buffer = [0; 1 << 16];
    loop {
        let ready = {
            let mut descriptors = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
            match poll(&mut descriptors, timeout) {
                Ok(ready) => ready > 0,
                Err(Errno::EINTR) => false,
                Err(errno) => return Err(errno.into()),
            }
        };
        if ready {
            let length = reader.read(&mut buffer)?;
            if length == 0 {
                lines.end(output);
                return Ok(());
            }
            watch.heard(length)?;
            lines.add(&buffer[..length], output);
        }
        watch.look()?;
    }
}

struct Watch<'a> {
    name: &'a str,
    directory: &'a Path,
    limits: &'a Limits,
    memory: u64,
    free: Option<u64>,
    said: u64,
    heard: Instant,
    looked: Instant,
}

impl<'a> Watch<'a> {
    fn new(name: &'a str, directory: &'a Path, limits: &'a Limits) -> Self {
        let memory = match limits.memory {
            0 => total_memory().map_or(u64::MAX, |total| total / 4 * 3),
            given => given,
        };
        Watch {
            name,
            directory,
            limits,
            memory,
            free: free(directory),
            said: 0,
            heard: Instant::now(),
            looked: Instant::now(),
        }
    }

    fn heard(&mut self, bytes: usize) -> Result<()> {
        self.heard = Instant::now();
        self.said += bytes as u64;
        if self.said > self.limits.output {
            return Err(self.over(&format!("has written {} MiB of messages", self.said >> 20)));
        }
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        if self.heard.elapsed() > self.limits.silence {
            let seconds = self.limits.silence.as_secs();
            return Err(self.over(&format!("has said nothing for {seconds} s")));
        }
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        if let (Some(before), Some(now)) = (self.free, free(self.directory)) {
            let taken = before.saturating_sub(now);
            if taken > self.limits.disk {
                return Err(self.over(&format!("has written {} MiB to the disk", taken >> 20)));
            }
        }
        let memory = memory_of_children();
        if memory > self.memory {
            return Err(self.over(&format!("takes {} MiB of memory", memory >> 20)));
        }
        Ok(())
    }

    fn over(&self, what: &str) -> anyhow::Error {
        Fault::input(format!("{} in the image {what}, and was ended", self.name))
            .remedy("look at what it waits for or repeats, with `hearth shell`")
            .into()
    }
}

/// Bytes free for its user on a directory's file system.
fn free(directory: &Path) -> Option<u64> {
    let stats = statvfs(directory).ok()?;
    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    Some(stats.blocks_available() as u64 * stats.fragment_size() as u64)
}

fn total_memory() -> Option<u64> {
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
        output(&said::shown(&String::from_utf8_lossy(&self.line)));
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
        assert_eq!(lines, ["abcd", "", "xy", "end"]);
    }

    #[test]
    fn a_flood_and_silence_end_it_by_name() {
        let limits = Limits {
            output: 1 << 20,
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
            silence: Duration::from_millis(200),
            ..Limits::default()
        };
        let error = follow(reader, "x", Path::new("/"), &limits, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("said nothing"), "{error}");
    }
}
