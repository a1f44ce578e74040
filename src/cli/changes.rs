//! Owns the table of packages that differ between two locks.

use std::io::{self, Write};

use hearth::recipe::{Change, Role};
use hearth::sanitise;

/// Prints a line per package to standard output: name, version before, version after.
pub fn print(changes: &[Change]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text(changes).as_bytes())?;
    out.flush()
}

/// A line per package.
pub fn text(changes: &[Change]) -> String {
    let rows: Vec<[String; 3]> = changes.iter().map(row).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (names, old) = (width(0), width(1));
    let lines = rows.iter().map(|[name, before, after]| {
        let line = format!("{name:names$}  {before:old$}  {after}");
        sanitise::line(&line).into_owned() + "\n"
    });
    lines.collect()
}

fn row(change: &Change) -> [String; 3] {
    let name = match change.role {
        Role::Root => change.name.clone(),
        Role::Bootloader => format!("{} (bootloader)", change.name),
        Role::Tool => format!("{} (tool)", change.name),
    };
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".into());
    let after = match (&change.old, &change.new) {
        (Some(old), Some(new)) if old == new => format!("{new} (another file)"),
        (_, new) => version(new),
    };
    [name, version(&change.old), after]
}
