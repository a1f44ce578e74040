//! Owns the TAP form of a report. Format: TAP version 14.

use super::problems::{run_problems, suite_problems};
use crate::job::result::{Outcome, Report};
use crate::sanitise;

/// The report as TAP; measurements are diagnostics of their case. What went wrong with a suite or with the run is a
/// test point of its own: a consumer looks at these alone.
pub fn tap(report: &Report) -> String {
    let cases: Vec<_> = report
        .suites
        .iter()
        .flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)))
        .collect();
    let of_suites = report.suites.iter().flat_map(|suite| {
        let name = format!("{}.definition", suite.name);
        suite_problems(suite)
            .into_iter()
            .map(move |problem| (name.clone(), problem))
    });
    let of_run = run_problems(report)
        .into_iter()
        .map(|problem| ("hearth.run".to_string(), problem));
    let problems: Vec<_> = of_suites.chain(of_run).collect();
    let mut text = format!("TAP version 14\n1..{}\n", cases.len() + problems.len());
    for (index, (suite, case)) in cases.iter().enumerate() {
        let ok = if matches!(case.outcome, Outcome::Pass | Outcome::Skip) {
            "ok"
        } else {
            "not ok"
        };
        let name = escaped(&format!("{}.{}", suite.name, case.id));
        text.push_str(&format!("{ok} {} - {name}", index + 1));
        if case.outcome == Outcome::Skip {
            text.push_str(" # SKIP");
        }
        text.push('\n');
        if let Some(measurement) = &case.measurement {
            let units = case.units.as_deref().unwrap_or_default();
            let measured = format!("{measurement} {units}");
            text.push_str(&format!("# measurement: {}\n", sanitise::line(&measured)));
        }
        if let Some(problem) = &case.problem {
            text.push_str(&format!("# {}\n", sanitise::line(problem)));
        }
    }
    for (index, (name, problem)) in (cases.len() + 1..).zip(&problems) {
        text.push_str(&format!(
            "not ok {index} - {}\n# {}\n",
            escaped(name),
            sanitise::line(problem)
        ));
    }
    for warning in &report.warnings {
        text.push_str(&format!("# warning: {}\n", sanitise::line(warning)));
    }
    if let Some(failure) = report.failure() {
        text.push_str(&format!(
            "Bail out! {} failure in {}: {}\n",
            failure.class.name(),
            failure.stage,
            sanitise::line(&failure.message)
        ));
    }
    text
}

/// `#` begins a directive and `\` an escape.
fn escaped(name: &str) -> String {
    sanitise::line(name)
        .replace('\\', r"\\")
        .replace('#', r"\#")
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn the_plan_counts_and_unknown_is_not_ok() {
        let text = tap(&example::broken());
        assert!(text.starts_with(
            "TAP version 14\n1..4\nok 1 - 0_smoke.boot<time>\n# measurement: 0.10 s\nnot ok 2"
        ));
        assert!(text.contains(
            "not ok 3 - 0_smoke.odd\n# `ok` is not a result\nok 4 - 0_smoke.later # SKIP\n"
        ));
        assert!(text.ends_with("VFS: unable to mount root\n"));
    }
}
