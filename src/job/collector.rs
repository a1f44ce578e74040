//! Owns how lines of a board's output become results. Never waits, and never decides when a run is over.

use std::collections::{BTreeMap, VecDeque};

use super::ktap::{Ktap, KtapCase};
use super::pattern::Pattern;
use super::result::{Case, Outcome, Suite};
use super::signal::{BadSignal, CaseSignal, Parsed, Signal, scan};

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
    exited: bool,
}

impl Collector {
    /// `patterns`: the `parse` sections of the definitions, by their suite's name (`0_smoke`).
    pub fn new(patterns: BTreeMap<String, Pattern>) -> Self {
        Collector {
            patterns,
            ..Collector::default()
        }
    }

    /// Takes one line; `at` is the time in seconds since the run began.
    pub fn line(&mut self, line: &str, at: f64) {
        let signals = scan(line);
        if signals.is_empty() {
            self.plain(line, at);
            return;
        }
        for signal in signals {
            match signal {
                Parsed::Signal(signal) => self.signal(signal, at),
                Parsed::Bad(bad) => self.bad(bad, at),
            }
        }
    }

    /// Whether the runner said that it did everything it was given.
    pub fn exited(&self) -> bool {
        self.exited
    }

    /// The cases so far, for a live view.
    pub fn suites(&self) -> &[Suite] {
        &self.suites
    }

    /// Ends the reading. A suite without its end signal keeps no duration, and so does not pass.
    pub fn finish(mut self, at: f64) -> (Vec<Suite>, Vec<String>) {
        self.end_ktap(at);
        if let Some((id, begun)) = self.open_case.take() {
            let case = Case {
                duration: Some(at - begun),
                problem: Some("the case began and did not end".into()),
                ..self.case(id, Outcome::Unknown, at)
            };
            self.push(case);
        }
        (self.suites, self.problems)
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
            Signal::Case(case) => self.result(case, None, at),
            Signal::SetStart { name } => self.set = Some(name),
            Signal::SetStop => self.set = None,
            Signal::Reference { id, outcome, url } => {
                let case = Case {
                    reference: Some(url),
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

    /// A line without a signal: KTAP, or what the definition's pattern knows, or just output.
    fn plain(&mut self, line: &str, at: f64) {
        let tap = self.ktap.line(line);
        let is_tap = tap.is_some();
        for case in tap.into_iter().flatten() {
            self.ktap_case(case, at);
        }
        if !is_tap
            && let Some(current) = self.current
            && let Some(pattern) = self.patterns.get(&self.suites[current].name)
        {
            match pattern.find(line) {
                Some(Ok(case)) => self.result(case, None, at),
                Some(Err((id, problem))) => {
                    self.bad(
                        BadSignal {
                            case: Some(id),
                            reason: problem,
                            raw: line.into(),
                        },
                        at,
                    );
                }
                None => {}
            }
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
