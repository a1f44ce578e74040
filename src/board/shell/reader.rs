//! Owns a console's text as a person at it would see it: lines, and what stands behind the last one, such as a prompt.
//! Never knows what a prompt looks like.

use std::collections::VecDeque;

use super::super::console_parser::clean;

/// How many lines are kept that nobody has taken.
const LINES: usize = 1000;
/// How much may stand without a line's end, in bytes; more is noise.
const LONGEST: usize = 8 << 10;

/// Collects what a console shows.
#[derive(Debug, Default)]
pub(super) struct Reader {
    partial: Vec<u8>,
    lines: VecDeque<String>,
}

impl Reader {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                0 => {}
                _ => {
                    self.partial.push(byte);
                    if self.partial.len() >= LONGEST {
                        self.end_line();
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let line = clean(&self.partial);
        self.partial.clear();
        self.lines.push_back(line);
    }

    /// The next whole line, without control sequences.
    pub(super) fn take_line(&mut self) -> Option<String> {
        self.lines.pop_front()
    }

    /// What stands behind the last line's end, without control sequences.
    pub(super) fn tail(&self) -> String {
        clean(&self.partial)
    }
}
