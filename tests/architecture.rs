//! Checks the arrows between rooms and between files against ARCHITECTURE.md, by parsing the sources.
//! Paths inside macro calls are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// The modules that each module uses, by path without `crate::`; `""` is the crate's root.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Files may have this many lines, unless their header gives a reason that begins with `Long:`.
const LINES: usize = 600;

fn source_root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// All source files by module path.
fn modules() -> BTreeMap<String, String> {
    fn walk(directory: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_string();
            let name = match stem.as_str() {
                "mod" | "lib" => prefix.to_string(),
                _ if prefix.is_empty() => stem.clone(),
                _ => format!("{prefix}::{stem}"),
            };
            if path.is_dir() {
                walk(&path, &name, found);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") && stem != "main" {
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(source_root(), "", &mut found);
    found
}

struct Visitor<'a> {
    module: &'a str,
    known: &'a BTreeMap<String, String>,
    used: BTreeSet<String>,
}

impl Visitor<'_> {
    /// Notes the module that a path leads to, if it is one of the crate's.
    fn note(&mut self, segments: &[String]) {
        let mut base: Vec<String> = match self.module {
            "" => Vec::new(),
            module => module.split("::").map(String::from).collect(),
        };
        let mut rest = segments;
        match rest.first().map(String::as_str) {
            Some("crate" | "hearth") => {
                base.clear();
                rest = &rest[1..];
            }
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            // A module of this one, or something that is not of the crate.
            Some(first) => {
                let child = [base.join("::"), first.to_string()].join("::");
                if !self.known.contains_key(child.trim_start_matches("::")) {
                    return;
                }
            }
            None => return,
        }
        base.extend(rest.iter().cloned());
        while !base.is_empty() && !self.known.contains_key(&base.join("::")) {
            base.pop();
        }
        let target = base.join("::");
        if !target.is_empty() && target != self.module {
            self.used.insert(target);
        }
    }

    fn use_tree(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.use_tree(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Name(name) => self.leaf(prefix, &name.ident.to_string()),
            UseTree::Rename(name) => self.leaf(prefix, &name.ident.to_string()),
            UseTree::Glob(_) => self.note(&prefix.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix);
                }
            }
        }
    }

    fn leaf(&mut self, prefix: &[String], name: &str) {
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        self.note(&path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|ident| ident == "test")
    })
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_for_tests(&module.attrs) => {}
            Item::Fn(function) if is_for_tests(&function.attrs) => {}
            Item::Use(one) if is_for_tests(&one.attrs) => {}
            Item::Use(one) => self.use_tree(&one.tree, &mut Vec::new()),
            _ => visit::visit_item(self, item),
        }
    }

    /// `pub(in path)` is no use of the path.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if segments.len() > 1 {
            self.note(&segments);
        }
        visit::visit_path(self, path);
    }
}

/// Modules that `#[cfg(test)] mod name;` declares.
fn test_modules(known: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (module, text) in known {
        for item in syn::parse_file(text).unwrap().items {
            if let Item::Mod(inner) = item
                && is_for_tests(&inner.attrs)
            {
                found.insert(format!("{module}::{}", inner.ident));
            }
        }
    }
    found
}

fn arrows() -> Arrows {
    let mut known = modules();
    for module in test_modules(&known) {
        known.remove(&module);
    }
    known
        .iter()
        .filter(|(module, _)| !module.is_empty())
        .map(|(module, text)| {
            let mut visitor = Visitor {
                module,
                known: &known,
                used: BTreeSet::new(),
            };
            visitor.visit_file(&syn::parse_file(text).unwrap());
            (module.clone(), visitor.used)
        })
        .collect()
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

/// The table of ARCHITECTURE.md: what each room may use.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).unwrap();
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [room, _, uses] = cells[..] else {
            panic!("not three columns: {line}");
        };
        let uses = match uses {
            "all of the above" => allowed.keys().cloned().collect(),
            _ => uses.split_whitespace().map(String::from).collect(),
        };
        allowed.insert(room.trim_matches('`').to_string(), uses);
    }
    allowed
}

#[test]
fn rooms_use_what_the_table_allows() {
    let allowed = allowed();
    let mut wrong = BTreeSet::new();
    for (module, used) in arrows() {
        let from = room(&module).to_string();
        if from == "cli" {
            continue;
        }
        let Some(may) = allowed.get(&from) else {
            wrong.insert(format!("{from} is not in the table"));
            continue;
        };
        for target in used {
            let to = room(&target);
            if to != from && !may.contains(to) {
                wrong.insert(format!("{from} → {to}, in {module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_is_no_circle_of_files() {
    let circles = circles(&arrows());
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn there_is_no_circle_of_rooms() {
    let mut rooms = Arrows::new();
    for (module, used) in arrows() {
        let from = room(&module).to_string();
        let others = used.iter().map(|target| room(target).to_string());
        let others: Vec<String> = others.filter(|to| *to != from).collect();
        rooms.entry(from).or_default().extend(others);
    }
    let circles = circles(&rooms);
    assert!(circles.is_empty(), "{circles:#?}");
}

/// Removes what leads nowhere, and what nothing leads to, until nothing changes: what is left is in or between circles.
fn circles(arrows: &Arrows) -> Arrows {
    let mut left = arrows.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        for used in left.values_mut() {
            used.retain(|target| names.contains(target));
        }
        let targets: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, used| !used.is_empty() && targets.contains(name));
        if left.len() == before {
            return left;
        }
    }
}

#[test]
fn a_circle_is_found() {
    let of = |pairs: &[(&str, &[&str])]| -> Arrows {
        pairs
            .iter()
            .map(|(from, to)| {
                let to = to.iter().map(ToString::to_string).collect();
                (from.to_string(), to)
            })
            .collect()
    };
    assert!(circles(&of(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])).is_empty());
    let found = circles(&of(&[
        ("a", &["b"]),
        ("b", &["c"]),
        ("c", &["b"]),
        ("d", &["a"]),
    ]));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for (module, text) in modules() {
        let lines = text.lines().count();
        let header: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        if header.is_empty() && !module.ends_with("tests") && !module.is_empty() {
            wrong.push(format!("{module} has no header"));
        }
        if lines > LINES && !header.iter().any(|line| line.contains("Long:")) {
            wrong.push(format!("{module} has {lines} lines"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
