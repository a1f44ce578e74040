//! Owns dpkg's database (deb-triggers(5), dpkg(1) FILES) as it is after unpacking.
//! Never configures: from then on dpkg itself maintains the database.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::diversions::DIVERSIONS;
use super::package::Package;
use super::tree::Tree;
use super::unpack::{Claims, Unpacked};
use crate::error::Fault;
use crate::recipe::Arch;

/// Where dpkg keeps packages' scripts and lists.
pub const INFO: &str = "var/lib/dpkg/info";
const STATUS: &str = "var/lib/dpkg/status";
const FILE_TRIGGERS: &str = "var/lib/dpkg/triggers/File";

/// Fields in the order in which dpkg writes them; others follow in the package's order.
const ORDER: [&str; 20] = [
    "Package",
    "Essential",
    "Protected",
    "Status",
    "Priority",
    "Section",
    "Installed-Size",
    "Origin",
    "Maintainer",
    "Bugs",
    "Architecture",
    "Multi-Arch",
    "Source",
    "Version",
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
];
const ORDER_END: [&str; 5] = [
    "Breaks",
    "Conflicts",
    "Enhances",
    "Conffiles",
    "Description",
];

/// Creates an empty database.
pub fn create(tree: &mut Tree, arch: Arch, epoch: i64) -> Result<()> {
    for directory in ["info", "updates", "triggers", "alternatives", "parts"] {
        tree.make_directory(&Path::new("var/lib/dpkg").join(directory))?;
    }
    for (name, content) in [
        (STATUS, String::new()),
        (DIVERSIONS, String::new()),
        ("var/lib/dpkg/statoverride", String::new()),
        ("var/lib/dpkg/info/format", "1\n".into()),
        ("var/lib/dpkg/arch", format!("{arch}\n")),
    ] {
        tree.write(name, 0o644, content.as_bytes(), epoch)?;
    }
    Ok(())
}

/// Adds packages to the database, as unpacked and not configured.
pub fn add(tree: &mut Tree, packages: &[(&Package, &Unpacked)], epoch: i64) -> Result<()> {
    let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut status = tree.read_text(STATUS)?;
    let active = tree.read_text(FILE_TRIGGERS)?;
    let mut file_triggers = active.clone();
    let mut activated = Vec::new();
    for (package, unpacked) in packages {
        if !status.is_empty() && !status.ends_with("\n\n") {
            status.push('\n');
        }
        status.push_str(&stanza(package, unpacked));
        control_files(tree, package, unpacked, epoch)?;
        lists.insert(package.qualified_name(), unpacked.list.clone());
        interests(tree, package, &mut file_triggers, epoch)?;
        activated.extend(activations(&active, &unpacked.list));
    }
    for (package, unpacked) in packages {
        for (loser, path) in &unpacked.taken {
            elide(tree, &mut lists, loser, path, package.name())?;
        }
    }
    for (package, list) in &lists {
        let mut text = list.join("\n");
        text.push('\n');
        tree.write(
            format!("{INFO}/{package}.list"),
            0o644,
            text.as_bytes(),
            epoch,
        )?;
    }
    if file_triggers != active || !active.is_empty() {
        tree.write(FILE_TRIGGERS, 0o644, file_triggers.as_bytes(), epoch)?;
    }
    if !activated.is_empty() {
        activated.sort();
        activated.dedup();
        let mut text = tree.read_text("var/lib/dpkg/triggers/Unincorp")?;
        for trigger in activated {
            writeln!(text, "{trigger} -")?;
        }
        tree.write(
            "var/lib/dpkg/triggers/Unincorp",
            0o644,
            text.as_bytes(),
            epoch,
        )?;
    }
    tree.write(STATUS, 0o644, status.as_bytes(), epoch)
}

/// The paths listed in the database, by package.
pub fn claims(tree: &mut Tree) -> Result<Claims> {
    let mut claims = Claims::default();
    for file in tree.list(Path::new(INFO))? {
        let Some(stem) = file.to_str().and_then(|name| name.strip_suffix(".list")) else {
            continue;
        };
        let list = tree.read_text(format!("{INFO}/{stem}.list"))?;
        let name = stem.split(':').next().unwrap_or(stem);
        claims.add_list(name, &list);
    }
    Ok(claims)
}

/// The package's paragraph of the status file.
fn stanza(package: &Package, unpacked: &Unpacked) -> String {
    let mut text = String::new();
    let put = |text: &mut String, name: &str| {
        let value = match name {
            "Status" => Some("install ok unpacked".to_string()),
            "Conffiles" => conffiles(unpacked),
            _ => package.field(name).map(str::to_string),
        };
        if let Some(value) = value {
            let gap = if value.starts_with('\n') { "" } else { " " };
            let _ = writeln!(text, "{name}:{gap}{value}");
        }
    };
    for name in ORDER.iter().chain(&ORDER_END) {
        put(&mut text, name);
    }
    for (name, _) in package.fields() {
        let known = ORDER.iter().chain(&ORDER_END);
        if !known.clone().any(|other| other.eq_ignore_ascii_case(name)) {
            put(&mut text, name);
        }
    }
    text.push('\n');
    text
}

fn conffiles(unpacked: &Unpacked) -> Option<String> {
    (!unpacked.conffiles.is_empty()).then(|| {
        unpacked
            .conffiles
            .iter()
            .map(|(path, hash)| format!("\n {path} {hash}"))
            .collect()
    })
}

fn control_files(
    tree: &mut Tree,
    package: &Package,
    unpacked: &Unpacked,
    epoch: i64,
) -> Result<()> {
    let stem = format!("{INFO}/{}", package.qualified_name());
    for (name, (data, mode)) in &package.control.files {
        // Files of the database that packages must not contain.
        if name != "list" {
            tree.write(format!("{stem}.{name}"), *mode, data, epoch)?;
        }
    }
    if let Some(sums) = &unpacked.md5sums {
        tree.write(format!("{stem}.md5sums"), 0o644, sums.as_bytes(), epoch)?;
    }
    Ok(())
}

/// Records the triggers that a package is interested in.
fn interests(
    tree: &mut Tree,
    package: &Package,
    file_triggers: &mut String,
    epoch: i64,
) -> Result<()> {
    let text = String::from_utf8_lossy(package.control_file("triggers").unwrap_or_default());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(directive), Some(trigger)) = (words.next(), words.next()) else {
            continue;
        };
        let options = match directive {
            "interest" | "interest-await" => "",
            "interest-noawait" => "/noawait",
            _ => continue,
        };
        let interested = format!("{}{options}", package.qualified_name());
        if trigger.starts_with('/') {
            let _ = writeln!(file_triggers, "{trigger} {interested}");
        } else {
            let file = format!("var/lib/dpkg/triggers/{}", trigger.replace('/', "_"));
            let mut all = tree.read_text(&file)?;
            all.push_str(&interested);
            all.push('\n');
            tree.write(file, 0o644, all.as_bytes(), epoch)?;
        }
    }
    Ok(())
}

/// The file triggers that a package's paths activate.
fn activations<'a>(active: &'a str, list: &[String]) -> Vec<&'a str> {
    active
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|trigger| {
            list.iter().any(|path| {
                path.strip_prefix(trigger)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        })
        .collect()
}

/// Removes a path from the list of the package that lost it to another.
fn elide(
    tree: &mut Tree,
    lists: &mut BTreeMap<String, Vec<String>>,
    loser: &str,
    path: &str,
    winner: &str,
) -> Result<()> {
    log::debug!("{path} of {loser} is replaced by {winner}'s");
    let is_loser = |stem: &str| stem.split(':').next() == Some(loser);
    if let Some((_, list)) = lists.iter_mut().find(|(stem, _)| is_loser(stem)) {
        list.retain(|other| other != path);
        return Ok(());
    }
    for file in tree.list(Path::new(INFO))? {
        let stem = file.to_str().and_then(|name| name.strip_suffix(".list"));
        if let Some(stem) = stem.filter(|stem| is_loser(stem)) {
            let text = tree.read_text(format!("{INFO}/{stem}.list"))?;
            let kept = text
                .lines()
                .filter(|line| *line != path)
                .map(str::to_string);
            lists.insert(stem.to_string(), kept.collect());
        }
    }
    Ok(())
}

/// Checks that dpkg has configured every package.
///
/// # Errors
/// If a package is not configured; names all of them.
pub fn check_configured(tree: &mut Tree) -> Result<()> {
    let status = tree.read_text(STATUS)?;
    let unfinished: Vec<&str> = status
        .split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty())
        .filter(|stanza| {
            !stanza
                .lines()
                .any(|line| line == "Status: install ok installed")
        })
        .filter_map(|stanza| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix("Package: "))
        })
        .collect();
    if unfinished.is_empty() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "dpkg left packages unconfigured: {}",
        unfinished.join(", ")
    ))
    .into())
}

/// Writes a package's preinst to the path it is run from, before the package is unpacked.
pub fn add_preinst(tree: &mut Tree, package: &Package, epoch: i64) -> Result<()> {
    match package.control.files.get("preinst") {
        Some((script, mode)) => {
            let path = format!("{INFO}/{}.preinst", package.qualified_name());
            tree.write(path, *mode, script, epoch)
        }
        None => Ok(()),
    }
}

/// Removes files that were left out of the image from the packages' lists and checksums, so that
/// `dpkg --verify` does not report them as missing. `gone` says whether a listed path (relative)
/// was left out.
pub fn forget(tree: &mut Tree, gone: &dyn Fn(&mut Tree, &Path) -> bool, epoch: i64) -> Result<()> {
    for file in tree.list(Path::new(INFO))? {
        let path = Path::new(INFO).join(&file);
        let is_list = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => true,
            Some("md5sums") => false,
            _ => continue,
        };
        let text = tree.read_text(&path)?;
        let mut kept = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let name = if is_list {
                line.trim_start_matches('/')
            } else {
                line.split_once("  ").map_or("", |(_, name)| name)
            };
            if !gone(tree, Path::new(name.trim_end())) {
                kept.push_str(line);
            }
        }
        if kept != text {
            tree.write(&path, 0o644, kept.as_bytes(), epoch)?;
        }
    }
    Ok(())
}
