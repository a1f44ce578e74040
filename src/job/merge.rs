//! Owns the merging of what a board says over its network and over its console, so that neither channel's
//! loss loses a result and no result counts twice. Never looks into a line.
//!
//! The board numbers the lines of a job from 1 and repeats each on the console as `hearth:N:LENGTH:TEXT`, with
//! TEXT's length in bytes: a console line that a message of the kernel tore is recognised and
//! left to the network.

use std::collections::BTreeMap;

use crate::board::numbered::Head;

/// A line of a job's output, as the agent numbers them from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedLine {
    pub number: u64,
    pub text: String,
}

impl NumberedLine {
    /// Finds a numbered line in a line of console output; `None` if there is none or it is damaged.
    pub fn from_console(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut from = 0;
        while let Some(head) = Head::find(line, from) {
            let text = &line[head.text..];
            if text.len() == head.length {
                return Some(NumberedLine {
                    number: head.number,
                    text: String::from_utf8_lossy(text).into_owned(),
                });
            }
            from = head.begin + 1;
        }
        None
    }
}

/// Puts numbered lines from any number of channels in order, each once.
#[derive(Debug)]
pub struct Merger {
    next: u64,
    /// Lines that came before one that is still missing.
    early: BTreeMap<u64, String>,
    /// How many lines were given up.
    lost: u64,
}

impl Default for Merger {
    fn default() -> Self {
        Merger {
            next: 1,
            early: BTreeMap::new(),
            lost: 0,
        }
    }
}

impl Merger {
    /// How many lines a channel may be ahead of a missing one before that one is given up.
    const PATIENCE: usize = 4096;

    /// Takes a line and gives those that can be read now.
    pub fn add(&mut self, line: NumberedLine) -> Vec<String> {
        if line.number >= self.next {
            self.early.entry(line.number).or_insert(line.text);
        }
        let mut ready = self.in_order();
        if self.early.len() > Self::PATIENCE {
            ready.extend(self.skip());
        }
        ready
    }

    /// How many lines no channel brought.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The number of the first line that has not come yet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The lines that are missing: the first of them, and the last one before a line that came already, if one did.
    pub fn gap(&self) -> (u64, Option<u64>) {
        (self.next, self.early.keys().next().map(|early| early - 1))
    }

    /// No more will come: gives what waited for a missing line, with a note of the gap.
    pub fn finish(&mut self) -> Vec<String> {
        let mut ready = Vec::new();
        while !self.early.is_empty() {
            ready.extend(self.skip());
        }
        ready
    }

    fn in_order(&mut self) -> Vec<String> {
        let mut ready = Vec::new();
        while let Some(text) = self.early.remove(&self.next) {
            ready.push(text);
            self.next = self.next.saturating_add(1);
        }
        ready
    }

    fn skip(&mut self) -> Vec<String> {
        let Some(&first) = self.early.keys().next() else {
            return Vec::new();
        };
        let mut ready = vec![format!(
            "hearth: {} lines of the board's output are lost here",
            first - self.next
        )];
        self.lost += first - self.next;
        self.next = first;
        ready.extend(self.in_order());
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, text: &str) -> NumberedLine {
        NumberedLine {
            number,
            text: text.into(),
        }
    }

    #[test]
    fn a_torn_console_line_is_left_to_the_network() {
        let text = "<LAVA_SIGNAL_STARTTC a>";
        let good = format!("hearth:7:{}:{text}\r", text.len());
        assert_eq!(
            NumberedLine::from_console(good.as_bytes()),
            Some(line(7, text))
        );
        let torn = good.replace("START", "ST[ 12.3] usb 1-1: hello ART");
        assert_eq!(NumberedLine::from_console(torn.as_bytes()), None);
        assert_eq!(NumberedLine::from_console(b"hearth:x"), None);
    }

    #[test]
    fn the_largest_number_of_a_line_is_one_like_others() {
        let mut merger = Merger::default();
        assert!(merger.add(line(u64::MAX, "b")).is_empty());
        assert_eq!(merger.add(line(1, "a")), ["a"]);
        let last = merger.finish();
        assert_eq!(last.last().map(String::as_str), Some("b"));
        assert_eq!(merger.lost(), u64::MAX - 2);
        assert!(merger.add(line(2, "late")).is_empty());
    }

    #[test]
    fn a_line_that_follows_other_text_is_found_whatever_its_bytes() {
        let noise = b"[  9.1] agent[3]: hearth: hello hearth:3:4:a\x1b[\xff";
        let found = NumberedLine::from_console(noise).unwrap();
        assert_eq!((found.number, found.text.as_str()), (3, "a\u{1b}[\u{fffd}"));
    }

    #[test]
    fn each_line_is_read_once_and_in_order_whichever_channel_brings_it() {
        let mut merger = Merger::default();
        assert_eq!(merger.add(line(2, "b")), Vec::<String>::new());
        assert_eq!(merger.add(line(1, "a")), ["a", "b"]);
        assert_eq!(merger.add(line(1, "a")), Vec::<String>::new());
        assert_eq!(merger.add(line(4, "d")), Vec::<String>::new());
        let rest = merger.finish();
        assert!(rest[0].contains("1 lines"), "{rest:?}");
        assert_eq!(rest[1], "d");
        assert_eq!((merger.next(), merger.lost()), (5, 1));
    }
}
