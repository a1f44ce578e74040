//! Console logs with LAVA's signals, and patterns of definitions, against LAVA's own dispatcher: what `--strict-lava`
//! gives is what its code found (`fixtures/lava/NAME.lava`), and what hearth gives by itself has all of that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hearth::job::{Case, Collector, Definition, Suite};

/// For logs without a definition of their own.
const PLAIN: &str = "metadata: {format: Lava-Test Test Definition 1.0, name: t}\nrun: {steps: [x]}";

fn logs() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("fixtures/lava")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .collect();
    found.sort();
    assert!(found.len() > 30, "{found:?}");
    found
}

/// The suites and problems of a log.
fn collect(log: &Path, strict: bool) -> (Vec<Suite>, Vec<String>) {
    let text = fs::read_to_string(log.with_extension("yaml")).unwrap_or_else(|_| PLAIN.into());
    let (definition, _) = Definition::parse(Path::new("t.yaml"), &text).unwrap();
    let patterns: BTreeMap<_, _> = definition
        .pattern
        .map(|pattern| ("0_t".to_string(), pattern))
        .into_iter()
        .collect();
    let mut collector = Collector::new(patterns, vec!["0_t".into()]).strict(strict);
    for line in fs::read_to_string(log).unwrap().lines() {
        collector.line(line, 0.0);
    }
    collector.finish(1.0)
}

/// A case as `record.py` writes it: `ID=RESULT measurement=… units=… set=… reference=…`.
fn shown(case: &Case) -> String {
    let word = match &case.problem {
        Some(problem) => problem
            .strip_prefix("LAVA's dispatcher reports the result `")
            .map_or(case.outcome.name().into(), |word| {
                word.trim_end_matches('`').to_lowercase()
            }),
        None => case.outcome.name().to_string(),
    };
    let mut line = format!("{}={word}", case.id);
    for (name, value) in [
        ("measurement", &case.measurement),
        ("units", &case.units),
        ("set", &case.set),
        ("reference", &case.reference),
    ] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    line
}

fn cases(suites: &[Suite]) -> Vec<String> {
    let cases = suites.iter().flat_map(|suite| &suite.cases);
    cases.map(shown).collect()
}

#[test]
fn strict_lists_are_what_lavas_own_code_finds() {
    for log in logs() {
        let recorded = fs::read_to_string(log.with_extension("lava")).unwrap();
        let (expected, errors): (Vec<&str>, Vec<&str>) =
            recorded.lines().partition(|line| !line.starts_with("! "));
        let (suites, problems) = collect(&log, true);
        assert_eq!(cases(&suites), expected, "{}", log.display());
        assert_eq!(
            problems.len(),
            errors.len(),
            "{}: {problems:?}",
            log.display()
        );
    }
}

#[test]
fn lists_of_hearths_own_are_as_documented() {
    for log in logs() {
        let (suites, problems) = collect(&log, false);
        let told: Vec<String> = problems
            .iter()
            .chain(suites.iter().flat_map(|suite| &suite.problems))
            .map(|problem| format!("! {problem}"))
            .collect();
        let lines = [cases(&suites), told].concat();
        let expected = fs::read_to_string(log.with_extension("hearth")).unwrap();
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(lines, expected, "{}", log.display());
    }
}

#[test]
fn no_case_of_lavas_is_missing_and_none_is_better() {
    for log in logs() {
        let (strict, _) = collect(&log, true);
        let (own, problems) = collect(&log, false);
        let own: Vec<&Case> = own.iter().flat_map(|suite| &suite.cases).collect();
        for theirs in strict.iter().flat_map(|suite| &suite.cases) {
            let id = theirs.id.trim().replace(' ', "-");
            let ours = own.iter().find(|case| case.id == id);
            // A case without a name is a problem of the run.
            let Some(ours) = ours else {
                assert!(
                    id.is_empty() && !problems.is_empty(),
                    "{}: {id}",
                    log.display()
                );
                continue;
            };
            assert!(
                ours.outcome == theirs.outcome || ours.problem.is_some(),
                "{}: {ours:?} {theirs:?}",
                log.display()
            );
        }
    }
}
