//! Owns the text form of a report, for a terminal of 80 columns.

use crate::job::{Case, Report};

/// The report as text: timeline, cases, verdict.
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{} ({})  {}\n\n",
        report.board, report.board_type, report.image
    );
    for (index, attempt) in report.attempts.iter().enumerate() {
        if report.attempts.len() > 1 {
            text.push_str(&format!("attempt {}\n", index + 1));
        }
        for stage in &attempt.stages {
            text.push_str(&format!("  {:12} {:7.1} s\n", stage.name, stage.duration));
        }
    }
    for suite in &report.suites {
        text.push_str(&format!("\n{}\n", suite.name));
        for case in &suite.cases {
            text.push_str(&case_line(case));
        }
        for problem in &suite.problems {
            text.push_str(&format!("  !        {problem}\n"));
        }
        if let Some(message) = &suite.raised {
            text.push_str(&format!("  raised   {message}\n"));
        }
        if suite.duration.is_none() {
            text.push_str("  !        did not run to its end\n");
        }
    }
    for problem in &report.problems {
        text.push_str(&format!("\n! {problem}\n"));
    }
    for warning in &report.warnings {
        text.push_str(&format!("\nwarning: {warning}\n"));
    }
    if let Some(failure) = report.failure()
        && !failure.console.is_empty()
    {
        text.push_str("\nthe console's last lines:\n");
        for line in &failure.console {
            text.push_str(&format!("  | {line}\n"));
        }
    }
    text.push_str(&format!("\n{}\n", super::summary(report)));
    text
}

fn case_line(case: &Case) -> String {
    let name = match &case.set {
        Some(set) => format!("{set}/{}", case.id),
        None => case.id.clone(),
    };
    let mut line = format!("  {:8} {name}", case.outcome);
    if let Some(measurement) = &case.measurement {
        line.push_str(&format!(
            "  {measurement} {}",
            case.units.as_deref().unwrap_or_default()
        ));
    }
    if let Some(problem) = &case.problem {
        line.push_str(&format!("\n           {problem}"));
    }
    line.trim_end().to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

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
