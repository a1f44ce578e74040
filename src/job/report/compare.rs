//! Owns what changed between two runs: cases, measurements, the boot's stages, what was booted.
//! Never words it for people, and reads no file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::job::judgement::without_number;
use crate::job::result::{Case, Outcome, Report, Suite, Verdict};
use crate::recipe::{Change, Lock};

/// The case that stands for a suite's own end, as in the JUnit form.
const SUITE_ITSELF: &str = "definition";

/// All that differs between two runs.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Whether something passed before and does not any more.
    pub regression: bool,
    pub cases: Vec<CaseChange>,
    pub measurements: Vec<MeasurementChange>,
    /// All stages of the last attempts, also those that took as long as before.
    pub stages: Vec<StageChange>,
    pub booted: Vec<HashChange>,
    pub definitions: Vec<HashChange>,
    pub settings: Vec<SettingChange>,
    /// None where a report has no lock.
    pub packages: Option<Vec<Change>>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

/// How a case has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseKind {
    /// It passed or was skipped, and does not now.
    Broken,
    /// It passes now.
    Fixed,
    /// Another outcome that is neither, such as skipped instead of passed.
    Changed,
    Added,
    Removed,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseChange {
    pub kind: CaseKind,
    /// Without its number where that is not needed.
    pub suite: String,
    pub case: String,
    pub before: Option<Outcome>,
    pub after: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasurementChange {
    pub suite: String,
    pub case: String,
    pub units: Option<String>,
    /// As the board wrote it.
    pub before: String,
    pub after: String,
    /// Of the one before; none where that is 0 or no number.
    pub percent: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageChange {
    pub stage: String,
    /// Seconds; none where the run did not get there.
    pub before: Option<f64>,
    pub after: Option<f64>,
}

/// Something that is known by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashChange {
    pub what: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// A part of the command or the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    pub what: String,
    pub before: String,
    pub after: String,
}

/// What differs between the runs; `locks` are theirs, where they are kept.
pub fn compare(before: &Report, after: &Report, locks: Option<(&Lock, &Lock)>) -> Comparison {
    let shorten = is_short_clear(before) && is_short_clear(after);
    let (old, new) = (outcomes(before, shorten), outcomes(after, shorten));
    let cases = case_changes(&old, &new);
    let passed = |report: &Report| report.verdict() == Verdict::Passed;
    let broken = cases.iter().any(|case| case.kind == CaseKind::Broken);
    let stopped = after.failure().is_some() && before.failure().is_none();
    let (booted, definitions) = (booted(before), definitions(before, shorten));
    Comparison {
        regression: broken || stopped || (passed(before) && !passed(after)),
        cases,
        measurements: measurements(before, after, shorten),
        stages: stages(before, after),
        booted: hash_changes(&booted, &self::booted(after)),
        definitions: hash_changes(&definitions, &self::definitions(after, shorten)),
        settings: setting_changes(before, after),
        packages: locks.map(|(old, new)| old.changes(new)),
        notes: notes(before, after, locks.is_some()),
    }
}

/// Whether the suites are told apart without their numbers, which change when a definition is added before them.
fn is_short_clear(report: &Report) -> bool {
    let names: BTreeSet<&str> = report
        .suites
        .iter()
        .map(|suite| without_number(&suite.name))
        .collect();
    names.len() == report.suites.len()
}

fn suite_name(suite: &Suite, shorten: bool) -> String {
    match shorten {
        true => without_number(&suite.name).into(),
        false => suite.name.clone(),
    }
}

/// A case: its suite, its name, and which one of several with that name.
type CaseKey = (String, String, usize);

fn cases(report: &Report, shorten: bool) -> BTreeMap<CaseKey, &Case> {
    let mut found = BTreeMap::new();
    for suite in &report.suites {
        for case in &suite.cases {
            let mut key = (suite_name(suite, shorten), case.full_name(), 0);
            while found.contains_key(&key) {
                key.2 += 1;
            }
            found.insert(key, case);
        }
    }
    found
}

/// The outcome of each case, and of each suite itself: whether it ran to its end.
fn outcomes(report: &Report, shorten: bool) -> BTreeMap<CaseKey, Outcome> {
    let cases = cases(report, shorten).into_iter();
    let mut found: BTreeMap<_, _> = cases.map(|(key, case)| (key, case.outcome)).collect();
    for suite in &report.suites {
        let ended = suite.duration.is_some() && suite.raised.is_none();
        let outcome = match ended && suite.problems.is_empty() {
            true => Outcome::Pass,
            false => Outcome::Unknown,
        };
        let key = (suite_name(suite, shorten), SUITE_ITSELF.to_string(), 0);
        found.entry(key).or_insert(outcome);
    }
    found
}

fn case_changes(
    old: &BTreeMap<CaseKey, Outcome>,
    new: &BTreeMap<CaseKey, Outcome>,
) -> Vec<CaseChange> {
    let keys: BTreeSet<&CaseKey> = old.keys().chain(new.keys()).collect();
    let mut changes: Vec<CaseChange> = keys
        .into_iter()
        .filter_map(|key| {
            let (before, after) = (old.get(key).copied(), new.get(key).copied());
            Some(CaseChange {
                kind: kind(before, after)?,
                suite: key.0.clone(),
                case: match key.2 {
                    0 => key.1.clone(),
                    earlier => format!("{} ({})", key.1, earlier + 1),
                },
                before,
                after,
            })
        })
        .collect();
    changes.sort_by_key(|change| change.kind);
    changes
}

fn kind(before: Option<Outcome>, after: Option<Outcome>) -> Option<CaseKind> {
    let is_bad = |outcome| matches!(outcome, Outcome::Fail | Outcome::Unknown);
    match (before, after) {
        (None, None) => None,
        (None, Some(_)) => Some(CaseKind::Added),
        (Some(_), None) => Some(CaseKind::Removed),
        (Some(before), Some(after)) if before == after => None,
        (Some(before), Some(after)) => Some(match (is_bad(before), is_bad(after)) {
            (false, true) => CaseKind::Broken,
            (true, false) if after == Outcome::Pass => CaseKind::Fixed,
            _ => CaseKind::Changed,
        }),
    }
}

fn measurements(before: &Report, after: &Report, shorten: bool) -> Vec<MeasurementChange> {
    let new = cases(after, shorten);
    cases(before, shorten)
        .into_iter()
        .filter_map(|(key, old)| {
            let new = new.get(&key)?;
            let (then, now) = (old.measurement.as_ref()?, new.measurement.as_ref()?);
            if then == now && old.units == new.units {
                return None;
            }
            let percent = (old.units == new.units).then(|| percent(then, now));
            Some(MeasurementChange {
                suite: key.0,
                case: key.1,
                units: new.units.clone(),
                before: then.clone(),
                after: now.clone(),
                percent: percent.flatten(),
            })
        })
        .collect()
}

fn percent(before: &str, after: &str) -> Option<f64> {
    let number = |text: &str| text.parse().ok().filter(|number: &f64| number.is_finite());
    let (before, after): (f64, f64) = (number(before)?, number(after)?);
    let percent = 100.0 * (after - before) / before.abs();
    percent.is_finite().then_some(percent)
}

/// The stages of the last attempts, in the order of the boot.
fn stages(before: &Report, after: &Report) -> Vec<StageChange> {
    let of = |report: &Report| -> Vec<(String, f64)> {
        let last = report.attempts.last();
        let stages = last.into_iter().flat_map(|attempt| &attempt.stages);
        stages
            .map(|stage| (stage.name.clone(), stage.duration))
            .collect()
    };
    let (old, new) = (of(before), of(after));
    let find = |stages: &[(String, f64)], name: &str| {
        let mut stages = stages.iter();
        stages
            .find(|(stage, _)| stage == name)
            .map(|(_, time)| *time)
    };
    let longer = if new.len() > old.len() { &new } else { &old };
    longer
        .iter()
        .map(|(stage, _)| StageChange {
            stage: stage.clone(),
            before: find(&old, stage),
            after: find(&new, stage),
        })
        .collect()
}

fn booted(report: &Report) -> BTreeMap<String, String> {
    let files = report.inputs.iter().flat_map(|inputs| &inputs.booted);
    files
        .map(|file| (format!("{} {}", file.part, file.file), file.sha256.clone()))
        .collect()
}

fn definitions(report: &Report, shorten: bool) -> BTreeMap<String, String> {
    let used = report.inputs.iter().flat_map(|inputs| &inputs.definitions);
    used.map(|definition| {
        let suite = match shorten {
            true => without_number(&definition.suite),
            false => &definition.suite,
        };
        (suite.to_string(), definition.sha256.clone())
    })
    .collect()
}

fn hash_changes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<HashChange> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| HashChange {
            what: key.clone(),
            before: old.get(key).cloned(),
            after: new.get(key).cloned(),
        })
        .collect()
}

fn setting_changes(before: &Report, after: &Report) -> Vec<SettingChange> {
    let of = |report: &Report| -> Vec<(&str, String)> {
        let mut all = vec![
            ("board", report.board.clone()),
            ("board type", report.board_type.clone()),
            ("image", report.image.clone()),
            ("hearth", report.hearth.clone()),
        ];
        if let Some(inputs) = &report.inputs {
            let commit = |definition: &crate::job::inputs::UsedDefinition| {
                Some(format!(
                    "{}@{}",
                    definition.suite,
                    definition.revision.as_ref()?
                ))
            };
            let commits: Vec<String> = inputs.definitions.iter().filter_map(commit).collect();
            all.extend([
                ("recipe", inputs.recipe.sha256.clone()),
                ("parameters", inputs.settings.parameters.join(" ")),
                (
                    "kernel arguments",
                    inputs.settings.kernel_arguments.join(" "),
                ),
                ("revisions", commits.join(" ")),
            ]);
        }
        all
    };
    let new = of(after);
    of(before)
        .into_iter()
        .filter_map(|(what, before)| {
            let (_, after) = new.iter().find(|(known, _)| *known == what)?;
            (before != *after).then(|| SettingChange {
                what: what.into(),
                before,
                after: after.clone(),
            })
        })
        .collect()
}

fn notes(before: &Report, after: &Report, locks: bool) -> Vec<String> {
    let mut notes = Vec::new();
    for (which, report) in [("first", before), ("second", after)] {
        if let Some(lack) = lack(report) {
            notes.push(format!("the {which} report {lack}"));
        }
    }
    if notes.is_empty() && !locks {
        notes.push("packages are not compared: not both reports have a lock".into());
    }
    notes
}

/// What a report does not tell because an older hearth wrote it.
pub fn lack(report: &Report) -> Option<String> {
    report.inputs.is_none().then(|| {
        format!(
            "is of version {}, by hearth {}: it names neither what was booted nor the definitions, and `hearth rerun` \
             cannot run it",
            report.version, report.hearth
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::example::{broken, case, report};
    use super::*;
    use crate::job::inputs::{BootedFile, RunInputs};

    fn with(cases: Vec<Case>) -> Report {
        let mut report = report();
        report.suites[0].cases = cases;
        report
    }

    fn told(comparison: &Comparison) -> Vec<String> {
        let kind = |kind| format!("{kind:?}").to_lowercase();
        let cases = comparison.cases.iter();
        cases
            .map(|change| format!("{} {}/{}", kind(change.kind), change.suite, change.case))
            .collect()
    }

    #[test]
    fn each_kind_of_change_is_told_and_a_regression_is_what_passed_before() {
        let before = with(vec![
            case("worse", Outcome::Pass),
            case("better", Outcome::Fail),
            case("odd", Outcome::Skip),
            case("gone", Outcome::Pass),
            case("less", Outcome::Pass),
            case("same", Outcome::Fail),
        ]);
        let after = with(vec![
            case("worse", Outcome::Unknown),
            case("better", Outcome::Pass),
            case("odd", Outcome::Fail),
            case("new", Outcome::Fail),
            case("less", Outcome::Skip),
            case("same", Outcome::Fail),
        ]);
        let comparison = compare(&before, &after, None);
        assert_eq!(
            told(&comparison),
            [
                "broken smoke/odd",
                "broken smoke/worse",
                "fixed smoke/better",
                "changed smoke/less",
                "added smoke/new",
                "removed smoke/gone",
            ]
        );
        assert!(comparison.regression);
        assert!(told(&compare(&before, &before, None)).is_empty());
        assert!(!compare(&before, &before, None).regression);
        let fixed = with(vec![case("better", Outcome::Pass)]);
        assert!(!compare(&before, &fixed, None).regression);
    }

    #[test]
    fn a_run_that_ended_early_is_a_regression_though_no_case_failed() {
        let good = with(vec![case("a", Outcome::Pass)]);
        let mut stopped = broken();
        stopped.suites.clear();
        let comparison = compare(&good, &stopped, None);
        assert!(comparison.regression, "{comparison:?}");
        let mut torn = good.clone();
        torn.suites[0].duration = None;
        let comparison = compare(&good, &torn, None);
        assert_eq!(told(&comparison), ["broken smoke/definition"]);
        assert!(comparison.regression);
        assert!(!compare(&torn, &good, None).regression);
    }

    #[test]
    fn a_suite_keeps_its_name_when_another_is_put_before_it() {
        let before = with(vec![case("a", Outcome::Pass)]);
        let mut after = with(vec![case("a", Outcome::Fail)]);
        after.suites[0].name = "1_smoke".into();
        assert_eq!(told(&compare(&before, &after, None)), ["broken smoke/a"]);
        // Two of one name can only be told by their numbers.
        let mut twice = before.clone();
        twice.suites.push(after.suites[0].clone());
        let comparison = compare(&before, &twice, None);
        assert_eq!(
            told(&comparison),
            ["added 1_smoke/a", "added 1_smoke/definition"]
        );
    }

    #[test]
    fn the_same_case_twice_is_compared_one_by_one() {
        let before = with(vec![case("a", Outcome::Pass), case("a", Outcome::Pass)]);
        let after = with(vec![case("a", Outcome::Pass), case("a", Outcome::Fail)]);
        assert_eq!(
            told(&compare(&before, &after, None)),
            ["broken smoke/a (2)"]
        );
    }

    #[test]
    fn measurements_have_per_cent_where_that_means_something() {
        let measured = |value: &str, units: &str| {
            let measured = Case {
                measurement: Some(value.into()),
                units: Some(units.into()),
                ..case("m", Outcome::Pass)
            };
            with(vec![measured])
        };
        let percent = |before: &Report, after: &Report| {
            let found = compare(before, after, None).measurements;
            found.first().map(|change| change.percent)
        };
        let two = measured("2.0", "s");
        assert_eq!(percent(&two, &measured("3.0", "s")), Some(Some(50.0)));
        assert_eq!(
            percent(&measured("-2", "C"), &measured("-1", "C")),
            Some(Some(50.0))
        );
        assert_eq!(percent(&two, &two), None);
        assert_eq!(percent(&two, &measured("2000", "ms")), Some(None));
        assert_eq!(percent(&measured("0", "s"), &two), Some(None));
    }

    #[test]
    fn what_was_booted_is_compared_by_hash_and_an_old_report_says_what_it_lacks() {
        let with = |sha256: &str| Report {
            version: 2,
            inputs: Some(RunInputs {
                booted: vec![BootedFile {
                    part: "kernel".into(),
                    file: "vmlinuz".into(),
                    sha256: sha256.into(),
                }],
                ..RunInputs::default()
            }),
            ..report()
        };
        let comparison = compare(&with("a"), &with("b"), None);
        let change = HashChange {
            what: "kernel vmlinuz".into(),
            before: Some("a".into()),
            after: Some("b".into()),
        };
        assert_eq!(comparison.booted, [change]);
        assert_eq!(comparison.packages, None);
        let notes = compare(&report(), &with("b"), None).notes;
        assert!(
            notes[0].contains("the first report is of version 1"),
            "{notes:?}"
        );
    }

    #[test]
    fn stages_are_those_of_the_last_attempts() {
        let mut slow = report();
        slow.attempts[0].stages[1].duration = 20.0;
        slow.attempts[0].stages.remove(0);
        let stages = compare(&report(), &slow, None).stages;
        let told: Vec<_> = stages
            .iter()
            .map(|stage| (stage.stage.as_str(), stage.before, stage.after))
            .collect();
        assert_eq!(
            told,
            [
                ("bootloader", Some(4.0), None),
                ("kernel", Some(16.0), Some(20.0))
            ]
        );
    }
}
