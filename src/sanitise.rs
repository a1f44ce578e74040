//! Owns how text that others wrote (boards, packages, servers, mirrors) is made fit for a terminal, a table or a log.
//! Never changes what is stored: raw outputs and artifacts keep every byte.

use std::borrow::Cow;
use std::fmt::Write;

/// Longer lines are cut, in characters: nobody reads on, and a log that takes gigabytes is a log that is lost.
pub const LONGEST: usize = 4096;

/// One line: line ends, control and invisible characters are written as Rust escapes (`\n`, `\u{1b}`, `\u{202e}`), so
/// that the reader sees that they were there. A tab becomes a space. Text that is fit already is not copied.
pub fn line(text: &str) -> Cow<'_, str> {
    if is_fit(text) {
        return Cow::Borrowed(text);
    }
    let mut fit = String::with_capacity(text.len().min(LONGEST * 2));
    push(&mut fit, text);
    Cow::Owned(fit)
}

/// The same for text of several lines. All but the first are indented, so that none can be taken for a line of
/// hearth's own, such as `help: …`.
pub fn block(text: &str) -> Cow<'_, str> {
    if is_fit(text) {
        return Cow::Borrowed(text);
    }
    let mut fit = String::with_capacity(text.len());
    for (number, line) in text.trim_end_matches('\n').split('\n').enumerate() {
        if number > 0 {
            fit.push('\n');
            if !line.starts_with("  ") {
                fit.push_str("  ");
            }
        }
        push(&mut fit, line.strip_suffix('\r').unwrap_or(line));
    }
    Cow::Owned(fit)
}

/// Bytes as one line of text; what is no UTF-8 (lone surrogates are none) becomes U+FFFD.
pub fn bytes(bytes: &[u8]) -> String {
    line(&String::from_utf8_lossy(bytes)).into_owned()
}

/// Whether a character may change what a terminal does or how the text around it reads: C0, DEL and C1 controls; line and
/// paragraph separators; bidirectional controls, which reorder text (Unicode UAX #9, section 2); characters that are not seen
/// (zero-width ones, interlinear annotations, tags).
pub fn is_unsafe(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Takes a terminal's raw bytes and lets through what only writes text: line ends, tabs, backspaces and printable
/// characters. Keeps what a read has cut in the middle of a character.
#[derive(Debug, Default)]
pub struct Stream {
    partial: Vec<u8>,
}

impl Stream {
    /// The next bytes, as text that is fit for a terminal.
    pub fn feed(&mut self, bytes: &[u8]) -> String {
        self.partial.extend(bytes);
        let mut fit = String::new();
        let whole = self.whole();
        let rest = self.partial.split_off(whole);
        for c in String::from_utf8_lossy(&self.partial).chars() {
            match c {
                '\n' | '\r' | '\t' | '\u{8}' => fit.push(c),
                c if is_unsafe(c) => push_escaped(&mut fit, c),
                c => fit.push(c),
            }
        }
        self.partial = rest;
        fit
    }

    /// How many bytes are there without a character that has only begun.
    fn whole(&self) -> usize {
        let length = self.partial.len();
        for back in 1..=length.min(3) {
            let byte = self.partial[length - back];
            let needed = match byte {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                0x80..=0xbf => continue,
                _ => 1,
            };
            return if needed > back { length - back } else { length };
        }
        length
    }
}

fn is_fit(text: &str) -> bool {
    text.len() <= LONGEST && !text.chars().any(is_unsafe)
}

fn push(fit: &mut String, line: &str) {
    let mut characters = line.chars();
    for c in characters.by_ref().take(LONGEST) {
        match c {
            '\t' => fit.push(' '),
            c if is_unsafe(c) => push_escaped(fit, c),
            c => fit.push(c),
        }
    }
    let left = characters.as_str().len();
    if left > 0 {
        let _ = write!(fit, "… ({left} bytes more)");
    }
}

fn push_escaped(fit: &mut String, c: char) {
    fit.extend(c.escape_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_is_seen_and_does_nothing() {
        for (given, fit) in [
            ("plain, höflich, 日本", "plain, höflich, 日本"),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\nerror: forged\r", "a\\nerror: forged\\r"),
            ("\u{202e}gnp.exe\u{2066}", "\\u{202e}gnp.exe\\u{2066}"),
            (
                "a\u{200b}b\u{feff}\u{2028}",
                "a\\u{200b}b\\u{feff}\\u{2028}",
            ),
            ("del\x7f\0", "del\\u{7f}\\u{0}"),
            ("a\tb", "a b"),
        ] {
            assert_eq!(line(given), fit);
        }
        // A lone surrogate, overlong and cut sequences.
        assert_eq!(
            bytes(b"\xed\xa0\x80\xc0\xafx\xe2\x82"),
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}x\u{fffd}"
        );
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let fit = line(&"é".repeat(1_000_000)).into_owned();
        assert!(fit.chars().count() < LONGEST + 40);
        assert!(fit.ends_with("bytes more)"), "{}", &fit[fit.len() - 40..]);
    }

    #[test]
    fn a_block_cannot_begin_a_line_of_hearths_own() {
        let fit = block("cannot fetch it\nhelp: run this\n\r\x1b[A\n");
        assert_eq!(fit, "cannot fetch it\n  help: run this\n  \\r\\u{1b}[A");
    }

    #[test]
    fn a_stream_keeps_what_a_read_has_cut() {
        let mut stream = Stream::default();
        assert_eq!(stream.feed(b"\xe2\x82"), "");
        assert_eq!(stream.feed(b"\xac\r\n\x1b[c"), "€\r\n\\u{1b}[c");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_comes_through(given in any::<String>(), raw in any::<Vec<u8>>()) {
            prop_assert!(!line(&given).chars().any(is_unsafe));
            prop_assert!(!bytes(&raw).chars().any(is_unsafe));
            prop_assert!(block(&given).chars().all(|c| c == '\n' || !is_unsafe(c)));
            for later in block(&given).split('\n').skip(1) {
                prop_assert!(later.starts_with("  "));
            }
            let once = line(&given).into_owned();
            prop_assert_eq!(line(&once).into_owned(), once);
        }

        #[test]
        fn a_stream_gives_the_same_however_it_is_cut(text in any::<String>(), at in any::<usize>()) {
            let raw = text.as_bytes();
            let at = at % (raw.len() + 1);
            let mut stream = Stream::default();
            let cut = stream.feed(&raw[..at]) + &stream.feed(&raw[at..]);
            prop_assert_eq!(cut, Stream::default().feed(raw));
        }
    }
}
