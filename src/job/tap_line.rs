//! Owns what one line of TAP or KTAP says. Never knows of the lines around it, but for how deep kselftest's nesting is.

use std::sync::LazyLock;

use regex::Regex;

use super::result::Outcome;

/// What printk puts before a line: level, time, and task or processor with `CONFIG_PRINTK_CALLER`.
static PRINTK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:<\d{1,3}>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?)?")
        .expect("the pattern is a constant")
});
static VERSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)^K?TAP version \d+\s*$").expect("the pattern is a constant"));
static PLAN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^1\.\.(\d+)\s*(?:$|todo\b|#\s*(?:skip\S*\s*)?(.*)$)")
        .expect("the pattern is a constant")
});
static REPORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:(not ok)\b|ok(?:\s|$))\s*(?:(\d+)(?:\s|$))?\s*(-(?:\s|$))?\s*(.*)$")
        .expect("the pattern is a constant")
});
static DIRECTIVE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^#\s*(?:(skip)\S*|(todo|xfail|timeout|error)\b:?)\s*(.*)$")
        .expect("the pattern is a constant")
});

/// Where a line stands: how many `# ` of kselftest's runner precede it, and by how many columns it is indented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nesting {
    pub hashes: usize,
    pub indent: usize,
}

impl Nesting {
    /// Whether it is further in than `other`, in the same `# `.
    pub fn is_inside(self, other: Nesting) -> bool {
        self.hashes == other.hashes && self.indent > other.indent
    }
}

/// A line, without what printk and kselftest's runner put before it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub nesting: Nesting,
    pub item: Item,
    blank: bool,
}

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Version,
    Plan {
        count: u64,
        /// The reason of `1..0 # SKIP reason`.
        skip: Option<String>,
    },
    Subtest(String),
    BailOut(String),
    Report(Report),
    YamlBegin,
    YamlEnd,
    Diagnostic(String),
    Other,
}

/// A test's result.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub passed: bool,
    pub number: Option<u64>,
    /// The description without its directive; the number where there is none.
    pub name: String,
    directive: Option<Directive>,
    /// Text behind a `#` that is no directive, such as kselftest's `# exit=1`.
    note: Option<String>,
    has_dash: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Directive {
    /// In lower case: skip, todo, xfail, timeout, error.
    word: String,
    reason: String,
}

impl Line {
    /// Reads a line. `depth`: in how many `# ` a document is open. `nests`: whether results alone are nested by `# ` too.
    pub fn read(line: &str, depth: Option<usize>, nests: bool) -> Line {
        let line = line.trim_end();
        let mut text = &line[PRINTK.find(line).map_or(0, |prefix| prefix.end())..];
        let mut hashes = 0;
        while let Some(inner) = text.strip_prefix("# ") {
            let is_open = depth.is_some_and(|depth| depth > hashes);
            if inner.starts_with("Subtest:") || !(is_open || begins_nesting(inner, nests)) {
                break;
            }
            text = inner;
            hashes += 1;
        }
        let body = text.trim_start();
        let indent = text[..text.len() - body.len()]
            .chars()
            .map(|c| if c == '\t' { 4 } else { 1 })
            .sum();
        Line {
            nesting: Nesting { hashes, indent },
            item: item(body),
            blank: body.is_empty(),
        }
    }

    pub fn is_blank(&self) -> bool {
        self.blank
    }
}

/// Whether what follows `# ` is another document, which kselftest's runner nests so.
fn begins_nesting(inner: &str, nests: bool) -> bool {
    let inner = inner.trim_start_matches("# ").trim_start();
    let is_result = || {
        REPORT
            .captures(inner)
            .is_some_and(|found| found.get(2).is_some())
    };
    VERSION.is_match(inner) || PLAN.is_match(inner) || (nests && is_result())
}

fn item(text: &str) -> Item {
    if VERSION.is_match(text) {
        return Item::Version;
    }
    if let Some(found) = PLAN.captures(text) {
        return Item::Plan {
            count: found[1].parse().unwrap_or(u64::MAX),
            skip: found
                .get(2)
                .map(|reason| reason.as_str().trim().to_string())
                .filter(|reason| !reason.is_empty()),
        };
    }
    if let Some(found) = REPORT.captures(text) {
        return Item::Report(report(&found));
    }
    if let Some(name) = text.strip_prefix("# Subtest:") {
        return Item::Subtest(name.trim().to_string());
    }
    if let Some(diagnostic) = text.strip_prefix('#') {
        return Item::Diagnostic(diagnostic.trim().to_string());
    }
    match text.get(..9) {
        Some(head) if head.eq_ignore_ascii_case("bail out!") => {
            Item::BailOut(text[9..].trim().to_string())
        }
        _ if text == "---" || text.starts_with("--- ") => Item::YamlBegin,
        _ if text == "..." => Item::YamlEnd,
        _ => Item::Other,
    }
}

fn report(found: &regex::Captures<'_>) -> Report {
    let text = found.get(4).map_or("", |rest| rest.as_str());
    let hashes: Vec<usize> = unescaped_hashes(text).collect();
    let passed = found.get(1).is_none();
    // Behind another `#` it is part of the description, which must not excuse a failure.
    let directive = hashes
        .iter()
        .take(if passed { usize::MAX } else { 1 })
        .find_map(|at| Some((*at, DIRECTIVE.captures(&text[*at..])?)));
    let (name, directive, note) = match directive {
        Some((at, words)) => {
            let word = words.get(1).or(words.get(2)).expect("one of them matched");
            let directive = Directive {
                word: word.as_str().to_ascii_lowercase(),
                reason: words[3].trim().to_string(),
            };
            (&text[..at], Some(directive), None)
        }
        None => match hashes.iter().find(|at| is_note(text, **at)) {
            Some(at) => (&text[..*at], None, Some(text[at + 1..].trim().to_string())),
            None => (text, None, None),
        },
    };
    let name = unescaped(name.trim());
    let number = found
        .get(2)
        .map(|number| number.as_str().parse().unwrap_or(u64::MAX));
    Report {
        passed,
        name: match number {
            Some(number) if name.is_empty() => number.to_string(),
            None if name.is_empty() => "unnamed".into(),
            _ => name,
        },
        number,
        directive,
        note,
        has_dash: found.get(3).is_some(),
    }
}

/// Whether a `#` stands alone, as before a note.
fn is_note(text: &str, at: usize) -> bool {
    (at == 0 || text[..at].ends_with(char::is_whitespace))
        && text[at + 1..].starts_with(char::is_whitespace)
}

/// Where `#` stands without a backslash before it (TAP 14, "Escaping").
fn unescaped_hashes(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices('#').map(|(at, _)| at).filter(|at| {
        let backslashes = text[..*at].bytes().rev().take_while(|b| *b == b'\\');
        backslashes.count() % 2 == 0
    })
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match rest.peek() {
            Some('#' | '\\') if c == '\\' => plain.extend(rest.next()),
            _ => plain.push(c),
        }
    }
    plain
}

impl Item {
    /// Whether a document may begin with it. A result may be prose: `ok` counts with the number 1, with a dash or with a
    /// directive, `not ok` always.
    pub fn begins_a_document(&self) -> bool {
        match self {
            Item::Version | Item::Plan { .. } | Item::BailOut(_) => true,
            Item::Report(report) => {
                !report.passed
                    || report.number == Some(1)
                    || report.has_dash
                    || report.directive.is_some()
            }
            _ => false,
        }
    }
}

impl Report {
    /// The outcome with its directive, and what it says beside it. A failure is expected with TODO and XFAIL alone:
    /// `not ok … # SKIP` contradicts itself and has failed, as for TAP::Parser.
    pub fn outcome(&self) -> (Outcome, Option<String>) {
        let plain = if self.passed {
            Outcome::Pass
        } else {
            Outcome::Fail
        };
        let Some(directive) = &self.directive else {
            return (plain, self.note.clone().filter(|_| !self.passed));
        };
        let (outcome, words) = match directive.word.as_str() {
            "skip" if self.passed => (Outcome::Skip, "skipped"),
            "skip" => (Outcome::Fail, "not ok, though it was skipped"),
            "todo" | "xfail" => (Outcome::Skip, "expected to fail"),
            "timeout" => (Outcome::Fail, "timed out"),
            _ => (Outcome::Fail, "error"),
        };
        let problem = match directive.reason.as_str() {
            "" => words.to_string(),
            reason => format!("{words}: {reason}"),
        };
        (outcome, Some(problem))
    }
}
