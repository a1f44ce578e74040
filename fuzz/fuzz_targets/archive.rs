//! Debian's release files and package indices of arbitrary text, and the choice of packages from them: no panic, an end in
//! time, versions in one order, and nothing chosen that was not asked for, needed, or allowed.
#![no_main]

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use hearth::archive::relation::parse;
use hearth::archive::version::compare;
use hearth::archive::{Index, Policy, Release, Request, resolve};
use libfuzzer_sys::fuzz_target;

/// What every release and every package has, so that the rest is what is tried.
const RELEASE: &str = "Suite: s\nComponents: main\nArchitectures: all armhf\n\
    Date: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for text in [text.to_string(), format!("{RELEASE}{text}")] {
        release(&text);
    }
    let mut index = Index::default();
    index.releases.push(plain());
    let _ = index.read_text(&mut text.as_bytes(), 0);
    let mut short = Index::default();
    short.releases.push(plain());
    let stanzas = shortened(&text);
    short.read_text(&mut stanzas.as_bytes(), 0).unwrap();
    for index in [&index, &short] {
        chosen(index);
    }
    let words: Vec<&str> = text.split_whitespace().take(6).collect();
    for (a, b) in words.iter().flat_map(|a| words.iter().map(move |b| (a, b))) {
        assert_eq!(compare(a, b), compare(b, a).reverse(), "{a} {b}");
        for c in &words {
            if compare(a, b) != Ordering::Greater && compare(b, c) != Ordering::Greater {
                assert!(compare(a, c) != Ordering::Greater, "{a} {b} {c}");
            }
        }
    }
});

fn plain() -> Release {
    Release::parse("s", vec!["mirror".into()], RELEASE, RELEASE.as_bytes()).unwrap()
}

fn release(text: &str) {
    let Ok(release) = Release::parse("s", vec!["mirror".into()], text, text.as_bytes()) else {
        return;
    };
    let policy = Policy {
        now: 1_800_000_000,
        allow_expired: false,
    };
    let _ = release.check(policy);
    let _ = release.require("main", "armhf");
}

/// An index in which each line is a package `NAME;DEPENDS;CONFLICTS;PROVIDES`, so that many of them fit into little text.
fn shortened(text: &str) -> String {
    let mut index = String::new();
    for (number, line) in text.lines().take(64).enumerate() {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        let mut fields = line.split(';');
        let mut field = || fields.next().unwrap_or_default().trim();
        let name = match field() {
            "" => "p",
            name => name,
        };
        index.push_str(&format!(
            "Package: {name}\nVersion: {number}\nArchitecture: armhf\nFilename: pool/{number}\nSize: 1\n\
             SHA256: {}\nDepends: {}\nConflicts: {}\nProvides: {}\n\n",
            "0".repeat(64),
            field(),
            field(),
            field()
        ));
    }
    index
}

fn chosen(index: &Index) {
    let roots: Vec<String> = index
        .packages
        .iter()
        .take(2)
        .map(|package| package.name.to_string())
        .collect();
    for recommends in [false, true] {
        let request = Request {
            arch: "armhf".into(),
            roots: roots.clone(),
            exclude: HashSet::from(["excluded".to_string()]),
            recommends,
            prefer: HashMap::new(),
        };
        let Ok(chosen) = resolve(index, &request) else {
            continue;
        };
        let names: HashSet<&str> = chosen.iter().map(|id| &*index.packages[*id].name).collect();
        assert_eq!(names.len(), chosen.len());
        assert!(!names.contains("excluded"));
        assert!(roots.iter().all(|root| names.contains(&**root)));
        for id in chosen {
            satisfied(index, &names, id);
        }
    }
}

/// Each of a package's dependencies has an alternative whose name was chosen or is provided.
fn satisfied(index: &Index, names: &HashSet<&str>, id: usize) {
    let provided = |name: &str| {
        index
            .packages
            .iter()
            .filter(|package| names.contains(&*package.name))
            .any(|package| package.provided().any(|(provided, _)| provided == name))
    };
    for group in parse(&index.packages[id].depends) {
        assert!(
            group
                .iter()
                .any(|relation| names.contains(relation.name) || provided(relation.name)),
            "{group:?} of {names:?}"
        );
    }
}
