//! Tests of the steps between two sets of packages; the resolver, which knows nothing of them, is the judge.

use deb822_fast::borrowed::parse_borrowed;
use proptest::prelude::*;

use super::super::index::Index;
use super::super::resolve::{Request, resolve};
use super::*;

/// A package `NAME VERSION` with these fields.
fn package(name: &str, fields: &str) -> Package {
    let (name, version) = name.split_once(' ').unwrap();
    let text = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: armhf\n{fields}\nFilename: pool/x.deb\nSize: 1\nSHA256: {}\n",
        "0".repeat(64)
    );
    let text = text.replace("\n\n", "\n");
    let paragraphs = parse_borrowed(&text).unwrap();
    Package::read(&paragraphs[0], None).unwrap()
}

/// A package that goes from version 1 to version 2, with the fields of each.
fn change(name: &str, old: &str, new: &str) -> Difference {
    Difference {
        old: Some(package(&format!("{name} 1"), old)),
        new: Some(package(&format!("{name} 2"), new)),
    }
}

/// Whether the resolver takes the mixture with these differences taken over.
fn installs(common: &[Package], differences: &[Difference], taken: &BTreeSet<usize>) -> bool {
    let mut index = Index::default();
    let chosen =
        differences
            .iter()
            .enumerate()
            .filter_map(|(number, both)| match taken.contains(&number) {
                true => both.new.clone(),
                false => both.old.clone(),
            });
    let mut roots = Vec::new();
    for package in common.iter().cloned().chain(chosen) {
        roots.push(package.name.to_string());
        index.insert(package);
    }
    let request = Request {
        arch: "armhf".into(),
        roots,
        ..Request::default()
    };
    resolve(&index, &request).is_ok()
}

#[test]
fn what_depends_on_nothing_that_changes_is_a_step_of_its_own() {
    let differences = [change("a", "", "Depends: c"), change("b", "", "")];
    let common = [package("c 1", "")];
    assert_eq!(steps(&common, &differences), [vec![0], vec![1]]);
}

#[test]
fn what_needs_a_newer_version_comes_after_it() {
    let differences = [
        change("app", "", "Depends: lib (>= 2)"),
        change("lib", "", ""),
    ];
    assert_eq!(steps(&[], &differences), [vec![1], vec![0]]);
}

#[test]
fn what_needs_the_very_version_of_another_goes_with_it() {
    let differences = [
        change("lib", "", ""),
        change("dev", "Depends: lib (= 1)", "Depends: lib (= 2)"),
        change("other", "", ""),
    ];
    assert_eq!(steps(&[], &differences), [vec![2], vec![0, 1]]);
}

#[test]
fn a_package_that_comes_or_goes_is_a_difference_as_well() {
    let renamed = [
        Difference {
            old: Some(package("liba1 1", "")),
            new: None,
        },
        Difference {
            old: None,
            new: Some(package("liba2 1", "")),
        },
        change("app", "Depends: liba1", "Depends: liba2"),
    ];
    // It comes, then its user takes it, then the old one goes.
    assert_eq!(steps(&[], &renamed), [vec![1], vec![2], vec![0]]);
}

#[test]
fn conflicts_and_virtual_packages_are_minded() {
    let differences = [
        change("new", "", "Breaks: old (<< 2)"),
        change("old", "", ""),
        Difference {
            old: Some(package("exim 1", "Provides: mta\nConflicts: mta")),
            new: None,
        },
        Difference {
            old: None,
            new: Some(package("postfix 1", "Provides: mta\nConflicts: mta")),
        },
    ];
    let common = [package("mail 1", "Depends: mta")];
    assert_eq!(steps(&common, &differences), [vec![1], vec![0], vec![2, 3]]);
}

/// One way in which version `v` of a package can need or break another that is in the same set at version `v`.
fn relation(kind: u8, other: &str, version: u8) -> String {
    match (kind, version) {
        (0, _) => format!("Depends: {other}"),
        (1, v) => format!("Depends: {other} (= {v})"),
        (2, v) => format!("Depends: {other} (>= {v})"),
        (3, v) => format!("Depends: {other} (<= {v})"),
        (4, 2) => format!("Breaks: {other} (<< 2)"),
        (4, _) => format!("Breaks: {other} (>> 1)"),
        (_, v) => format!("Depends: nowhere | {other} (>= {v})"),
    }
}

/// For each package: what it is in the two sets (both, old only, new only), and for each version a relation to another.
type Shape = Vec<(u8, [(u8, usize); 2])>;

fn differences(shape: &Shape) -> Vec<Difference> {
    let count = shape.len();
    let is_in = |number: usize, version: u8| match shape[number].0 {
        1 => version == 1,
        2 => version == 2,
        _ => true,
    };
    let made = |number: usize, version: u8| {
        let (kind, other) = shape[number].1[usize::from(version) - 1];
        let other = other % count;
        let fields = match other != number && kind < 6 && is_in(other, version) {
            true => relation(kind, &format!("p{other}"), version),
            false => String::new(),
        };
        is_in(number, version).then(|| package(&format!("p{number} {version}"), &fields))
    };
    let of = |number| Difference {
        old: made(number, 1),
        new: made(number, 2),
    };
    (0..count).map(of).collect()
}

proptest! {
    #[test]
    fn after_every_step_the_resolver_is_content_and_no_step_can_be_split(
        shape in prop::collection::vec(
            (0..5_u8, [(0..10_u8, 0..12_usize), (0..10_u8, 0..12_usize)]),
            1..12,
        )
    ) {
        let differences = differences(&shape);
        let all: BTreeSet<usize> = (0..differences.len()).collect();
        prop_assert!(installs(&[], &differences, &BTreeSet::new()));
        prop_assert!(installs(&[], &differences, &all));
        let mut taken = BTreeSet::new();
        for step in steps(&[], &differences) {
            // All proper parts of a step, by the bits of a number.
            if step.len() <= 8 {
                for part in 1..(1_u32 << step.len()) - 1 {
                    let mut some = taken.clone();
                    some.extend(step.iter().enumerate().filter(|(bit, _)| part >> bit & 1 == 1).map(|(_, id)| *id));
                    prop_assert!(!installs(&[], &differences, &some), "{step:?} can be split");
                }
            }
            for number in step {
                prop_assert!(taken.insert(number), "{number} is taken over twice");
            }
            prop_assert!(installs(&[], &differences, &taken), "{taken:?}");
        }
        prop_assert_eq!(taken, all);
    }
}
