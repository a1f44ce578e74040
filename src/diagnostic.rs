//! Owns how a mistake in a TOML file is told: file, line, column, and a caret under the place.
//! Never prints.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A mistake in a text that somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// The whole text, for the line that is shown.
    pub text: String,
    /// The bytes of `text` that are wrong.
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl Diagnostic {
    /// Line and column, both from 1; columns count characters.
    pub fn position(&self) -> (usize, usize) {
        let before = self.text.get(..self.span.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    #[must_use]
    pub fn help(mut self: Box<Self>, help: impl Into<String>) -> Box<Self> {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.position();
        write!(
            f,
            "{}:{line}:{column}: {}",
            self.file.display(),
            self.message
        )
    }
}

impl std::error::Error for Diagnostic {}

/// Parses a TOML text; `file` is only for the diagnostic.
///
/// # Errors
/// The first mistake. An unknown key or value comes with the one that was probably meant.
pub fn parse_toml<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, Box<Diagnostic>> {
    toml::from_str(text).map_err(|error| {
        let mut span = error.span().unwrap_or(0..0);
        let (message, help) = match Unknown::read(error.message()) {
            None => (error.message().to_string(), None),
            Some(unknown) => {
                if unknown.kind == "key" {
                    span = narrow(text, span, unknown.name);
                }
                (
                    format!("unknown {} `{}`", unknown.kind, unknown.name),
                    Some(unknown.help()),
                )
            }
        };
        Box::new(Diagnostic {
            file: file.to_path_buf(),
            text: text.to_string(),
            span,
            message,
            help,
        })
    })
}

/// One step from a TOML value to a value inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// A diagnostic about the value that `path` leads to in the TOML document `text`; if there is no such value,
/// about the last one on the way.
pub fn at(
    file: &Path,
    text: &str,
    path: &[Step<'_>],
    message: impl Into<String>,
) -> Box<Diagnostic> {
    Box::new(Diagnostic {
        file: file.to_path_buf(),
        text: text.to_string(),
        span: locate(text, path),
        message: message.into(),
        help: None,
    })
}

fn locate(text: &str, path: &[Step<'_>]) -> Range<usize> {
    let Ok(table) = DeTable::parse(text) else {
        return 0..0;
    };
    let mut here = Spanned::new(0..0, DeValue::Table(table.into_inner()));
    for step in path {
        let next = match step {
            Step::Key(key) => here.get_ref().get(*key),
            Step::Index(index) => here.get_ref().get(*index),
        };
        match next {
            Some(next) => here = next.clone(),
            None => break,
        }
    }
    here.span()
}

/// The name out of `candidates` that is nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, candidate)| {
            // One slip of the finger is much in a short word.
            *likeness > 0.8 || strsim::osa_distance(name, candidate) == 1
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?` or, where nothing is near, all there is.
pub fn suggestion(name: &str, candidates: &[&str]) -> String {
    match nearest(name, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None if candidates.is_empty() => "there is none".into(),
        None => format!("known are {}", candidates.join(", ")),
    }
}

/// What serde says of a key or an enum's value that it does not know.
struct Unknown<'a> {
    kind: &'static str,
    name: &'a str,
    known: Vec<&'a str>,
}

impl<'a> Unknown<'a> {
    /// Serde has no structured error; its sentence is "unknown field `a`, expected `b` or `c`".
    fn read(message: &'a str) -> Option<Self> {
        let (kind, rest) = match message.strip_prefix("unknown field `") {
            Some(rest) => ("key", rest),
            None => ("value", message.strip_prefix("unknown variant `")?),
        };
        let (name, rest) = rest.split_once('`')?;
        Some(Unknown {
            kind,
            name,
            known: rest.split('`').skip(1).step_by(2).collect(),
        })
    }

    fn help(&self) -> String {
        suggestion(self.name, &self.known)
    }
}

/// Serde's tagged enums lose the place of a key: looks for it as a word inside the table.
fn narrow(text: &str, span: Range<usize>, key: &str) -> Range<usize> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let Some(inside) = text.get(span.clone()) else {
        return span;
    };
    for (offset, _) in inside.match_indices(key) {
        let (before, after) = (&inside[..offset], &inside[offset + key.len()..]);
        if !before.ends_with(word) && !after.starts_with(word) {
            let start = span.start + offset;
            return start..start + key.len();
        }
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Sample {
        fat_offset: u32,
    }

    #[test]
    fn an_unknown_key_is_shown_with_what_was_meant() {
        let wrong = parse_toml::<Sample>(Path::new("a.toml"), "# é\nfat-ofset = 1\n").unwrap_err();
        assert_eq!(wrong.to_string(), "a.toml:2:1: unknown key `fat-ofset`");
        assert_eq!(wrong.help.as_deref(), Some("did you mean `fat-offset`?"));
    }

    #[test]
    fn a_wrong_type_and_bad_syntax_have_a_place() {
        let wrong = parse_toml::<Sample>(Path::new("a.toml"), "fat-offset = 'x'").unwrap_err();
        assert_eq!(wrong.position(), (1, 14));
        let wrong =
            parse_toml::<Sample>(Path::new("a.toml"), "fat-offset = 1\nx = [1,\n").unwrap_err();
        assert_eq!(wrong.position().0, 2, "{wrong}");
    }

    #[test]
    fn the_place_of_a_value_is_found_by_its_path() {
        let text = "[[board]]\nname = 'a'\n[[board]]\nname = 'b'\n";
        let path = [Step::Key("board"), Step::Index(1), Step::Key("name")];
        let found = at(Path::new("lab.toml"), text, &path, "twice");
        assert_eq!(found.to_string(), "lab.toml:4:8: twice");
    }
}
