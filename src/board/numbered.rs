//! Owns telling the job's lines on a console from the board's own: what a test prints must not be judged as the board.
//! Never judges either.
//!
//! The agent prints each line of a job as `hearth:N:LENGTH:TEXT`, with N from 1 and TEXT's length in bytes. The kernel
//! writes whole lines, but it may begin one in the middle of the job's: TEXT then is shorter than LENGTH, and the rest of
//! it follows on a line of its own.

use std::sync::LazyLock;

use regex::bytes::Regex;

const PREFIX: &[u8] = b"hearth:";

/// What printk puts before a message: level, time and, with `CONFIG_PRINTK_CALLER`, task or processor. The time is what
/// makes it recognisable inside a line.
static STAMP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)(?:<\d{1,3}>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")
        .expect("the pattern is a constant")
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
        line.get(begin..)?.strip_prefix(PREFIX)?;
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

/// Follows a console line by line.
#[derive(Debug, Default)]
pub struct Splitter {
    /// How many bytes of a torn line of the job's are still to come.
    owed: usize,
    /// Whether the last line was cut by the reader, so that the next one goes on with the same text.
    cut: bool,
    /// What the last lines began with that may be the beginning of a head: a message was printed into the head itself.
    torn_head: Vec<u8>,
}

/// The beginning of a line that may be that of a head which something else was printed into.
pub const TORN_HEAD: &str = r"(?:hearth:[\d:]*|hearth|heart|hear|hea|he|h)?";

static TORN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!("^{TORN_HEAD}")).expect("the pattern is a constant"));

impl Splitter {
    /// The parts of one line (without its line ending) that are the board's. `cut`: the line has no end yet, the reader
    /// gives it in pieces.
    pub fn own(&mut self, line: &[u8], cut: bool) -> Vec<Own> {
        if self.is_end_of_torn(line) {
            return Vec::new();
        }
        let line = self.pay(line);
        self.cut = cut;
        let mut own = Vec::new();
        let mut begin = 0;
        while let Some(head) = Head::find(line, begin) {
            push(&mut own, &line[begin..head.begin], false);
            let text = &line[head.text..];
            match text.len().checked_sub(head.length) {
                Some(0) => return own,
                // Whole, and something follows it on its line.
                Some(_) if follows(&text[head.length..]) => begin = head.text + head.length,
                // A message was printed into it, or its end was lost. Its rest follows, on the next line as a rule.
                longer => {
                    let stamp = last_stamp(text).filter(|at| (1..=head.length).contains(at));
                    let told = stamp.unwrap_or(text.len().min(head.length));
                    self.owed = head.length - told;
                    match stamp {
                        Some(stamp) => push(&mut own, &text[stamp..], true),
                        None if longer.is_some() => push(&mut own, &text[head.length..], true),
                        None => {}
                    }
                    return own;
                }
            }
        }
        push(&mut own, &line[begin..], false);
        own
    }

    /// Whether a line is the rest of one whose head was torn. Takes the beginning of this one for the next.
    fn is_end_of_torn(&mut self, line: &[u8]) -> bool {
        let joined = [&self.torn_head[..], line].concat();
        let is_end = !self.torn_head.is_empty()
            && Head::parse(&joined, 0).is_some_and(|head| joined.len() - head.text == head.length);
        let begin = TORN.find(line).map_or(0, |found| found.end());
        if is_end || (begin > 0 && begin < line.len()) {
            self.torn_head = line[..begin].to_vec();
        }
        is_end
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
        if line.len() == self.owed {
            self.owed = 0;
            return &[];
        }
        let next = Head::find(line, 0).map(|head| head.begin);
        let stamp = STAMP.find(line).map(|stamp| stamp.start());
        match (next, stamp) {
            (_, Some(0)) => line,
            (_, Some(torn)) if torn <= self.owed => {
                self.owed -= torn;
                &line[torn..]
            }
            (Some(next), _) if next == self.owed => {
                self.owed = 0;
                &line[next..]
            }
            _ => {
                self.owed = 0;
                line
            }
        }
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

/// Whether the bytes after a numbered line's text are something of their own, and not the text's end.
fn follows(rest: &[u8]) -> bool {
    rest.starts_with(PREFIX) || STAMP.find(rest).is_some_and(|stamp| stamp.start() == 0)
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
            .map(|own| String::from_utf8(own.text).unwrap())
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
    fn a_line_whose_head_is_torn_is_still_the_jobs() {
        assert_eq!(
            own(&[
                "heareboot: Restarting system",
                "rth:7:32:[    0.000000] Linux version 6.1",
                "next"
            ]),
            ["heareboot: Restarting system", "next"]
        );
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
