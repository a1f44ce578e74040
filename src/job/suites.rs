//! Owns what a job's suites are called.
//! Never reads a definition.

use super::load::Loaded;

/// The suites that these definitions will be, in the order in which they run.
pub fn suite_names(definitions: &[Loaded]) -> Vec<String> {
    let names = definitions.iter().map(suite_name).enumerate();
    names
        .map(|(index, name)| format!("{index}_{name}"))
        .collect()
}

/// A suite's name: that of the command line, or the definition's, in which blanks would end a signal's word.
pub(super) fn suite_name(loaded: &Loaded) -> String {
    let name = loaded.name.as_ref().unwrap_or(&loaded.definition.name);
    let plain = |c: char| c.is_alphanumeric() || "-_+.".contains(c);
    name.trim()
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect()
}
