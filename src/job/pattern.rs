//! Owns the `parse` section of a test definition: a pattern that finds results in plain output, and the words that a
//! program uses for LAVA's results. Never decides where a line belongs.
//!
//! Format: LAVA's dispatcher, `actions/test/shell.py`: Python's `re` with `re.MULTILINE`, searched in all that came
//! since the last match, so that a match may go over line ends.

use std::collections::BTreeMap;

use fancy_regex::{Regex, RegexBuilder};

use super::signal::{CaseSignal, number, outcome};

/// How many steps of backtracking one search may take: some 20 ms.
const BACKTRACKING: usize = 1_000_000;
/// How much text without a match is kept for one that goes over line ends, in bytes.
const WINDOW: usize = 4 << 10;

/// A compiled pattern with named groups `test_case_id`, `result`, `measurement`, `units`, and the words that
/// a program uses for LAVA's results.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// None if the definition has the words alone.
    regex: Option<Regex>,
    fixups: BTreeMap<String, String>,
    /// What came since the last match.
    window: String,
    /// Whether a search was given up, which is told once.
    gave_up: bool,
}

/// What a pattern found: a case, or a case's id, if it has one, and what is wrong with it.
pub type Found = Result<CaseSignal, (Option<String>, String)>;

/// A match. Of the named groups, `None` is one that the pattern does not have, `Some(None)` one that took no part.
#[derive(Debug)]
pub struct Groups {
    /// In bytes of the text.
    pub start: usize,
    pub end: usize,
    pub id: Option<String>,
    pub result: Option<Option<String>>,
    pub measurement: Option<Option<String>>,
    pub units: Option<Option<String>>,
}

impl Pattern {
    /// # Errors
    /// If the pattern is no regular expression of Python's, or has no group named `test_case_id`.
    pub fn new(pattern: &str, fixups: BTreeMap<String, String>) -> Result<Self, String> {
        let regex = if pattern.is_empty() {
            None
        } else {
            let translated = format!("(?m){}", translate(pattern));
            let regex = RegexBuilder::new(&translated)
                .backtrack_limit(BACKTRACKING)
                .delegate_size_limit(1 << 20)
                .build()
                .map_err(|error| error.to_string())?;
            if !regex
                .capture_names()
                .flatten()
                .any(|name| name == "test_case_id")
            {
                return Err("the pattern has no group named `test_case_id`".into());
            }
            Some(regex)
        };
        Ok(Pattern {
            regex,
            fixups,
            window: String::new(),
            gave_up: false,
        })
    }

    /// A program's word for a result as one of LAVA's, if the definition translates it.
    pub fn fixed<'a>(&'a self, word: &'a str) -> &'a str {
        self.fixups.get(word).map_or(word, String::as_str)
    }

    /// Whether there are only words.
    pub fn is_empty(&self) -> bool {
        self.regex.is_none()
    }

    /// The first match in a text.
    pub fn search(&self, text: &str) -> Option<Groups> {
        let regex = self.regex.as_ref()?;
        let captures = regex.captures(text).ok()??;
        let whole = captures.get(0)?;
        let group = |name: &str| {
            let has = regex.capture_names().flatten().any(|known| known == name);
            has.then(|| captures.name(name).map(|text| text.as_str().to_string()))
        };
        Some(Groups {
            start: whole.start(),
            end: whole.end(),
            id: group("test_case_id").flatten(),
            result: group("result"),
            measurement: group("measurement"),
            units: group("units"),
        })
    }

    /// Something else was found: a match goes over no signal.
    pub fn reset(&mut self) {
        self.window.clear();
    }

    /// Takes a line and gives all results that it completes.
    pub fn line(&mut self, line: &str) -> Vec<Found> {
        let mut found = Vec::new();
        let Some(regex) = &self.regex else {
            return found;
        };
        self.window.push_str(line.trim_end_matches(['\r', '\n']));
        self.window.push('\n');
        let mut begin = 0;
        while begin < self.window.len() {
            let captures = match regex.captures(&self.window[begin..]) {
                Ok(Some(captures)) => captures,
                Ok(None) => break,
                Err(_) => {
                    if !std::mem::replace(&mut self.gave_up, true) {
                        let problem = "`parse.pattern` takes too long: results may be missing";
                        found.push(Err((None, problem.into())));
                    }
                    begin = self.window.len();
                    break;
                }
            };
            let end = captures.get(0).map_or(0, |whole| whole.end());
            if end == 0 {
                break;
            }
            let group = |name: &str| {
                captures
                    .name(name)
                    .map(|text| text.as_str().trim().to_string())
            };
            found.push(self.case(group));
            begin += end;
        }
        self.window.drain(..begin);
        if self.window == "\n" {
            self.window.clear();
        }
        while self.window.len() > WINDOW {
            let line = self
                .window
                .find('\n')
                .map_or(self.window.len(), |end| end + 1);
            self.window.drain(..line);
        }
        found
    }

    /// `group`: the text that a named group of a match has.
    fn case(&self, group: impl Fn(&str) -> Option<String>) -> Found {
        let Some(id) = group("test_case_id").filter(|id| !id.is_empty()) else {
            return Err((
                None,
                "a match of `parse.pattern` without a test case".into(),
            ));
        };
        let id = id.replace(char::is_whitespace, "-");
        let word = match (group("result"), group("measurement")) {
            (Some(word), _) => word,
            // A line that only measures has passed.
            (None, Some(_)) => "pass".into(),
            (None, None) => "unknown".into(),
        };
        // A word that stays unknown is shown as it was.
        let Ok(outcome) = outcome(self.fixed(&word)) else {
            return Err((
                Some(id),
                format!("`{word}` is not a result, and `fixupdict` does not translate it"),
            ));
        };
        let measurement = match group("measurement").map(|text| number(&text)) {
            Some(Err(problem)) => return Err((Some(id), problem)),
            Some(Ok(number)) => Some(number),
            None => None,
        };
        Ok(CaseSignal {
            id,
            outcome,
            measurement,
            units: group("units"),
        })
    }
}

/// A regular expression of Python's in the dialect of `fancy_regex`: where the two read one text differently.
fn translate(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern.chars().peekable();
    // Inside `[…]`: how many characters of it were seen.
    let mut class: Option<usize> = None;
    while let Some(c) = rest.next() {
        match (c, class) {
            ('\\', _) => match rest.next() {
                Some('Z') if class.is_none() => out.push_str("\\z"),
                Some(digit @ '0'..='7') => match octal(digit, &mut rest, class.is_some()) {
                    Some(code) => out.push_str(&format!("\\x{{{code:x}}}")),
                    None => out.extend(['\\', digit]),
                },
                // Word boundaries in Rust, and the characters themselves in Python.
                Some(c @ ('<' | '>')) => out.push(c),
                Some(c) => out.extend(['\\', c]),
                None => out.push('\\'),
            },
            ('[', None) => {
                class = Some(0);
                out.push('[');
                if rest.peek() == Some(&'^') {
                    out.extend(rest.next());
                }
                // First in it, it stands for itself.
                if rest.peek() == Some(&']') {
                    rest.next();
                    out.push_str("\\]");
                }
            }
            (']', Some(_)) => {
                class = None;
                out.push(']');
            }
            // Nested classes and their operators are Rust's alone.
            ('[' | '&' | '~', Some(_)) => out.extend(['\\', c]),
            ('-', Some(_)) if rest.peek() == Some(&'-') => out.push_str("\\-"),
            // A group by its name: Rust has it in angle brackets, and takes anything else for a pattern.
            ('(', None) => match conditional(rest.clone()) {
                Some(name) => {
                    rest.nth(name.chars().count() + 2);
                    out.push_str(&format!("(?(<{name}>)"));
                }
                None => {
                    out.push('(');
                    if let Some(flags) = global_flags(rest.clone()) {
                        // Python's strings are Unicode, and no locale counts.
                        rest.nth(flags.len() + 1);
                        let known: String = flags.chars().filter(|c| !"auL".contains(*c)).collect();
                        out.push_str(&format!("?{known})"));
                    }
                }
            },
            ('{', None) if rest.peek() == Some(&',') && is_count(rest.clone()) => {
                out.push_str("{0")
            }
            ('{', None) if !is_count(rest.clone()) => out.push_str("\\{"),
            (c, _) => out.push(c),
        }
    }
    out
}

/// The character that an octal escape stands for: it begins with 0, has three digits, or stands in a class.
fn octal(
    first: char,
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    in_class: bool,
) -> Option<u32> {
    let is_octal = |c: &char| ('0'..='7').contains(c);
    let more: String = rest.clone().take_while(is_octal).take(2).collect();
    if first != '0' && !in_class && more.len() < 2 {
        return None;
    }
    for _ in 0..more.len() {
        rest.next();
    }
    u32::from_str_radix(&format!("{first}{more}"), 8).ok()
}

/// The name in `?(NAME)`, which follows a `(`.
fn conditional(rest: impl Iterator<Item = char>) -> Option<String> {
    let inside: String = rest.take_while(|c| *c != ')').collect();
    let name = inside.strip_prefix("?(")?;
    let starts = name.chars().next()?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    (!starts.is_ascii_digit() && name.chars().all(is_word)).then(|| name.to_string())
}

/// The letters in `?LETTERS)`, which follows a `(`.
fn global_flags(rest: impl Iterator<Item = char>) -> Option<String> {
    let inside: String = rest.take_while(|c| *c != ')').collect();
    let flags = inside.strip_prefix('?')?;
    let known = !flags.is_empty() && flags.chars().all(|c| "aiLmsux".contains(c));
    known.then(|| flags.to_string())
}

/// Whether what follows a `{` makes it a count: `3}`, `3,}`, `,3}`, `3,4}`.
fn is_count(rest: impl Iterator<Item = char>) -> bool {
    let inside: String = rest
        .take_while(|c| c.is_ascii_digit() || matches!(c, ',' | '}'))
        .collect();
    inside.split_once('}').is_some_and(|(count, _)| {
        !count.is_empty() && count != "," && count.matches(',').count() < 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pattern: &str, fixups: &[(&str, &str)], text: &str) -> Vec<String> {
        let fixups = fixups
            .iter()
            .map(|(word, result)| ((*word).into(), (*result).into()))
            .collect();
        let mut pattern = Pattern::new(pattern, fixups).unwrap();
        text.lines()
            .flat_map(|line| pattern.line(line))
            .map(|found| match found {
                Ok(case) => format!(
                    "{}={}{}",
                    case.id,
                    case.outcome.name(),
                    case.measurement
                        .map(|m| format!(" {m}"))
                        .unwrap_or_default()
                ),
                Err((id, problem)) => format!("{}: {problem}", id.unwrap_or_default()),
            })
            .collect()
    }

    #[test]
    fn patterns_are_pythons() {
        for (pattern, text, expected) in [
            (
                r"^(?P<test_case_id>[\w ]+):\s+(?P<result>\w+)$",
                "some test: PASS",
                &["some-test=pass"][..],
            ),
            (
                r"(?P<test_case_id>\w+): (?P<result>pass|fail)",
                "a: pass, b: fail",
                &["a=pass", "b=fail"],
            ),
            (
                r"^(?!.+ED)(?P<test_case_id>\w+)\s+(?P<result>PASS|FAIL)\s+\d+",
                "mem PASS 1\nSKIPPED PASS 1\no FAIL 2",
                &["mem=pass", "o=fail"],
            ),
            (
                r"Running (?P<test_case_id>\w+)\s+(?P<result>pass|fail)",
                "Running a\n  pass\nnoise\nRunning b\n\n  fail",
                &["a=pass", "b=fail"],
            ),
            (
                r"^(?P<test_case_id>\w+) (?P<measurement>[0-9.]+) (?P<units>\S+)",
                "speed 12.5 MB/s",
                &["speed=pass 12.5"],
            ),
            (
                r"^[[](?P<result>\w+)[]] (?P<test_case_id>\w+)",
                "[PASS] a\n[FAIL] b",
                &["a=pass", "b=fail"],
            ),
            (
                r"\<(?P<test_case_id>\w+)\> {(?P<result>\w+)}",
                "<a> {pass}",
                &["a=pass"],
            ),
            (
                r"(?P<q>['-])(?P<test_case_id>\w+)(?P=q) (?P<result>\w+)\s*\Z",
                "'a' pass",
                &["a=pass"],
            ),
            (
                r"^(?P<o>\()?(?P<test_case_id>\w+)(?(o)\)) (?P<result>pass|fail)",
                "(a) pass\nb fail\n(c fail",
                &["a=pass", "b=fail"],
            ),
            (
                r"(?ai)(?P<test_case_id>\w+) (?P<result>pass) \x41\101{,2}[\60-\071]",
                "a pass aa7\nb pass A0",
                &["a=pass", "b=pass"],
            ),
            (
                r"(?P<test_case_id>\w*): (?P<result>pass)",
                ": pass",
                &[": a match of `parse.pattern` without a test case"],
            ),
            (
                r"(?P<test_case_id>[a-z--.]+) (?P<result>\w{4})",
                "a-b pass",
                &["a-b=pass"],
            ),
        ] {
            assert_eq!(told(pattern, &[], text), expected, "{pattern}");
        }
    }

    #[test]
    fn fixups_translate_a_programs_words() {
        let pattern = r"^(?P<test_case_id>\w+):\s+(?P<result>\w+)$";
        assert_eq!(
            told(pattern, &[("GOOD", "pass")], "a: GOOD\nb: BROKEN"),
            [
                "a=pass",
                "b: `BROKEN` is not a result, and `fixupdict` does not translate it"
            ]
        );
    }

    #[test]
    fn a_pattern_that_backtracks_without_end_finds_nothing_in_time() {
        let text = "a".repeat(4000);
        assert_eq!(
            told(
                r"(?P<test_case_id>(?=(a+)+)(a+)+)\1b (?P<result>x)",
                &[],
                &text
            ),
            [": `parse.pattern` takes too long: results may be missing"]
        );
    }

    #[test]
    fn a_pattern_without_a_case_is_refused() {
        assert!(Pattern::new("(?P<result>x)", BTreeMap::new()).is_err());
        assert!(Pattern::new("(", BTreeMap::new()).is_err());
    }
}
