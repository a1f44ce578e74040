//! Owns telling the job's lines on a console from the board's own: what a test prints must not be judged as the board.
//! Never judges either.
//!
//! The agent prints each line of a job as `hearth:N:LENGTH:TEXT`, with N from 1 and TEXT's length in bytes. The kernel
//! writes whole lines, but it may begin one in the middle of the job's: TEXT then is shorter than LENGTH, and the rest of
//! it follows on a line of its own.

use std::sync::LazyLock;

use regex::bytes::Regex;

const PREFIX: &[u8] = b"hearth:";

/// What printk puts before a message: level, time and, with `CONFIG_PRINTK_CALLER`, task or processor
/// (Documentation/core-api/printk-basics.rst, kernel/printk/printk.c `print_prefix`). The time is what makes it
/// recognisable inside a line.
pub(super) const PRINTK_STAMP: &str =
    r"(?:<[0-9]{1,3}>)?\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? ";

static STAMP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!("(?-u){PRINTK_STAMP}")).expect("the pattern is a constant")
});

/// The head of a numbered line: `hearth:N:LENGTH:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub number: u64,
    /// Of the text, in bytes.
    pub length: usize,
    /// Where the head begins and where the text does, as offsets in the console's line.
    pub begin: usize,
    pub text: usize,
}

impl Head {
    /// The first head in a console's line at or after `from`.
    pub fn find(line: &[u8], from: usize) -> Option<Head> {
        memchr::memmem::find_iter(line.get(from..)?, PREFIX)
            .find_map(|at| Head::parse(line, from + at))
    }

    fn parse(line: &[u8], begin: usize) -> Option<Head> {
        let mut at = begin + PREFIX.len();
        let mut number = || {
            let digits = line[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            let value = str::from_utf8(&line[at..at + digits]).ok()?.parse().ok()?;
            (line.get(at + digits) == Some(&b':')).then_some(())?;
            at += digits + 1;
            Some(value)
        };
        let (number, length): (u64, u64) = (number()?, number()?);
        Some(Head {
            number,
            length: usize::try_from(length).ok()?,
            begin,
            text: at,
        })
    }
}

/// A part of a console's line that is the board's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub text: Vec<u8>,
    /// Whether it was found inside a torn line of the job's, so that only a message with printk's time counts.
    pub torn: bool,
}

/// The beginning of a head, at the end of what stands before a message of the kernel.
static BEGUN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)(?:h|he|hea|hear|heart|hearth|hearth:\d*|hearth:\d+:\d*)$")
        .expect("the pattern is a constant")
});
/// What is left of a head that lost its first characters.
static BEHEADED: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [
        r"(?-u)^(?:h?earth|arth|rth|th|h)?:?\d+:(\d+):",
        r"(?-u)^:?(\d+):",
    ]
    .map(|pattern| Regex::new(pattern).expect("the pattern is a constant"))
});

/// Follows a console line by line.
#[derive(Debug, Default)]
pub struct Splitter {
    /// How many bytes of a torn line of the job's are still to come.
    owed: usize,
    /// What looks like a message of the kernel in a line that is too short for its length: either it tore the line, or
    /// the job printed it and the line lost its end. The next line tells.
    held: Option<Own>,
    /// The beginning of a head that a message of the kernel tore.
    begun: Vec<u8>,
    /// Whether the last line was cut by the reader, so that the next one goes on with the same text.
    cut: bool,
}

impl Splitter {
    /// Whether the rest of a torn line of the job's is still to come.
    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// The parts of one line (without its line ending) that are the board's. `cut`: the line has no end yet, the reader
    /// gives it in pieces.
    pub fn own(&mut self, line: &[u8], cut: bool) -> Vec<Own> {
        let mut own = Vec::new();
        self.decide(line, &mut own);
        let joined = self.joined(line);
        let line = self.pay(joined.as_deref().unwrap_or(line));
        self.cut = cut;
        if is_beheaded(line) {
            return own;
        }
        let mut begin = 0;
        while let Some(head) = Head::find(line, begin) {
            push(&mut own, &line[begin..head.begin], false);
            let text = &line[head.text..];
            match text.len().checked_sub(head.length) {
                Some(0) => return own,
                // Whole, and something follows it on its line.
                Some(_) if follows(&text[head.length..]) => begin = head.text + head.length,
                // Its end was lost, and the next one follows.
                _ if let Some(next) = successor(line, head) => {
                    self.torn(head, &line[head.text..next], &mut own);
                    (self.owed, self.held) = (0, None);
                    begin = next;
                }
                _ if cut => {
                    self.owed = head.length.saturating_sub(text.len());
                    return own;
                }
                _ => {
                    self.torn(head, text, &mut own);
                    return own;
                }
            }
        }
        self.begin_head(&line[begin..]);
        push(&mut own, &line[begin..], false);
        own
    }

    /// A line into which a message was printed, or which lost its end. Its rest follows, on the next line as a rule.
    fn torn(&mut self, head: Head, text: &[u8], own: &mut Vec<Own>) {
        let stamp = last_stamp(text).filter(|at| *at <= head.length);
        let is_short = text.len() < head.length;
        let told = stamp.unwrap_or(text.len().min(head.length));
        self.owed = head.length - told;
        let message = match stamp {
            Some(stamp) => &text[stamp..],
            None => &text[told..],
        };
        if is_short && stamp.is_some() {
            self.held = Some(Own {
                text: message.to_vec(),
                torn: true,
            });
        } else {
            push(own, message, true);
        }
    }

    /// Decides by the next line whether what was held is the kernel's: it goes on then, or the rest of the torn line comes.
    fn decide(&mut self, line: &[u8], own: &mut Vec<Own>) {
        if line.is_empty() {
            return;
        }
        if let Some(held) = self.held.take() {
            let head = Head::find(line, 0);
            let is_next = head.is_some_and(|head| head.begin == 0);
            let is_torn_again =
                || head.is_none() && last_stamp(line).is_some_and(|at| at <= self.owed);
            // The next line may have the missing length by chance.
            let is_rest = || !is_next && (line.len() == self.owed || self.is_paid_by(line));
            if begins_with_stamp(line) || is_rest() || is_torn_again() {
                own.push(held);
            } else {
                self.owed = 0;
            }
        }
    }

    /// A line behind the beginning of its head that came before a message of the kernel.
    fn joined(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        if self.begun.is_empty() || begins_with_stamp(line) {
            return None;
        }
        let mut joined = std::mem::take(&mut self.begun);
        joined.extend(line);
        let head = Head::find(&joined, 0)?;
        (head.begin == 0).then_some(joined)
    }

    /// Keeps the beginning of a head that stands before a message of the kernel.
    fn begin_head(&mut self, text: &[u8]) {
        if memchr::memchr(b'[', text).is_none() {
            return;
        }
        let Some(stamp) = STAMP.find(text).filter(|stamp| stamp.start() > 0) else {
            return;
        };
        if let Some(begun) = BEGUN.find(&text[..stamp.start()]) {
            self.begun = begun.as_bytes().to_vec();
        }
    }

    /// Takes the rest of a torn line off the beginning of `line`. The kernel's own lines come in between; a line of
    /// another length is not the rest, which was lost then, as when the board was reset.
    fn pay<'a>(&mut self, line: &'a [u8]) -> &'a [u8] {
        if self.owed == 0 {
            return line;
        }
        if self.cut {
            let rest = self.owed.min(line.len());
            self.owed -= rest;
            return &line[rest..];
        }
        if line.len() == self.owed || self.is_paid_by(line) {
            return &line[std::mem::take(&mut self.owed)..];
        }
        if begins_with_stamp(line) {
            return line;
        }
        match last_stamp(line).filter(|torn| *torn <= self.owed) {
            Some(torn) => {
                self.owed -= torn;
                &line[torn..]
            }
            None => {
                self.owed = 0;
                line
            }
        }
    }

    /// Whether `line` begins with the rest of the torn line and goes on with something of its own.
    fn is_paid_by(&self, line: &[u8]) -> bool {
        line.len() > self.owed && follows(&line[self.owed..])
    }
}

fn push(own: &mut Vec<Own>, text: &[u8], torn: bool) {
    if !text.is_empty() {
        own.push(Own {
            text: text.to_vec(),
            torn,
        });
    }
}

/// Where the agent's next line begins inside the text of one that lost its end.
fn successor(line: &[u8], head: Head) -> Option<usize> {
    // After the last line, the agent may repeat all of them.
    Head::find(line, head.text)
        .filter(|next| next.number == 1 || Some(next.number) == head.number.checked_add(1))
        .map(|next| next.begin)
}

/// Whether a line is one of the job's that lost its first characters: its length tells.
fn is_beheaded(line: &[u8]) -> bool {
    // Of a flood's lines, few have one so near their beginning.
    let near = &line[..line.len().min("earth:".len() + 20)];
    memchr::memchr(b':', near).is_some()
        && BEHEADED.iter().any(|pattern| {
            pattern.captures(line).is_some_and(|found| {
                let text = line.len() - found[0].len();
                str::from_utf8(&found[1]).is_ok_and(|length| length.parse() == Ok(text))
            })
        })
}

fn begins_with_stamp(text: &[u8]) -> bool {
    STAMP.find(text).is_some_and(|stamp| stamp.start() == 0)
}

/// Whether the bytes after a numbered line's text are something of their own, and not the text's end.
fn follows(rest: &[u8]) -> bool {
    rest.starts_with(PREFIX) || begins_with_stamp(rest)
}

/// Where the last message of the kernel begins in `text`.
fn last_stamp(text: &[u8]) -> Option<usize> {
    STAMP.find_iter(text).last().map(|stamp| stamp.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(lines: &[&str]) -> Vec<String> {
        let mut splitter = Splitter::default();
        lines
            .iter()
            .flat_map(|line| splitter.own(line.as_bytes(), false))
            .map(|own| String::from_utf8_lossy(&own.text).into_owned())
            .collect()
    }

    fn numbered(text: &str) -> String {
        format!("hearth:7:{}:{text}", text.len())
    }

    #[test]
    fn a_whole_line_is_the_jobs_and_what_stands_beside_it_the_boards() {
        let panic = "[   12.345678] Kernel panic - not syncing: x";
        let line = numbered(panic);
        assert_eq!(own(&[&line]), Vec::<String>::new());
        assert_eq!(own(&[&format!("neo1 login: {line}")]), ["neo1 login: "]);
        assert_eq!(own(&[&format!("{line}{panic}")]), [panic]);
        assert_eq!(own(&[&format!("{line}{line}")]), Vec::<String>::new());
    }

    #[test]
    fn a_message_that_tears_a_line_is_the_boards_and_the_rest_of_the_line_is_not() {
        let panic = "[   12.345678][    T1] Kernel panic - not syncing: x";
        let head = "hearth:7:55:";
        assert_eq!(
            own(&[
                &format!("{head}[    0.000000] Linux ver{panic}"),
                "[   12.345679] CPU: 0",
                "sion 6.12.0 (a test's own text)",
                "U-Boot 2025.01",
            ]),
            [panic, "[   12.345679] CPU: 0", "U-Boot 2025.01"]
        );
        // On one line, as after a lost line end.
        assert_eq!(
            own(&[&format!("hearth:7:10:hello{panic}world")]),
            [format!("{panic}world")]
        );
    }

    #[test]
    fn a_line_that_lost_its_end_is_still_the_jobs_and_a_reset_after_it_is_seen() {
        assert_eq!(
            own(&[
                "hearth:7:60:[    0.000000] Linux version",
                "hearth:8:2:ok",
                "hearth:9:60:Kernel panic - not sync",
                "U-Boot 2025.01"
            ]),
            ["U-Boot 2025.01"]
        );
    }

    #[test]
    fn a_head_that_is_torn_or_lost_its_beginning_is_still_the_jobs() {
        let line = numbered("[   12.000000] Kernel panic - not syncing: an old log");
        let message = "[   98.000000] usb 1-1: new device";
        for at in 1..12 {
            let (before, rest) = line.split_at(at);
            let said = own(&[&format!("{before}{message}"), message, rest]);
            assert_eq!(said.last().map(String::as_str), Some(message), "{at}");
            // The length must be whole to tell.
            assert!(at > 9 || own(&[rest]).is_empty(), "{at}");
        }
    }

    #[test]
    fn a_message_in_a_line_that_is_too_short_is_told_from_a_line_without_its_end() {
        let panic = "[   12.345678] Kernel panic - not syncing: x";
        for begin in ["", "dmesg said: "] {
            let short = format!("hearth:7:99:{begin}{panic}");
            let next = numbered("next").replace(":7:", ":8:");
            // The job goes on: it was its own text.
            assert!(own(&[&short, &next]).is_empty());
            assert!(own(&[&format!("{short}{next}")]).is_empty());
            let missing = 99 - begin.len();
            let chance = format!("hearth:8:{}:{}", missing - 12, "n".repeat(missing - 12));
            assert!(own(&[&short, &chance]).is_empty());
            // The kernel goes on, or the rest comes.
            let after = "[   12.345679] CPU: 0";
            assert_eq!(own(&[&short, "", after]), [panic, after]);
            let rest = "r".repeat(99 - begin.len());
            assert_eq!(own(&[&short, &rest]), [panic]);
            assert_eq!(
                own(&[&short, &format!("rr{after}"), &rest[2..]]),
                [panic, after]
            );
        }
        // Longer than what the job printed: the kernel's from its first byte.
        assert_eq!(own(&[&format!("hearth:7:9:{panic}")]), [panic]);
    }

    #[test]
    fn a_rest_that_looks_like_the_kernels_is_known_by_its_length() {
        let text = "[    0.000000] Linux version 6.12";
        let message = "[   12.345678] usb 1-1: new device";
        assert_eq!(
            own(&[&format!("hearth:1:{}:x{message}", 1 + text.len()), text]),
            [message]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(lines in proptest::collection::vec("(hearth:|[0-9]|:|\\[ 1\\.0\\] |[a-zé])*", 0..6)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            own(&lines);
        }

        #[test]
        fn nothing_of_a_numbered_line_is_ever_the_boards(text in "[ -~é]{0,80}") {
            let text = text.replace("hearth:", "");
            proptest::prop_assert!(own(&[&numbered(&text)]).is_empty());
        }
    }
}
