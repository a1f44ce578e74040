//! Owns how lines of a board's output become results. Never waits, and never decides when a run is over.

use std::collections::{BTreeMap, VecDeque};

use super::dispatcher::Dispatcher;
use super::ktap::{Ktap, KtapCase};
use super::pattern::Pattern;
use super::result::{Case, Outcome, Suite};
use super::signal::{
    BadSignal, CaseSignal, CaseWords, Parsed, Piece, Signal, has_signal, outcome, pieces, scan,
    unfinished,
};

/// How many lines of a case's output a report keeps.
const OUTPUT_LINES: usize = 50;

/// Reads lines in the order in which the board printed them, and keeps the results.
///
/// The same collector serves a run under way and a console log of another lab.
#[derive(Debug, Default)]
pub struct Collector {
    suites: Vec<Suite>,
    problems: Vec<String>,
    /// Patterns of definitions that have one, by the suite's name.
    patterns: BTreeMap<String, Pattern>,
    /// Index of the suite that runs, if one does.
    current: Option<usize>,
    set: Option<String>,
    open_case: Option<(String, f64)>,
    output: VecDeque<String>,
    ktap: Ktap,
    /// A signal without its end, which the next line may bring.
    held: Option<Held>,
    /// The suites that the job has.
    expected: Vec<String>,
    /// The shell that the runner named for the suite that begins next.
    shell: Option<String>,
    /// Reads in this one's place if only what LAVA's dispatcher would report is wanted.
    dispatcher: Option<Dispatcher>,
    /// Cases that the pattern found in lines of a TAP document, which may report them too.
    matched: Vec<(String, Outcome)>,
    exited: bool,
}

/// A signal that a line end may have split.
#[derive(Debug)]
struct Held {
    /// What stood on its first line.
    opening: String,
    /// The lines after that.
    following: Vec<String>,
}

/// How far from its beginning a signal may end, in bytes: LAVA's dispatcher sees that far.
const LONGEST: usize = 4000;

impl Collector {
    /// `patterns`: the `parse` sections of the definitions, by their suite's name (`0_smoke`). `expected`: all suites of
    /// the job; one that does not run is reported as such.
    pub fn new(patterns: BTreeMap<String, Pattern>, expected: Vec<String>) -> Self {
        Collector {
            patterns,
            expected,
            ..Collector::default()
        }
    }

    /// Reports what LAVA's dispatcher (2023.01) would and nothing else: no KTAP, and nothing malformed.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        if strict {
            self.dispatcher = Some(Dispatcher::new(std::mem::take(&mut self.patterns)));
        }
        self
    }

    /// Takes one line; `at` is the time in seconds since the run began.
    pub fn line(&mut self, line: &str, at: f64) {
        if let Some(shell) = shell(line) {
            self.shell = Some(shell.to_string());
        }
        if let Some(dispatcher) = &mut self.dispatcher {
            return dispatcher.line(line, at, &mut self.shell);
        }
        match self.held.take() {
            Some(held) => self.resume(held, line, at),
            None => self.fresh(line, at),
        }
    }

    fn fresh(&mut self, line: &str, at: f64) {
        let Some(open) = unfinished(line) else {
            return self.whole(line, at);
        };
        let before = &line[..line.len() - open.len()];
        if !before.trim().is_empty() {
            self.whole(before, at);
        }
        self.held = Some(Held {
            opening: open.trim_end().to_string(),
            following: Vec::new(),
        });
    }

    /// Looks for the rest of a signal in the next line, as LAVA's dispatcher does, which reads over line ends.
    fn resume(&mut self, mut held: Held, line: &str, at: f64) {
        let end = line.find('>');
        let length = held.opening.len() + held.following.iter().map(String::len).sum::<usize>();
        if !has_signal(line) && end.is_none() && length + line.len() < LONGEST {
            held.following.push(line.to_string());
            self.held = Some(held);
            return;
        }
        let before_next = end.filter(|end| !has_signal(&line[..*end]));
        if let Some(end) = before_next {
            let following = held.following.join(" ");
            let joined = format!("{} {following} {}", held.opening, &line[..=end]);
            if let [Parsed::Signal(_)] = scan(&joined)[..] {
                self.whole(&joined, at);
                let rest = &line[end + 1..];
                if !rest.trim().is_empty() {
                    self.fresh(rest, at);
                }
                return;
            }
        }
        self.give_up(held, at);
        self.fresh(line, at);
    }

    /// The signal was torn: what followed it was output of its own.
    fn give_up(&mut self, held: Held, at: f64) {
        self.whole(&held.opening, at);
        for line in held.following {
            self.plain(&line, at);
        }
    }

    /// A line in which no signal is to be continued.
    fn whole(&mut self, line: &str, at: f64) {
        if !has_signal(line) {
            self.plain(line, at);
            return;
        }
        for piece in pieces(line) {
            match piece {
                // A program that ends no line before its step reports.
                Piece::Text(text) => self.plain(text, at),
                Piece::Signal(parsed) => {
                    if let Some(pattern) = self.pattern() {
                        pattern.reset();
                    }
                    match parsed {
                        Parsed::Signal(signal) => self.signal(signal, at),
                        Parsed::Bad(bad) => self.bad(bad, at),
                    }
                }
            }
        }
    }

    /// The pattern of the suite that runs.
    fn pattern(&mut self) -> Option<&mut Pattern> {
        let suite = &self.suites[self.current?];
        self.patterns.get_mut(&suite.name)
    }

    /// Whether the runner said that it did everything it was given.
    pub fn exited(&self) -> bool {
        self.exited || self.dispatcher.as_ref().is_some_and(|lava| lava.exited)
    }

    /// The cases so far, for a live view.
    pub fn suites(&self) -> &[Suite] {
        self.dispatcher
            .as_ref()
            .map_or(&self.suites, |lava| &lava.suites)
    }

    /// Ends the reading. A suite without its end signal keeps no duration, and so does not pass.
    pub fn finish(mut self, at: f64) -> (Vec<Suite>, Vec<String>) {
        if let Some(lava) = self.dispatcher.take() {
            (self.suites, self.problems, self.exited) = (lava.suites, lava.problems, lava.exited);
        }
        if let Some(held) = self.held.take() {
            self.give_up(held, at);
        }
        self.end_ktap(at);
        if let Some((id, begun)) = self.open_case.take() {
            let case = Case {
                duration: Some(at - begun),
                problem: Some("the case began and did not end".into()),
                ..self.case(id, Outcome::Unknown, at)
            };
            self.push(case);
        }
        self.tell_absent(at);
        (self.suites, self.problems)
    }

    /// A suite that was asked for and did not run is no success. A job that never began fails for another reason.
    fn tell_absent(&mut self, at: f64) {
        let ran = |name: &String| self.suites.iter().any(|suite| suite.name == *name);
        if !self.exited && !self.expected.iter().any(ran) {
            return;
        }
        let absent: Vec<String> = self
            .expected
            .iter()
            .filter(|name| !ran(name))
            .cloned()
            .collect();
        for name in absent {
            self.suites.push(Suite {
                name,
                at,
                problems: vec!["it was asked for and did not run".into()],
                ..Suite::default()
            });
        }
    }

    fn signal(&mut self, signal: Signal, at: f64) {
        match signal {
            Signal::StartRun { name, .. } => self.start_run(name, at),
            Signal::EndRun { name, .. } => self.end_run(&name, at),
            Signal::StartCase { id } => {
                self.output.clear();
                self.open_case = Some((id, at));
            }
            // The result follows in a signal of its own.
            Signal::EndCase { .. } => self.end_ktap(at),
            Signal::Case(words) => self.case_words(&words, at),
            Signal::SetStart { name } => self.set = Some(name),
            Signal::SetStop => self.set = None,
            Signal::Reference { id, word, url } => {
                let (outcome, problem) = match outcome(&word) {
                    Ok(outcome) => (outcome, None),
                    Err(problem) => (Outcome::Unknown, Some(problem)),
                };
                let case = Case {
                    reference: Some(url),
                    problem,
                    ..self.case(id, outcome, at)
                };
                self.push(case);
            }
            Signal::Raise { message } => match self.current {
                Some(current) => self.suites[current].raised = Some(message),
                None => self
                    .problems
                    .push(format!("raised outside a test: {message}")),
            },
            Signal::RunnerExit => self.exited = true,
            Signal::InstallFail => match self.current {
                Some(current) => self.suites[current]
                    .problems
                    .push("an installation step failed".into()),
                None => self.problems.push("an installation step failed".into()),
            },
            Signal::Ignored => {}
        }
    }

    fn start_run(&mut self, name: String, at: f64) {
        self.end_ktap(at);
        self.set = None;
        self.open_case = None;
        self.suites.push(Suite {
            name,
            at,
            shell: self.shell.take(),
            ..Suite::default()
        });
        self.current = Some(self.suites.len() - 1);
    }

    fn end_run(&mut self, name: &str, at: f64) {
        self.end_ktap(at);
        match self.current.take() {
            Some(current) if self.suites[current].name == name => {
                let suite = &mut self.suites[current];
                suite.duration = Some(at - suite.at);
            }
            _ => self
                .problems
                .push(format!("the end of a test that did not begin: {name}")),
        }
    }

    /// A result as a signal has it, in the words of the definition's program.
    fn case_words(&mut self, words: &CaseWords, at: f64) {
        let pattern = self
            .current
            .and_then(|current| self.patterns.get(&self.suites[current].name));
        let read = words.read(|word| pattern.map_or(word, |pattern| pattern.fixed(word)));
        match read {
            Ok(case) => self.result(case, None, at),
            Err(reason) => self.bad(
                BadSignal {
                    case: Some(words.id.clone()),
                    raw: format!("RESULT={}", words.word),
                    reason,
                },
                at,
            ),
        }
    }

    /// A line without a signal: KTAP, or what the definition's pattern knows, or just output.
    fn plain(&mut self, line: &str, at: f64) {
        // A definition's own pattern sees all lines, as in LAVA.
        let found = match self.pattern() {
            Some(pattern) => pattern.line(line),
            None => Vec::new(),
        };
        let tap = self.ktap.line(line);
        if tap.is_some() {
            let cases = found.iter().flatten();
            self.matched
                .extend(cases.map(|case| (case.id.clone(), case.outcome)));
        }
        for found in found {
            match found {
                Ok(case) => self.result(case, None, at),
                Err((id, reason)) => self.bad(
                    BadSignal {
                        case: id,
                        reason,
                        raw: line.into(),
                    },
                    at,
                ),
            }
        }
        for case in tap.into_iter().flatten() {
            self.ktap_case(case, at);
        }
        if !self.ktap.is_open() {
            self.matched.clear();
        }
        self.output.push_back(line.trim_end().to_string());
        if self.output.len() > OUTPUT_LINES {
            self.output.pop_front();
        }
    }

    fn bad(&mut self, bad: BadSignal, at: f64) {
        let problem = format!("{}: {}", bad.reason, bad.raw.trim());
        match bad.case {
            Some(id) => {
                let case = CaseSignal {
                    id,
                    outcome: Outcome::Unknown,
                    measurement: None,
                    units: None,
                };
                self.result(case, Some(problem), at);
            }
            None => self.problems.push(problem),
        }
    }

    fn result(&mut self, signal: CaseSignal, problem: Option<String>, at: f64) {
        let mut case = Case {
            measurement: signal.measurement,
            units: signal.units,
            problem,
            ..self.case(signal.id, signal.outcome, at)
        };
        if let Some((_, begun)) = self.open_case.take_if(|(id, _)| *id == case.id) {
            case.duration = Some(at - begun);
        }
        // A passed case's output is in the log; a failed one's belongs beside it.
        if case.outcome == Outcome::Fail && case.duration.is_some() {
            case.output = self.output.iter().cloned().collect();
        }
        self.push(case);
    }

    fn ktap_case(&mut self, ktap: KtapCase, at: f64) {
        let known = (ktap.id.clone(), ktap.outcome);
        if let Some(index) = self.matched.iter().position(|matched| *matched == known) {
            self.matched.swap_remove(index);
            return;
        }
        let case = Case {
            problem: ktap.problem,
            output: ktap.output,
            ..self.case(ktap.id, ktap.outcome, at)
        };
        self.push(case);
    }

    fn end_ktap(&mut self, at: f64) {
        for case in self.ktap.finish() {
            self.ktap_case(case, at);
        }
        self.matched.clear();
    }

    fn case(&self, id: String, outcome: Outcome, at: f64) -> Case {
        Case {
            id,
            outcome,
            set: self.set.clone(),
            measurement: None,
            units: None,
            at,
            duration: None,
            problem: None,
            reference: None,
            output: Vec::new(),
        }
    }

    /// Adds a case to the suite that runs; outside any, to the suite `boot`: the kernel reports there.
    fn push(&mut self, case: Case) {
        let index = self.current.unwrap_or_else(|| {
            self.suites
                .iter()
                .position(|suite| suite.name == "boot")
                .unwrap_or_else(|| {
                    self.suites.push(Suite {
                        name: "boot".into(),
                        at: case.at,
                        duration: Some(0.0),
                        ..Suite::default()
                    });
                    self.suites.len() - 1
                })
        });
        self.suites[index].cases.push(case);
    }
}

/// The shell that hearth's runner names for the suite that begins next.
fn shell(line: &str) -> Option<&str> {
    let (suite, shell) = line.split_once(" runs under ")?;
    suite.starts_with("hearth: ").then(|| shell.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(lines: &str) -> (Vec<Suite>, Vec<String>) {
        let mut collector = Collector::default();
        for (second, line) in lines.lines().enumerate() {
            collector.line(line, second as f64);
        }
        collector.finish(lines.lines().count() as f64)
    }

    #[test]
    fn cases_go_to_their_suite_and_set_with_times_and_output() {
        let (suites, problems) = collect(
            "<LAVA_SIGNAL_STARTRUN 0_smoke 1>
<LAVA_SIGNAL_TESTSET START net>
<LAVA_SIGNAL_STARTTC ping>
no route to host
<LAVA_SIGNAL_ENDTC ping>
<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=ping RESULT=fail>
<LAVA_SIGNAL_TESTSET STOP>
<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=b RESULT=pass UNITS=s MEASUREMENT=0.10>
<LAVA_SIGNAL_ENDRUN 0_smoke 1>
<LAVA_TEST_RUNNER EXIT>",
        );
        assert!(problems.is_empty());
        let suite = &suites[0];
        assert_eq!((suite.at, suite.duration), (0.0, Some(8.0)));
        assert_eq!(suite.cases[0].set.as_deref(), Some("net"));
        assert_eq!(suite.cases[0].duration, Some(3.0));
        assert_eq!(suite.cases[0].output, ["no route to host"]);
        assert_eq!(suite.cases[1].set, None);
        assert_eq!(suite.cases[1].measurement.as_deref(), Some("0.10"));
        assert!(!suite.passed());
    }

    #[test]
    fn nothing_malformed_is_dropped() {
        let (suites, problems) = collect(
            "<LAVA_SIGNAL_STARTRUN 0_a 1>
<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=x RESULT=ok>
<LAVA_SIGNAL_NONSENSE y>
<LAVA_SIGNAL_STARTTC never-ends>",
        );
        assert_eq!(suites[0].count(Outcome::Unknown), 2);
        assert_eq!(suites[0].duration, None);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("unknown signal NONSENSE"));
    }

    #[test]
    fn a_pattern_reads_tap_too_and_the_same_result_counts_once() {
        let pattern = |pattern: &str| {
            let fixups = [("ok", "pass"), ("not ok", "fail")]
                .map(|(word, result)| (word.to_string(), result.to_string()));
            let pattern = Pattern::new(pattern, fixups.into()).unwrap();
            let mut collector = Collector::new([("0_a".to_string(), pattern)].into(), Vec::new());
            for line in [
                "<LAVA_SIGNAL_STARTRUN 0_a 1>",
                "TAP version 13",
                "1..2",
                "ok 1 - link",
                "not ok 2 - ping",
                "<LAVA_SIGNAL_ENDRUN 0_a 1>",
            ] {
                collector.line(line, 0.0);
            }
            let cases = collector.finish(1.0).0.remove(0).cases;
            cases
                .into_iter()
                .map(|case| format!("{}={}", case.id, case.outcome))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            pattern(r"^(?P<result>ok|not ok) \d+ - (?P<test_case_id>\S+)$"),
            ["link=pass", "ping=fail"]
        );
        assert_eq!(
            pattern(r"^(?P<result>ok|not ok) (?P<test_case_id>\d+)"),
            ["1=pass", "link=pass", "2=fail", "ping=fail"]
        );
    }

    #[test]
    fn ktap_counts_in_a_test_and_at_boot() {
        let (suites, _) = collect(
            "KTAP version 1
1..1
ok 1 early
<LAVA_SIGNAL_STARTRUN 0_a 1>
TAP version 13
1..2
ok 1 late
<LAVA_SIGNAL_ENDRUN 0_a 1>",
        );
        assert_eq!(suites[0].name, "boot");
        assert_eq!(suites[0].cases[0].id, "early");
        assert_eq!(suites[1].cases[0].id, "late");
        assert_eq!(suites[1].cases[1].outcome, Outcome::Fail);
    }
}
