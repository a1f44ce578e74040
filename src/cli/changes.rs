//! Owns the table of packages that differ between two locks.

use std::io::{self, Write};

use hearth::recipe::{Change, Role};

/// Prints a line per package to standard output: name, version before, version after.
pub fn print(changes: &[Change]) -> io::Result<()> {
    let rows: Vec<[String; 3]> = changes.iter().map(row).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (names, old) = (width(0), width(1));
    let mut out = io::stdout().lock();
    for [name, before, after] in &rows {
        writeln!(out, "{name:names$}  {before:old$}  {after}")?;
    }
    out.flush()
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
