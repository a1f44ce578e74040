//! Owns what LAVA's own dispatcher would report of a console log, for `--strict-lava`: what it drops is dropped.
//! Never reads TAP, and never judges a run: see `collector`.
//!
//! Format: LAVA 2023.01, `lava_dispatcher/actions/test/shell.py` and `connection.py`, over pexpect: of all patterns
//! the one that begins first counts, and all up to its end is forgotten.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use super::pattern::{Groups, Pattern};
use super::python;
use super::result::{Case, Outcome, Suite};
use super::signal::outcome;

/// How much of what came last is searched, in bytes: its `searchwindowsize`.
const WINDOW: usize = 4000;
/// The case that hearth's runner adds, where LAVA leaves no trace, for steps that failed.
const RUN_STEPS: &str = "run-steps";

static SIGNAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"<LAVA_TEST_RUNNER (?P<runner>EXIT|INSTALL_FAIL)>|<LAVA_SIGNAL_(?P<name>\S+) (?P<words>[^>]+)>",
    )
    .expect("the pattern is a constant")
});
/// What `decimal.Decimal` takes once every `_` is gone.
static DECIMAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|inf(?:inity)?|nan[0-9]*)$",
    )
    .expect("the pattern is a constant")
});

/// A reader of console lines that finds what LAVA finds.
#[derive(Debug, Default)]
pub struct Dispatcher {
    patterns: BTreeMap<String, Pattern>,
    /// The suite whose pattern is in use.
    pattern: Option<String>,
    pub suites: Vec<Suite>,
    pub problems: Vec<String>,
    is_running: bool,
    set: Option<String>,
    buffer: String,
    /// Whether it reads no more: at the runner's end, or because the dispatcher would have given up.
    is_over: bool,
    pub exited: bool,
}

/// Why the dispatcher ends the job.
type GivesUp = &'static str;

impl Dispatcher {
    /// `patterns`: the `parse` sections of the definitions, by their suite's name.
    pub fn new(patterns: BTreeMap<String, Pattern>) -> Self {
        Dispatcher {
            patterns,
            ..Dispatcher::default()
        }
    }

    /// Takes one line; `at` is the time in seconds since the run began. `shell`: of the suite that begins.
    pub fn line(&mut self, line: &str, at: f64, shell: &mut Option<String>) {
        if self.is_over {
            self.exited |= line.contains("<LAVA_TEST_RUNNER EXIT>");
            return;
        }
        self.buffer.push_str(line.trim_end_matches('\r'));
        self.buffer.push('\n');
        while !self.is_over {
            let taken = match self.step(at, shell) {
                Ok(Some(taken)) => taken,
                Ok(None) => break,
                Err(reason) => {
                    self.problems
                        .push(format!("LAVA's dispatcher ends the job here: {reason}"));
                    self.is_over = true;
                    break;
                }
            };
            self.buffer.drain(..taken);
        }
        let surplus = self.buffer.len().saturating_sub(WINDOW);
        let surplus = (surplus..=self.buffer.len()).find(|at| self.buffer.is_char_boundary(*at));
        self.buffer.drain(..surplus.unwrap_or(0));
    }

    /// Finds what comes first, and tells how many bytes are done with.
    fn step(&mut self, at: f64, shell: &mut Option<String>) -> Result<Option<usize>, GivesUp> {
        let signal = SIGNAL.captures(&self.buffer);
        let starts = signal
            .as_ref()
            .and_then(|found| found.get(0))
            .map(|whole| whole.start());
        let pattern = self
            .pattern
            .as_ref()
            .and_then(|suite| self.patterns.get(suite));
        let groups = match pattern {
            Some(pattern) if pattern.is_empty() => return Err("`parse.pattern` is empty"),
            Some(pattern) => pattern.search(&self.buffer),
            None => None,
        };
        if let Some(groups) = groups
            && starts.is_none_or(|start| groups.start < start)
        {
            let fixed = match (&groups.result, pattern) {
                (Some(Some(word)), Some(pattern)) => Some(pattern.fixed(word).to_string()),
                _ => None,
            };
            let taken = groups.end;
            self.matched(groups, fixed, at)?;
            return Ok(Some(taken));
        }
        let Some(found) = signal else {
            return Ok(None);
        };
        let taken = found.get(0).map_or(0, |whole| whole.end());
        if let Some(word) = found.name("runner") {
            match word.as_str() {
                "EXIT" => (self.exited, self.is_over) = (true, true),
                _ => self.problem("an installation step failed"),
            }
            return Ok(Some(taken));
        }
        let name = found["name"].to_string();
        let words: Vec<String> = found["words"]
            .split_whitespace()
            .map(String::from)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.signal(&name, &words, at, shell)?;
        Ok(Some(taken))
    }

    fn signal(
        &mut self,
        name: &str,
        words: &[&str],
        at: f64,
        shell: &mut Option<String>,
    ) -> Result<(), GivesUp> {
        match (name, words) {
            ("STARTRUN", [suite, _, ..]) => {
                self.suites.push(Suite {
                    name: (*suite).to_string(),
                    at,
                    shell: shell.take(),
                    ..Suite::default()
                });
                self.is_running = true;
                if self.patterns.contains_key(*suite) {
                    self.pattern = Some((*suite).to_string());
                }
            }
            ("ENDRUN", [_, _, ..]) => {
                self.pattern = None;
                if let Some(suite) = self.suites.last_mut()
                    && std::mem::take(&mut self.is_running)
                {
                    suite.duration = Some(at - suite.at);
                }
            }
            ("STARTRUN" | "ENDRUN", _) => return Err("a STARTRUN or ENDRUN without an id"),
            ("STARTTC" | "ENDTC" | "TESTCASE" | "TESTFEEDBACK" | "TESTSET", []) => {
                return Err("a signal without words");
            }
            ("TESTCASE", words) => self.case(words, at)?,
            ("TESTSET", ["START"]) => return Err("a set without a name"),
            ("TESTSET", ["START", name, ..]) => self.set = Some((*name).to_string()),
            ("TESTSET", ["STOP", ..]) => self.set = None,
            ("TESTREFERENCE", [id, word, url]) => {
                let set = self.set.clone();
                self.push(id, word, set, at, |case| {
                    case.reference = Some((*url).to_string());
                });
            }
            ("TESTREFERENCE", _) => return Err("a TESTREFERENCE that has not three words"),
            ("TESTRAISE", words) => {
                if let Some(suite) = self.suites.last_mut() {
                    suite.raised = Some(words.join(" "));
                }
                return Err("a definition raised an error");
            }
            _ => {}
        }
        Ok(())
    }

    fn case(&mut self, words: &[&str], at: f64) -> Result<(), GivesUp> {
        if self.suites.is_empty() {
            return Err("a test case before any STARTRUN");
        }
        let mut values: BTreeMap<String, &str> = BTreeMap::new();
        for word in words {
            let mut parts = word.split('=');
            let (Some(key), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
                return Ok(());
            };
            values.insert(key.to_lowercase(), value);
        }
        let value = |key: &str| values.get(key).copied();
        let (Some(id), Some(word)) = (value("test_case_id"), value("result")) else {
            return Ok(());
        };
        let pattern = self
            .pattern
            .as_ref()
            .and_then(|suite| self.patterns.get(suite));
        let word = match pattern {
            Some(pattern) => pattern.fixed(word).to_string(),
            // Without a `parse` section these words are LAVA's own.
            None if ["PASS", "FAIL", "SKIP", "UNKNOWN"].contains(&word) => word.to_lowercase(),
            None => word.to_string(),
        };
        let measurement = match value("measurement").map(measurement) {
            Some(None) => return Ok(()),
            Some(Some(number)) => Some(number?),
            None => None,
        };
        if Outcome::from_str(&word).is_err() {
            return Ok(());
        }
        if id == RUN_STEPS {
            self.problem("a step failed and ended it");
            return Ok(());
        }
        let units = value("units").filter(|_| measurement.is_some());
        let units = units.map(String::from);
        let set = self.set.clone();
        self.push(id, &word, set, at, |case| {
            case.measurement = measurement;
            case.units = units;
        });
        Ok(())
    }

    /// A match of a definition's pattern; `fixed`: its result as `fixupdict` has it.
    fn matched(&mut self, groups: Groups, fixed: Option<String>, at: f64) -> Result<(), GivesUp> {
        let Some(result) = groups.result else {
            return Err("`parse.pattern` has no group `result`");
        };
        let Some(id) = groups.id else {
            return Err("a match of `parse.pattern` without a test case");
        };
        if id.trim().contains(' ') {
            return Ok(());
        }
        let number = match groups.measurement {
            None => None,
            Some(None) => return Err("a match of `parse.pattern` without a measurement"),
            Some(Some(text)) => Some(measurement(&text).ok_or("a match with a bad measurement")??),
        };
        let word = fixed.or(result).unwrap_or_else(|| "None".into());
        let units = groups.units.flatten().filter(|_| number.is_some());
        self.push(&id, &word, None, at, |case| {
            case.measurement = number;
            case.units = units;
        });
        Ok(())
    }

    fn push(
        &mut self,
        id: &str,
        word: &str,
        set: Option<String>,
        at: f64,
        fill: impl FnOnce(&mut Case),
    ) {
        // It reports the word as it is; a report knows four.
        let outcome = outcome(word);
        let problem = outcome
            .is_err()
            .then(|| format!("LAVA's dispatcher reports the result `{word}`"));
        let mut case = Case {
            id: id.into(),
            outcome: outcome.unwrap_or(Outcome::Unknown),
            set,
            measurement: None,
            units: None,
            at,
            duration: None,
            problem,
            reference: None,
            output: Vec::new(),
        };
        fill(&mut case);
        match self.suites.last_mut() {
            Some(suite) => suite.cases.push(case),
            None => self.suites.push(Suite {
                name: "lava".into(),
                at,
                cases: vec![case],
                ..Suite::default()
            }),
        }
    }

    fn problem(&mut self, text: &str) {
        match self.suites.last_mut() {
            Some(suite) => suite.problems.push(text.into()),
            None => self.problems.push(text.into()),
        }
    }
}

/// `float(Decimal(text))` as Python shows it; `None` for what is no number, which drops a case.
fn measurement(text: &str) -> Option<Result<String, GivesUp>> {
    let text = text.replace('_', "").to_ascii_lowercase();
    let unsigned = text.trim_start_matches(['-', '+']);
    if unsigned.starts_with("snan") {
        return Some(Err("a measurement that is a signalling NaN"));
    }
    if !DECIMAL.is_match(&text) {
        return None;
    }
    let value = if unsigned.starts_with("nan") {
        f64::NAN
    } else {
        text.parse().ok()?
    };
    Some(Ok(python::float(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_what_decimal_makes_of_them() {
        for (text, expected) in [
            ("1e3", Some("1000.0")),
            ("1__0_", Some("10.0")),
            ("5.", Some("5.0")),
            ("-inf", Some("-inf")),
            ("NaN123", Some("nan")),
            ("1e400", Some("inf")),
            ("", None),
            ("1,5", None),
            ("0x10", None),
        ] {
            let found = measurement(text).map(|number| number.unwrap());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert!(measurement("sNaN").unwrap().is_err());
    }

    #[test]
    fn it_reads_nothing_after_the_end_or_an_error() {
        let mut dispatcher = Dispatcher::default();
        for line in [
            "<LAVA_SIGNAL_STARTRUN 0_t u>",
            "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a RESULT=pass>",
            "<LAVA_SIGNAL_TESTREFERENCE r pass>",
            "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=b RESULT=pass>",
            "<LAVA_TEST_RUNNER EXIT>",
        ] {
            dispatcher.line(line, 0.0, &mut None);
        }
        assert_eq!(dispatcher.suites[0].cases.len(), 1);
        assert_eq!(dispatcher.suites[0].duration, None);
        assert_eq!(dispatcher.problems.len(), 1);
        assert!(dispatcher.exited);
    }
}
