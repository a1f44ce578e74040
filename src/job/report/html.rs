//! Owns the HTML form of a report: one self-contained page with the timeline and charts of measurements.

use std::collections::BTreeMap;

use anyhow::Result;
use handlebars::Handlebars;
use serde_json::{Value, json};

use super::problems::{run_problems, suite_problems, summary};
use crate::job::inputs::RunInputs;
use crate::job::result::{Case, Report, Verdict};

const PAGE: &str = include_str!("page.html.hbs");

/// The report as a page that needs nothing else: no script, no font, no network.
pub fn page(report: &Report) -> Result<String> {
    // Handlebars escapes for HTML by default, which is what a page wants.
    let mut handlebars = Handlebars::new();
    handlebars.set_strict_mode(true);
    Ok(handlebars.render_template(PAGE, &values(report))?)
}

fn values(report: &Report) -> Value {
    let suites: Vec<Value> = report
        .suites
        .iter()
        .map(|suite| {
            json!({
                "name": suite.name,
                "passed": suite.passed(),
                "duration": suite.duration.map_or_else(|| "did not end".to_string(), |time| format!("{time:.1} s")),
                "cases": suite.cases.iter().map(case).collect::<Vec<_>>(),
                "notes": suite_problems(suite),
            })
        })
        .collect();
    let problems = [run_problems(report), report.warnings.clone()].concat();
    json!({
        "board": report.board,
        "board_type": report.board_type,
        "image": report.image,
        "started": report.started,
        "hearth": report.hearth,
        "duration": format!("{:.1}", report.duration),
        "summary": summary(report),
        "passed": report.verdict() == Verdict::Passed,
        "attempts": report.attempts.iter().map(|attempt| json!({
            "stages": bars(&attempt.stages.iter().map(|stage| (stage.name.clone(), stage.at, stage.duration)).collect::<Vec<_>>()),
            "height": 22 * attempt.stages.len(),
        })).collect::<Vec<_>>(),
        "console": report.failure().map(|failure| failure.console.join("\n")).unwrap_or_default(),
        "suites": suites,
        "problems": problems,
        "charts": charts(report),
        "inputs": report.inputs.as_ref().map(inputs),
    })
}

/// Rows of what the run was made of: what it is, its name, its SHA-256.
fn inputs(inputs: &RunInputs) -> Value {
    let row = |what: &str, name: &str, sha256: &str| json!({ "what": what, "name": name, "sha256": sha256 });
    let booted = inputs.booted.iter();
    let mut rows: Vec<Value> = booted
        .map(|file| row(&file.part, &file.file, &file.sha256))
        .collect();
    for given in &inputs.sources {
        rows.push(row(
            &format!("given {}", given.part),
            &given.path,
            &given.sha256,
        ));
    }
    rows.push(row("recipe", &inputs.recipe.name, &inputs.recipe.sha256));
    if let Some(lock) = &inputs.lock {
        rows.push(row("lock", &lock.name, &lock.sha256));
    }
    for definition in &inputs.definitions {
        let commit = definition
            .revision
            .iter()
            .map(|commit| format!(" at {commit}"));
        let name = definition.source.clone() + &commit.collect::<String>();
        rows.push(row("definition", &name, &definition.sha256));
    }
    for parameter in &inputs.settings.parameters {
        rows.push(row("parameter", parameter, ""));
    }
    json!({ "rows": rows })
}

fn case(case: &Case) -> Value {
    json!({
        "id": case.id,
        "set": case.set.as_deref().unwrap_or_default(),
        "outcome": case.outcome.name(),
        "measurement": case.measurement.as_ref().map(|measurement| {
            format!("{measurement} {}", case.units.as_deref().unwrap_or_default())
        }).unwrap_or_default(),
        "problem": case.problem.as_deref().unwrap_or_default(),
        "output": case.output.join("\n"),
    })
}

/// Horizontal bars on a common time axis of 600 units: name, start and length in seconds.
fn bars(spans: &[(String, f64, f64)]) -> Vec<Value> {
    let end = spans
        .iter()
        .map(|(_, at, length)| at + length)
        .fold(0.001, f64::max);
    spans
        .iter()
        .enumerate()
        .map(|(row, (name, at, length))| {
            json!({
                "name": name,
                "x": format!("{:.1}", 110.0 + 600.0 * at / end),
                "y": 22 * row,
                "text_y": 22 * row + 14,
                "width": format!("{:.1}", (600.0 * length / end).max(1.0)),
                "length": format!("{length:.1} s"),
            })
        })
        .collect()
}

/// One chart for each unit, since bars of differing units cannot be compared.
fn charts(report: &Report) -> Vec<Value> {
    let mut by_units: BTreeMap<&str, Vec<(String, f64)>> = BTreeMap::new();
    for case in report.suites.iter().flat_map(|suite| &suite.cases) {
        let number = case
            .measurement
            .as_ref()
            .and_then(|text| text.parse::<f64>().ok());
        if let Some(number) = number.filter(|number| number.is_finite()) {
            by_units
                .entry(case.units.as_deref().unwrap_or_default())
                .or_default()
                .push((case.id.clone(), number));
        }
    }
    by_units
        .into_iter()
        .map(|(units, measured)| {
            let largest = measured
                .iter()
                .map(|(_, number)| number.abs())
                .fold(f64::MIN_POSITIVE, f64::max);
            let rows: Vec<Value> = measured
                .iter()
                .enumerate()
                .map(|(row, (id, number))| {
                    json!({
                        "id": id,
                        "y": 22 * row,
                        "text_y": 22 * row + 14,
                        "width": format!("{:.1}", 420.0 * number.abs() / largest),
                        "number": format!("{number}"),
                    })
                })
                .collect();
            json!({ "units": units, "height": 22 * rows.len(), "rows": rows })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn the_page_is_whole_and_escapes_what_the_board_said() {
        let page = page(&example::broken()).unwrap();
        assert!(page.contains("boot&lt;time&gt;"), "{page}");
        assert!(page.contains("0.10 s"));
        assert!(page.contains("Kernel panic - not syncing"));
        assert!(!page.contains("<script") && !page.contains("src="));
        assert_eq!(page.matches("<svg").count(), 2);
    }
}
