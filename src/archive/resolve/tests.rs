//! Owns the tests of single rules of the resolver; that whole sets are APT's is tested in `tests/lock/resolve.rs`.
//! Never fetches: the indices are written here.

use deb822_fast::borrowed::parse_borrowed;

use super::*;
use crate::archive::Release;

/// An index of one release with these stanzas, each without what every package has: `Package: a`, then further fields.
fn index(stanzas: &[&str]) -> Index {
    let mut index = Index::default();
    add(&mut index, "", stanzas);
    index
}

/// Adds a release with these fields.
fn add(index: &mut Index, release: &str, stanzas: &[&str]) {
    let number = index.releases.len();
    let text = format!("Suite: test\n{release}SHA256:\n");
    let release = Release::parse("test", vec!["file:///mirror".into()], &text, b"").unwrap();
    index.releases.push(release);
    for stanza in stanzas {
        insert(index, stanza, Some(number));
    }
}

fn insert(index: &mut Index, stanza: &str, release: Option<usize>) {
    let version = if stanza.contains("Version:") {
        ""
    } else {
        "Version: 1\n"
    };
    let text = format!(
        "{stanza}\n{version}Architecture: armhf\nFilename: pool/x.deb\nSize: 1\nSHA256: {}\n",
        "0".repeat(64)
    );
    let paragraphs = parse_borrowed(&text).unwrap();
    let package = Package::read(&paragraphs[0], release).expect(stanza);
    index.insert(package);
}

fn request(roots: &[&str]) -> Request {
    Request {
        arch: "armhf".into(),
        roots: roots.iter().map(ToString::to_string).collect(),
        ..Request::default()
    }
}

/// `name version` of each package that is chosen, in the order of the choice.
fn chosen(index: &Index, request: &Request) -> Vec<String> {
    let name = |id: usize| {
        let package = &index.packages[id];
        format!("{} {}", package.name, package.version)
    };
    let ids = resolve(index, request).expect("there is a solution");
    ids.into_iter().map(name).collect()
}

/// The steps that lead to what cannot be.
fn chain(index: &Index, request: &Request) -> Vec<String> {
    match resolve(index, request) {
        Err(Unsatisfiable::Chain(lines)) => lines,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_alternatives_the_first_is_taken_unless_another_is_chosen_already() {
    let stanzas = ["Package: a\nDepends: b | c", "Package: b", "Package: c"];
    let index = index(&stanzas);
    assert_eq!(chosen(&index, &request(&["a"])), ["a 1", "b 1"]);
    assert_eq!(chosen(&index, &request(&["a", "c"])), ["a 1", "c 1"]);
}

#[test]
fn an_alternative_that_nothing_can_satisfy_is_passed_over() {
    let index = index(&[
        "Package: a\nDepends: absent | b | c",
        "Package: b\nDepends: missing",
        "Package: c",
    ]);
    assert_eq!(chosen(&index, &request(&["a"])), ["a 1", "c 1"]);
}

#[test]
fn a_virtual_package_is_provided_by_the_most_important_and_a_real_one_comes_first() {
    let providers = [
        "Package: a\nDepends: awk",
        "Package: gawk\nProvides: awk\nPriority: optional",
        "Package: mawk\nProvides: awk\nPriority: required",
    ];
    assert_eq!(
        chosen(&index(&providers), &request(&["a"])),
        ["a 1", "mawk 1"]
    );
    let with_real = [&providers[..], &["Package: awk"]].concat();
    assert_eq!(
        chosen(&index(&with_real), &request(&["a"])),
        ["a 1", "awk 1"]
    );
    // A root has to be a package: hearth does not choose for the user.
    assert_eq!(
        resolve(&index(&providers), &request(&["awk"])),
        Err(Unsatisfiable::Unknown {
            root: "awk".into(),
            providers: vec!["gawk".into(), "mawk".into()],
        })
    );
}

#[test]
fn what_is_provided_satisfies_a_version_only_with_a_version() {
    let index = index(&[
        "Package: a\nDepends: abi (>= 2)",
        "Package: plain\nProvides: abi\nPriority: required",
        "Package: old\nProvides: abi (= 1)\nPriority: required",
        "Package: new\nProvides: abi (= 2)",
    ]);
    assert_eq!(chosen(&index, &request(&["a"])), ["a 1", "new 1"]);
}

#[test]
fn only_the_newest_version_is_a_candidate_and_what_needs_an_older_one_cannot_be() {
    let stanzas = [
        "Package: a\nDepends: b (<< 2)",
        "Package: b\nVersion: 1",
        "Package: b\nVersion: 2",
    ];
    let index = index(&stanzas);
    assert_eq!(
        chain(&index, &request(&["a"])),
        ["a needs b (<< 2), but there is 2"]
    );
    let mut preferring = request(&["a"]);
    preferring.prefer.insert("b".into(), "1".into());
    assert_eq!(chosen(&index, &preferring), ["a 1", "b 1"]);
    // A version that is gone is no preference any more.
    preferring.prefer.insert("b".into(), "0.9".into());
    assert_eq!(chain(&index, &preferring).len(), 1);
}

#[test]
fn a_suite_that_is_not_automatic_counts_only_where_no_other_has_the_package() {
    let mut index = index(&["Package: a\nVersion: 1"]);
    let backports = ["Package: a\nVersion: 2", "Package: b\nVersion: 2"];
    add(&mut index, "NotAutomatic: yes\n", &backports);
    assert_eq!(chosen(&index, &request(&["a", "b"])), ["a 1", "b 2"]);
}

#[test]
fn a_local_package_comes_before_a_newer_one() {
    let mut index = index(&["Package: a\nVersion: 2"]);
    insert(&mut index, "Package: a\nVersion: 1~local", None);
    assert_eq!(chosen(&index, &request(&["a"])), ["a 1~local"]);
}

#[test]
fn a_conflict_turns_the_search_another_way() {
    let index = index(&[
        "Package: a\nDepends: mail, tool",
        "Package: exim\nProvides: mail\nPriority: important",
        "Package: postfix\nProvides: mail",
        "Package: tool\nConflicts: exim",
    ]);
    assert_eq!(
        chosen(&index, &request(&["a"])),
        ["a 1", "postfix 1", "tool 1"]
    );
}

#[test]
fn a_conflict_without_another_way_is_told_from_both_sides() {
    for (b, c) in [("Conflicts: c", ""), ("", "\nBreaks: b")] {
        let (b, c) = (format!("Package: b\n{b}"), format!("Package: c{c}"));
        let index = index(&["Package: a\nDepends: b, c", b.trim_end(), &c]);
        assert_eq!(
            chain(&index, &request(&["a"])),
            ["a needs c", "c conflicts with b", "a needs b"]
        );
    }
}

#[test]
fn what_provides_what_it_conflicts_with_does_not_conflict_with_itself() {
    let index = index(&[
        "Package: a\nProvides: mail\nConflicts: mail",
        "Package: b\nProvides: mail",
    ]);
    assert_eq!(chosen(&index, &request(&["a"])), ["a 1"]);
    assert_eq!(
        chain(&index, &request(&["a", "b"])),
        ["b conflicts with a", "a is asked for"]
    );
}

#[test]
fn recommendations_count_only_when_asked_for_and_never_fail() {
    let index = index(&[
        "Package: a\nRecommends: b, absent, c",
        "Package: b",
        "Package: c\nConflicts: a",
    ]);
    let mut request = request(&["a"]);
    assert_eq!(chosen(&index, &request), ["a 1"]);
    request.recommends = true;
    assert_eq!(chosen(&index, &request), ["a 1", "b 1"]);
}

#[test]
fn an_excluded_package_is_no_candidate() {
    let index = index(&["Package: a\nDepends: b", "Package: b"]);
    let mut request = request(&["a"]);
    request.exclude.insert("b".into());
    assert_eq!(chain(&index, &request), ["a needs b, which is excluded"]);
}

#[test]
fn any_means_a_foreign_package_only_where_it_allows_that() {
    let stanzas = |multi_arch: &str| {
        let python = format!("Package: python3\nMulti-Arch: {multi_arch}");
        index(&["Package: a\nDepends: python3:any", &python])
    };
    assert_eq!(
        chosen(&stanzas("allowed"), &request(&["a"])),
        ["a 1", "python3 1"]
    );
    let chain = chain(&stanzas("same"), &request(&["a"]));
    assert!(chain[0].starts_with("a needs python3:any"), "{chain:?}");
}

#[test]
fn packages_that_need_each_other_are_both_chosen() {
    let index = index(&["Package: a\nDepends: b", "Package: b\nPre-Depends: a"]);
    assert_eq!(chosen(&index, &request(&["a"])), ["a 1", "b 1"]);
}
