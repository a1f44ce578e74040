//! Owns the console's log: every line with its time. Never grows without bound.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// How large a log may grow, in bytes; a board that floods its console says nothing new after that.
const LARGEST: u64 = 64 << 20;
/// How many lines are kept in memory for a failure's report.
const TAIL: usize = 20;

/// A console's log on disk, `[seconds] text` per line, and its last lines in memory.
#[derive(Debug)]
pub struct ConsoleLog {
    file: BufWriter<File>,
    written: u64,
    /// Whether writing failed once, as on a full disk: the run goes on without a log.
    broken: bool,
    tail: VecDeque<String>,
}

impl ConsoleLog {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the console log {}", path.display()))?;
        Ok(ConsoleLog {
            file: BufWriter::new(file),
            written: 0,
            broken: false,
            tail: VecDeque::new(),
        })
    }

    /// Adds a line that came `at` seconds after the run began.
    pub fn line(&mut self, at: f64, text: &str) -> std::io::Result<()> {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.to_string());
        let result = self.write(at, text);
        self.note(result);
        Ok(())
    }

    fn write(&mut self, at: f64, text: &str) -> std::io::Result<()> {
        if self.broken || self.written > LARGEST {
            return Ok(());
        }
        self.written += text.len() as u64 + 15;
        writeln!(self.file, "[{at:12.6}] {text}")?;
        if self.written > LARGEST {
            writeln!(
                self.file,
                "[{at:12.6}] hearth: the log ends here: the console sent over {} MiB",
                LARGEST >> 20
            )?;
        }
        Ok(())
    }

    /// Writes what is still in memory: `hearth console` may be following the file.
    pub fn flush(&mut self) -> std::io::Result<()> {
        if !self.broken {
            let result = self.file.flush();
            self.note(result);
        }
        Ok(())
    }

    /// Says once that the log cannot be written: a board under test must not stay on for that.
    fn note(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.broken, true)
        {
            log::error!("the console log ends here, it cannot be written: {error}");
        }
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_tail_stays_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = ConsoleLog::create(&path).unwrap();
        let long = "x".repeat(1 << 20);
        for _ in 0..70 {
            log.line(1.0, &long).unwrap();
        }
        log.line(2.0, "last").unwrap();
        log.flush().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < LARGEST + (2 << 20));
        assert_eq!(log.tail().last().unwrap(), "last");
    }

    #[test]
    fn a_full_disk_ends_the_log_and_not_the_run() {
        let mut log = ConsoleLog::create(Path::new("/dev/full")).unwrap();
        log.line(1.0, &"x".repeat(100_000)).unwrap();
        log.flush().unwrap();
        log.line(2.0, "last").unwrap();
        log.flush().unwrap();
        assert_eq!(log.tail().last().unwrap(), "last");
    }
}
