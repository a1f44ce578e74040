//! Owns the forms of a report: JUnit XML, JSON, TAP, a text table, and an HTML page.
//! Never changes what it reports.

mod compare;
mod html;
mod junit;
mod problems;
mod table;
mod tap;

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

pub use compare::{CaseChange, CaseKind, Comparison, compare, lack};
pub use html::page;
pub use junit::junit;
pub use problems::summary;
pub use table::table;
pub use tap::tap;

use super::result::Report;
use crate::error::{Fault, InputContext};
use crate::input;

/// A form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Junit,
    Json,
    Tap,
    Html,
    Text,
}

/// The report in a form, as text.
pub fn render(report: &Report, format: Format) -> Result<String> {
    match format {
        Format::Junit => junit(report),
        Format::Json => Ok(serde_json::to_string_pretty(report)? + "\n"),
        Format::Tap => Ok(tap(report)),
        Format::Html => page(report),
        Format::Text => Ok(table(report)),
    }
}

/// Reads a `report.json`, or the one in a directory.
pub fn load(path: &Path) -> Result<Report> {
    let file = if path.is_dir() {
        path.join("report.json")
    } else {
        path.to_path_buf()
    };
    let text = input::read_text(&file)
        .with_context(|| format!("cannot read the report {}", file.display()))?;
    let report: Report = serde_json::from_str(&text)
        .input_context(|| format!("{} is not a report of hearth", file.display()))?;
    if !(1..=Report::VERSION).contains(&report.version) {
        return Err(Fault::input(format!(
            "{} is a report of version {}, and this hearth knows the versions up to {}",
            file.display(),
            report.version,
            Report::VERSION
        ))
        .remedy("read it with the hearth that wrote it, or a newer one")
        .into());
    }
    Ok(report)
}

#[cfg(test)]
pub(in crate::job) mod example {
    use super::super::{AttemptRecord, Case, Identity, Outcome, Report, Suite};
    use crate::board::{BootStage, FailureClass, RunFailure};

    pub(in crate::job) fn case(id: &str, outcome: Outcome) -> Case {
        Case {
            id: id.into(),
            outcome,
            set: None,
            measurement: None,
            units: None,
            at: 50.0,
            duration: None,
            problem: None,
            reference: None,
            output: Vec::new(),
        }
    }

    /// A report with everything in it that a form could lose.
    pub(in crate::job) fn report() -> Report {
        let measured = Case {
            measurement: Some("0.10".into()),
            units: Some("s".into()),
            duration: Some(1.5),
            ..case("boot<time>", Outcome::Pass)
        };
        let failed = Case {
            output: vec!["no & route \u{1b}[31m".into()],
            set: Some("net".into()),
            ..case("ping", Outcome::Fail)
        };
        let odd = Case {
            problem: Some("`ok` is not a result".into()),
            ..case("odd", Outcome::Unknown)
        };
        Report {
            version: 1,
            hearth: "0.1.0".into(),
            board: "neo1".into(),
            board_type: "nanopi-neo".into(),
            image: "trixie-armhf-0123456789ab".into(),
            started: "2026-11-22T21:00:00Z".into(),
            duration: 61.0,
            identity: Identity::default(),
            attempts: vec![AttemptRecord {
                stages: vec![
                    BootStage {
                        name: "bootloader".into(),
                        at: 0.0,
                        duration: 4.0,
                    },
                    BootStage {
                        name: "kernel".into(),
                        at: 4.0,
                        duration: 16.0,
                    },
                ],
                failure: None,
            }],
            suites: vec![Suite {
                name: "0_smoke".into(),
                at: 45.0,
                duration: Some(6.0),
                cases: vec![measured, failed, odd, case("later", Outcome::Skip)],
                raised: None,
                shell: None,
                problems: Vec::new(),
            }],
            problems: Vec::new(),
            warnings: vec!["the console was lost".into()],
            inputs: None,
        }
    }

    pub(in crate::job) fn broken() -> Report {
        let mut report = report();
        report.attempts[0].failure = Some(RunFailure {
            class: FailureClass::Infrastructure,
            stage: "kernel".into(),
            message: "the kernel panicked: VFS: unable to mount root".into(),
            console: vec!["Kernel panic - not syncing".into()],
        });
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::FailureClass;
    use crate::job::{Outcome, Verdict};
    use std::fs;

    /// Each alone makes a run fail, and every form has to tell it: nothing else in the report does.
    fn ways_to_fail() -> Vec<(&'static str, Report)> {
        let mut sound = example::report();
        sound.suites[0].cases = vec![example::case("one", Outcome::Pass)];
        assert_eq!(sound.verdict(), Verdict::Passed);
        let but = |change: &dyn Fn(&mut Report)| {
            let mut report = sound.clone();
            change(&mut report);
            report
        };
        vec![
            (
                "pass no more",
                but(&|report| report.suites[0].cases[0].outcome = Outcome::Fail),
            ),
            (
                "VFS: unable to mount root",
                but(&|report| report.attempts = example::broken().attempts),
            ),
            (
                "a signal without a name",
                but(&|report| report.problems.push("a signal without a name".into())),
            ),
            (
                "the installation failed",
                but(&|report| {
                    report.suites[0]
                        .problems
                        .push("the installation failed".into())
                }),
            ),
            (
                "enough of this",
                but(&|report| report.suites[0].raised = Some("enough of this".into())),
            ),
            (
                "did not run to its end",
                but(&|report| report.suites[0].duration = None),
            ),
            (
                "no test case came to a result",
                but(&|report| report.suites[0].cases.clear()),
            ),
        ]
    }

    #[test]
    fn every_form_says_that_a_run_failed_and_why() {
        for (why, report) in ways_to_fail() {
            assert_ne!(report.verdict(), Verdict::Passed, "{why}");
            let [xml, tap, html, text] = [Format::Junit, Format::Tap, Format::Html, Format::Text]
                .map(|format| render(&report, format).unwrap());
            assert!(
                xml.contains("<error ") || xml.contains("<failure "),
                "{why}: {xml}"
            );
            assert!(
                tap.contains("\nnot ok ") || tap.contains("\nBail out!"),
                "{why}: {tap}"
            );
            if why == "pass no more" {
                continue;
            }
            for form in [xml, tap, html, text] {
                assert!(form.contains(why), "{why}: {form}");
            }
        }
    }

    #[test]
    fn infrastructure_failures_are_not_test_failures() {
        assert_eq!(
            example::report().verdict(),
            Verdict::Failed(FailureClass::Test)
        );
        assert_eq!(
            example::broken().verdict(),
            Verdict::Failed(FailureClass::Infrastructure)
        );
        assert!(summary(&example::broken()).starts_with("infrastructure failure in kernel"));
    }

    #[test]
    fn a_run_without_cases_has_not_passed() {
        let mut report = example::report();
        report.suites[0].cases.clear();
        assert_eq!(report.verdict(), Verdict::Failed(FailureClass::Test));
        assert!(summary(&report).contains("no test case"));
    }

    #[test]
    fn json_is_read_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let text = render(&example::broken(), Format::Json).unwrap();
        fs::write(dir.path().join("report.json"), text).unwrap();
        assert_eq!(load(dir.path()).unwrap(), example::broken());
    }
}
