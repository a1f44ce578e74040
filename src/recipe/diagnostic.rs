//! Owns how a mistake in a TOML file is told: file, line, column, and a caret under the place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

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
pub fn parse_toml<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, Box<Diagnostic>> {
    toml::from_str(text).map_err(|error| {
        Box::new(Diagnostic {
            file: file.to_path_buf(),
            text: text.to_string(),
            span: error.span().unwrap_or(0..0),
            message: error.message().to_string(),
            help: None,
        })
    })
}
