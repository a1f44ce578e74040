//! Owns how the comparison of two runs is told to people.

use std::fmt::Write;

use hearth::job::Outcome;
use hearth::job::report::{CaseChange, CaseKind, Comparison, summary};
use hearth::ops::reports::Compared;
use hearth::sanitise;

use super::changes;
use super::table::Table;

/// What changed, a paragraph for each kind; the verdict over it last.
pub fn text(compared: &Compared) -> String {
    let comparison = &compared.comparison;
    let mut text = String::new();
    for (sign, report) in [("-", &compared.before), ("+", &compared.after)] {
        let line = format!(
            "{sign} {}  {}  {}  {}",
            report.started,
            report.board,
            report.image,
            summary(report)
        );
        let _ = writeln!(text, "{}", sanitise::line(&line));
    }
    for (title, body) in [
        ("Cases", cases(&comparison.cases)),
        ("Measurements", measurements(comparison)),
        ("Boot", stages(comparison)),
        ("Booted", hashes(comparison)),
        ("Settings", settings(comparison)),
        ("Packages", packages(comparison)),
    ] {
        if !body.is_empty() {
            let _ = write!(text, "\n{title}\n{}", indented(&body));
        }
    }
    for note in &comparison.notes {
        let _ = write!(text, "\nnote: {}\n", sanitise::line(note));
    }
    text += match comparison.regression {
        true => "\nregression: something passed before and does not any more\n",
        false => "\nno regression\n",
    };
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn cases(changes: &[CaseChange]) -> String {
    let mut table = Table::new([""; 3]).without_heading();
    for change in changes {
        let kind = match change.kind {
            CaseKind::Broken => "broken",
            CaseKind::Fixed => "fixed",
            CaseKind::Changed => "changed",
            CaseKind::Added => "added",
            CaseKind::Removed => "removed",
        };
        let name = |outcome: Option<Outcome>| outcome.map_or("-", Outcome::name);
        table.row([
            kind,
            &format!("{}/{}", change.suite, change.case),
            &format!("{} → {}", name(change.before), name(change.after)),
        ]);
    }
    table.to_string()
}

fn measurements(comparison: &Comparison) -> String {
    let mut table = Table::new([""; 3]).without_heading();
    for change in &comparison.measurements {
        let percent = change.percent.map(|percent| format!("{percent:+.1} %"));
        let units = change.units.as_deref().unwrap_or_default();
        table.row([
            &format!("{}/{}", change.suite, change.case),
            &format!("{} → {} {units}", change.before, change.after),
            &percent.unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn stages(comparison: &Comparison) -> String {
    let mut table = Table::new([""; 3]).without_heading();
    for change in &comparison.stages {
        let seconds = |time: Option<f64>| time.map_or("-".into(), |time| format!("{time:.1} s"));
        let difference = match (change.before, change.after) {
            (Some(before), Some(after)) => format!("{:+.1} s", after - before),
            _ => String::new(),
        };
        let times = format!("{} → {}", seconds(change.before), seconds(change.after));
        table.row([&change.stage, &times, &difference]);
    }
    table.to_string()
}

fn hashes(comparison: &Comparison) -> String {
    let mut table = Table::new([""; 2]).without_heading();
    let definitions = comparison.definitions.iter();
    let definitions = definitions.map(|change| (format!("definition {}", change.what), change));
    let booted = comparison.booted.iter();
    for (what, change) in booted
        .map(|change| (change.what.clone(), change))
        .chain(definitions)
    {
        let short = |hash: &Option<String>| {
            let hash = hash.as_deref().unwrap_or("-");
            hash.get(..12).unwrap_or(hash).to_string()
        };
        let hashes = format!("{} → {}", short(&change.before), short(&change.after));
        table.row([&what, &hashes]);
    }
    table.to_string()
}

fn settings(comparison: &Comparison) -> String {
    let mut table = Table::new([""; 2]).without_heading();
    for change in &comparison.settings {
        let shown = |text: &str| match text {
            "" => "-".to_string(),
            text => text.to_string(),
        };
        let values = format!("{} → {}", shown(&change.before), shown(&change.after));
        table.row([&change.what, &values]);
    }
    table.to_string()
}

fn packages(comparison: &Comparison) -> String {
    comparison
        .packages
        .as_deref()
        .map(changes::text)
        .unwrap_or_default()
}
