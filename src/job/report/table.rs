//! Owns the text form of a report, for a terminal of 80 columns.

use super::problems::{run_problems, suite_problems, summary};
use crate::job::result::{Case, Report};
use crate::sanitise;

/// The report as text: timeline, cases, verdict.
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{} ({})  {}\n\n",
        sanitise::line(&report.board),
        sanitise::line(&report.board_type),
        sanitise::line(&report.image)
    );
    for (index, attempt) in report.attempts.iter().enumerate() {
        if report.attempts.len() > 1 {
            text.push_str(&format!("attempt {}\n", index + 1));
        }
        for stage in &attempt.stages {
            text.push_str(&format!(
                "  {:12} {:7.1} s\n",
                sanitise::line(&stage.name),
                stage.duration
            ));
        }
    }
    for suite in &report.suites {
        text.push_str(&format!("\n{}\n", sanitise::line(&suite.name)));
        for case in &suite.cases {
            text.push_str(&case_line(case));
        }
        for problem in suite_problems(suite) {
            text.push_str(&format!("  !        {}\n", sanitise::line(&problem)));
        }
    }
    for problem in run_problems(report) {
        text.push_str(&format!("\n! {}\n", sanitise::line(&problem)));
    }
    for warning in &report.warnings {
        text.push_str(&format!("\nwarning: {}\n", sanitise::line(warning)));
    }
    if let Some(failure) = report.failure()
        && !failure.console.is_empty()
    {
        text.push_str("\nthe console's last lines:\n");
        for line in &failure.console {
            text.push_str(&format!("  | {}\n", sanitise::line(line)));
        }
    }
    text.push_str(&format!("\n{}\n", sanitise::line(&summary(report))));
    text
}

fn case_line(case: &Case) -> String {
    let name = case.full_name();
    let mut line = format!("  {:8} {}", case.outcome, sanitise::line(&name));
    if let Some(measurement) = &case.measurement {
        let units = case.units.as_deref().unwrap_or_default();
        let measured = format!("{measurement} {units}");
        line.push_str(&format!("  {}", sanitise::line(&measured)));
    }
    if let Some(problem) = &case.problem {
        line.push_str(&format!("\n           {}", sanitise::line(problem)));
    }
    line.trim_end().to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn what_the_board_said_neither_controls_the_terminal_nor_forges_a_line() {
        let mut report = example::broken();
        let hostile = "x\n  pass     forged\x1b[2K\u{202e}\u{9b}".to_string();
        report.suites[0].cases[0].id = hostile.clone();
        report.suites[0].cases[0].problem = Some(hostile.clone());
        report.suites[0].cases[0].units = Some(hostile.clone());
        report.problems.push(hostile.clone());
        report.warnings.push(hostile);
        for text in [table(&report), super::super::tap::tap(&report)] {
            assert!(text.chars().all(|c| c == '\n' || !sanitise::is_unsafe(c)));
            assert!(
                !text
                    .lines()
                    .any(|line| line.starts_with("  pass     forged"))
            );
        }
    }

    #[test]
    fn it_shows_stages_cases_and_the_verdict() {
        let text = table(&example::report());
        for part in [
            "  bootloader       4.0 s",
            "  pass     boot<time>  0.10 s",
            "  fail     net/ping",
            "warning: the console was lost",
            "failed: 1 passed, 1 failed, 1 skipped, 1 unknown",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
