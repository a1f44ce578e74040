//! Owns the output of a job under way: what network and console brought of it, in order, as results.
//! Never reads a console or a store.

use crate::job::{Collector, Merger, NumberedLine};

/// The job's output, from both channels.
pub(super) struct JobOutput {
    pub(super) merger: Merger,
    pub(super) collector: Collector,
    /// How much of the network's copy was read, in bytes and in lines.
    pub(super) read: u64,
    lines: u64,
    partial: Vec<u8>,
    /// When the console last brought a line of it.
    pub(super) console_at: f64,
}

impl JobOutput {
    pub(super) fn new(collector: Collector) -> Self {
        JobOutput {
            merger: Merger::default(),
            collector,
            read: 0,
            lines: 0,
            partial: Vec::new(),
            console_at: 0.0,
        }
    }

    pub(super) fn merge(&mut self, line: NumberedLine, at: f64) {
        for line in self.merger.add(line) {
            self.collector.line(&line, at);
        }
    }

    /// Takes what the network brought since the last time.
    pub(super) fn network(&mut self, fresh: &[u8], at: f64) {
        self.read += fresh.len() as u64;
        let mut rest = fresh;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.partial.extend(&rest[..end]);
            rest = &rest[end + 1..];
            self.lines += 1;
            let text = String::from_utf8_lossy(&self.partial).into_owned();
            self.partial.clear();
            self.merge(
                NumberedLine {
                    number: self.lines,
                    text,
                },
                at,
            );
        }
        self.partial.extend(rest);
    }

    /// Reads the lines that wait for one that is missing: it will not come any more.
    pub(super) fn take_waiting_lines(&mut self, at: f64) {
        for line in self.merger.finish() {
            self.collector.line(&line, at);
        }
    }
}
