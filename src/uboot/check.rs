//! Owns the check that U-Boot's shell can run a script: characters, quotes, words of a command,
//! closed blocks.
//! Never changes the script, and never runs it.
//!
//! The rules are those of U-Boot's old hush parser (`common/cli_hush.c`), verified with Debian's
//! U-Boot 2025.01: a carriage return is part of a word, so that `then\r` is no keyword; a NUL
//! silently ends the script; a single quote begins a quotation inside double quotes too; a script
//! with an open quotation, `${` or block is not run to its end. Lines may be of any length
//! (verified up to 3,000 bytes), but the number of words in a command is limited.

use crate::error::Fault;

/// The most words of a command, including its name (`CONFIG_SYS_MAXARGS`; Debian's U-Boots have the
/// default).
pub const MOST_WORDS: usize = 64;

/// Refuses a script that U-Boot's shell would not run as written.
///
/// ```
/// use hearth::uboot::check::runnable;
///
/// assert!(runnable(b"if test -n \"${a}\"; then\n  echo a\nfi\n").is_ok());
/// let fault = runnable(b"if true; then\n  echo a\n").unwrap_err();
/// assert!(fault.to_string().contains("an `if` that is never closed"));
/// ```
///
/// # Errors
/// A sentence that begins with the line number; the caller adds the file's name.
pub fn runnable(script: &[u8]) -> Result<(), Fault> {
    refuse_bytes(script)?;
    Reader::default().read(script)
}

/// Removes what editors of other systems add and U-Boot cannot run: carriage returns at line ends,
/// and a byte order mark. Returns the text and a description of what was removed.
pub fn mended(script: &[u8]) -> (Vec<u8>, Vec<&'static str>) {
    let mut told = Vec::new();
    let mut text = script;
    while let Some(rest) = text.strip_prefix(BOM) {
        text = rest;
    }
    if text.len() < script.len() {
        told.push("a byte order mark");
    }
    let mut mended = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let (line, end) = match line.split_last() {
            Some((b'\n', line)) => (line, &b"\n"[..]),
            _ => (line, &b""[..]),
        };
        // More than one where a text was converted twice.
        let kept = line.iter().rposition(|byte| *byte != b'\r');
        mended.extend(&line[..kept.map_or(0, |last| last + 1)]);
        mended.extend(end);
    }
    if mended.len() < text.len() {
        told.push("carriage returns at the ends of lines");
    }
    (mended, told)
}

const BOM: &[u8] = b"\xef\xbb\xbf";

fn refuse_bytes(script: &[u8]) -> Result<(), Fault> {
    if script.starts_with(BOM) {
        return Err(fault(
            1,
            "begins with a byte order mark, which U-Boot takes for a part of the first command",
        )
        .remedy("save the text as UTF-8 without BOM"));
    }
    if script.starts_with(b"\xff\xfe") || script.starts_with(b"\xfe\xff") {
        return Err(fault(1, "is UTF-16, which U-Boot cannot read")
            .remedy("save the text as UTF-8 without BOM"));
    }
    for (byte, what, remedy) in [
        (
            0,
            "has a NUL byte, at which U-Boot ends the script",
            "remove it",
        ),
        (
            b'\r',
            "has a carriage return, which U-Boot takes for a part of the word before it",
            "save the text with Unix line ends (LF)",
        ),
    ] {
        if let Some(at) = script.iter().position(|found| *found == byte) {
            let line = 1 + script[..at].iter().filter(|byte| **byte == b'\n').count();
            return Err(fault(line, what).remedy(remedy));
        }
    }
    Ok(())
}

fn fault(line: usize, what: &str) -> Fault {
    Fault::input(format!("line {line} of the script {what}"))
}

/// The word being parsed.
#[derive(Default)]
struct Word {
    text: Vec<u8>,
    /// Whether any part of it was quoted, so that it is no keyword.
    quoted: bool,
}

/// Parses a script like hush, without expansions.
#[derive(Default)]
struct Reader {
    line: usize,
    word: Option<Word>,
    /// Words of the current command, and the line in which it begins.
    words: usize,
    begun: usize,
    /// Whether the words are the list of a `for`, whose length is not limited.
    list: bool,
    /// Open blocks with their lines: `if`, or `for`, `while` and `until`.
    blocks: Vec<(&'static str, usize)>,
}

impl Reader {
    fn read(mut self, script: &[u8]) -> Result<(), Fault> {
        self.line = 1;
        let mut rest = script.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            match byte {
                b'\'' => self.quoted(b'\'', &mut rest)?,
                b'"' => self.quoted(b'"', &mut rest)?,
                b'\\' => {
                    let word = self.word.get_or_insert_default();
                    word.quoted = true;
                    let escaped = rest.next();
                    if rest.peek().is_none() && matches!(escaped, None | Some(b'\n')) {
                        return Err(fault(
                            self.line,
                            "ends in a backslash, and no line goes on from there",
                        )
                        .remedy("remove the backslash, or add what is missing"));
                    }
                    word.text.extend(escaped);
                    self.line += usize::from(escaped == Some(b'\n'));
                }
                b'$' if rest.peek() == Some(&b'{') => {
                    self.word.get_or_insert_default().text.push(b'$');
                    self.variable(&mut rest)?;
                }
                b'#' if self.word.is_none() => {
                    while rest.next_if(|byte| *byte != b'\n').is_some() {}
                }
                b' ' | b'\t' => self.end_word()?,
                b'\n' | b';' | b'&' | b'|' => {
                    self.end_command()?;
                    self.line += usize::from(byte == b'\n');
                }
                _ => self.word.get_or_insert_default().text.push(byte),
            }
        }
        self.end_command()?;
        match self.blocks.pop() {
            None => Ok(()),
            Some((keyword, line)) => Err(fault(
                line,
                &format!("has an `{keyword}` that is never closed, and U-Boot runs none of it"),
            )
            .remedy("an `if` ends with `fi`; `for`, `while` and `until` end with `done`")),
        }
    }

    /// A quotation. A single quote inside double quotes begins a quotation of its own.
    fn quoted(&mut self, quote: u8, rest: &mut impl Iterator<Item = u8>) -> Result<(), Fault> {
        let begun = self.line;
        self.word.get_or_insert_default().quoted = true;
        while let Some(byte) = rest.next() {
            self.line += usize::from(byte == b'\n');
            match byte {
                _ if byte == quote => return Ok(()),
                b'\\' if quote == b'"' => {
                    self.line += usize::from(rest.next() == Some(b'\n'));
                }
                b'\'' if quote == b'"' => self.quoted(b'\'', rest)?,
                _ => {}
            }
        }
        let which = if quote == b'"' { "double" } else { "single" };
        Err(
            fault(begun, &format!("has a {which} quote without its partner")).remedy(
                "close it; between double quotes too, U-Boot takes an apostrophe for a quote",
            ),
        )
    }

    /// `${name}`, whose name contains no space and no line end.
    fn variable(
        &mut self,
        rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    ) -> Result<(), Fault> {
        while let Some(byte) = rest.next_if(|byte| *byte != b'\n') {
            if byte == b'}' {
                return Ok(());
            }
        }
        Err(fault(self.line, "has a `${` without its `}`").remedy("close it"))
    }

    fn end_word(&mut self) -> Result<(), Fault> {
        let Some(word) = self.word.take() else {
            return Ok(());
        };
        if self.words == 0 && !word.quoted && self.keyword(&word.text)? {
            return Ok(());
        }
        if self.words == 0 {
            self.begun = self.line;
        }
        self.words += 1;
        Ok(())
    }

    /// Whether a command's first word is a keyword, after which another command may follow.
    fn keyword(&mut self, word: &[u8]) -> Result<bool, Fault> {
        match word {
            b"if" => self.blocks.push(("if", self.line)),
            b"while" => self.blocks.push(("while", self.line)),
            b"until" => self.blocks.push(("until", self.line)),
            b"for" => {
                self.blocks.push(("for", self.line));
                self.list = true;
            }
            b"fi" => self.close("fi", &["if"])?,
            b"done" => self.close("done", &["for", "while", "until"])?,
            b"then" | b"else" | b"elif" | b"do" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn close(&mut self, keyword: &str, openings: &[&str]) -> Result<(), Fault> {
        match self.blocks.pop() {
            Some((opening, _)) if openings.contains(&opening) => Ok(()),
            _ => Err(fault(
                self.line,
                &format!("has a `{keyword}` that closes nothing, and U-Boot runs none of it"),
            )
            .remedy("an `if` ends with `fi`; `for`, `while` and `until` end with `done`")),
        }
    }

    fn end_command(&mut self) -> Result<(), Fault> {
        self.end_word()?;
        let words = std::mem::take(&mut self.words);
        if std::mem::take(&mut self.list) || words <= MOST_WORDS {
            return Ok(());
        }
        Err(fault(
            self.begun,
            &format!("has a command of {words} words, but U-Boot takes {MOST_WORDS}"),
        )
        .remedy("put them between quotes, as one word: setenv bootargs 'a b c'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(script: &str) -> Option<String> {
        runnable(script.as_bytes())
            .err()
            .map(|fault| fault.to_string())
    }

    /// Scripts that Debian's U-Boot 2025.01 ran as intended.
    #[test]
    fn what_u_boot_runs_passes() {
        let words = |count: usize| vec!["w"; count].join(" ");
        for script in [
            "echo ok",
            "echo a \\\n  b\necho c\n",
            "echo 'a\nb'\necho c\n",
            "echo a # it's\necho b\n",
            "echo a;; echo b\n",
            "echo a &&\necho b\n",
            "setenv x 'a\\b'; echo \"${x}\"\n",
            "echo a\\'b 'c \"d'\n",
            "echo käse \u{1b}[1m\n",
            "if true; then\n  if false; then echo a; else echo b; fi\nelif test -n \"${x}\"; then echo c; fi\n",
            "while true; do for i in a b; do echo $i; done; done\n",
            "echo if fi done\necho 'if'\n",
            &format!("setenv {}\n", words(63)),
            &format!("for i in {}; do echo $i; done\n", words(70)),
            &format!("setenv x '{}'\n", words(400)),
            &format!("{} ; {}\n", words(64), words(64)),
        ] {
            assert_eq!(told(script), None, "{script}");
        }
    }

    /// Scripts that it did not run, did not run to the end, or ran with a line end as part of the
    /// last word.
    #[test]
    fn what_u_boot_does_not_run_is_refused_with_its_line() {
        let words = vec!["w"; 64].join(" ");
        for (script, line, what) in [
            ("echo a\r\n".to_string(), 1, "carriage return"),
            ("echo a\necho b\rc\n".into(), 2, "carriage return"),
            ("\u{feff}echo a\n".into(), 1, "byte order mark"),
            ("echo a\n\0echo b\n".into(), 2, "NUL"),
            ("echo a\necho 'b\necho c\n".into(), 2, "single quote"),
            ("echo a\n\necho \"b\n".into(), 3, "double quote"),
            ("echo \"it's\"\necho b\n".into(), 1, "quote"),
            (
                "if true; then\necho a\n".into(),
                1,
                "`if` that is never closed",
            ),
            ("echo a\nfi\n".into(), 2, "`fi` that closes nothing"),
            (
                "if true; then echo a; done\n".into(),
                1,
                "`done` that closes nothing",
            ),
            ("for i in a b; do\necho a\n".into(), 1, "never closed"),
            ("echo a\necho ${b\n".into(), 2, "`${` without"),
            ("echo a \\".into(), 1, "ends in a backslash"),
            ("echo a\necho b \\\n".into(), 2, "ends in a backslash"),
            (format!("echo a\nsetenv {words}\n"), 2, "65 words"),
            (
                format!("echo a;  if true; then setenv {words}; fi\n"),
                1,
                "65 words",
            ),
        ] {
            let told = told(&script).unwrap_or_else(|| panic!("{script:?} passes"));
            assert!(
                told.starts_with(&format!("line {line} of the script")) && told.contains(what),
                "{script:?}: {told}"
            );
        }
    }

    #[test]
    fn what_other_systems_put_into_a_text_is_taken_out() {
        let (text, told) = mended(b"\xef\xbb\xbfif a\r\nb\r\n\r\nc\rd\r");
        assert_eq!((text.as_slice(), told.len()), (&b"if a\nb\n\nc\rd"[..], 2));
        let (text, _) = mended(b"\xef\xbb\xbf\xef\xbb\xbfa\r\r\n\r\n\r\r");
        assert_eq!(text, b"a\n\n");
        let plain = b"echo a\n\n";
        assert_eq!(mended(plain), (plain.to_vec(), Vec::new()));
    }
}
