//! Owns the reasons for which a run failed, the same in every form of a report.
//! Never words a form.

use crate::job::result::{Outcome, Report, Suite, Verdict};

/// What went wrong with a suite as a whole, which no case of it shows.
pub(super) fn suite_problems(suite: &Suite) -> Vec<String> {
    let raised = suite.raised.iter().map(|said| format!("raised: {said}"));
    let mut problems: Vec<String> = suite.problems.iter().cloned().chain(raised).collect();
    if suite.duration.is_none() {
        problems.push("the test definition did not run to its end".into());
    }
    problems
}

/// What went wrong with the run as a whole, beside its failure ([`Report::failure`]): no suite shows it.
pub(super) fn run_problems(report: &Report) -> Vec<String> {
    let mut problems = report.problems.clone();
    let no_case = report.suites.iter().all(|suite| suite.cases.is_empty());
    if no_case && report.failure().is_none() {
        problems.push("no test case came to a result".into());
    }
    problems
}

/// The verdict in one line: `passed: 12 passed, 1 skipped`.
pub fn summary(report: &Report) -> String {
    let mut counts: Vec<String> = [
        (Outcome::Pass, "passed"),
        (Outcome::Fail, "failed"),
        (Outcome::Skip, "skipped"),
        (Outcome::Unknown, "unknown"),
    ]
    .iter()
    .filter_map(|(outcome, word)| match report.count(*outcome) {
        0 => None,
        count => Some(format!("{count} {word}")),
    })
    .collect();
    if counts.is_empty() {
        counts.push("no test case reported".into());
    }
    let verdict = match (report.verdict(), report.failure()) {
        (Verdict::Passed, _) => "passed".to_string(),
        (_, Some(failure)) => format!(
            "{} failure in {}: {}",
            failure.class.name(),
            failure.stage,
            failure.message
        ),
        (Verdict::Failed(_), None) => "failed".to_string(),
    };
    format!("{verdict}: {}", counts.join(", "))
}
