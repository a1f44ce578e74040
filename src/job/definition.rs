//! Owns test definitions: LAVA's YAML files, read as they are, with a diagnostic for every mistake.
//! Never runs them.
//!
//! Format: `Lava-Test Test Definition 1.0`, LAVA's documentation, "Writing a test definition".

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};
use tempfile::TempDir;

use super::pattern::Pattern;
use crate::error::Fault;
use crate::recipe::Diagnostic;

const FORMAT: &str = "Lava-Test Test Definition 1.0";

/// A test definition, checked.
#[derive(Clone, Debug)]
pub struct Definition {
    pub name: String,
    pub description: String,
    /// Shell variables and their defaults, in the file's order.
    pub parameters: Vec<(String, String)>,
    pub install: Install,
    /// Shell lines.
    pub steps: Vec<String>,
    pub pattern: Option<Pattern>,
    /// The file as it was read.
    pub text: String,
}

/// What a definition wants installed before it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Install {
    /// Debian packages.
    pub packages: Vec<String>,
    /// Repositories to clone into the definition's directory: address, branch, directory.
    pub repositories: Vec<(String, Option<String>, Option<String>)>,
    pub steps: Vec<String>,
}

/// Something in a definition that is no mistake, but will not do what its author may expect.
pub type Warning = Diagnostic;

/// A definition with the files that it was found among.
#[derive(Debug)]
pub struct Loaded {
    pub definition: Definition,
    /// The work tree that goes to the board with it, and in which its steps run.
    pub tree: Option<PathBuf>,
    pub warnings: Vec<Warning>,
    /// Keeps a clone alive while it is needed.
    pub clone: Option<TempDir>,
}

impl Loaded {
    /// Loads `FILE`, `DIRECTORY` (all its `*.yaml`), `DIRECTORY#PATH`, or `REPOSITORY#PATH[@REVISION]`, where a
    /// repository is anything that `git clone` takes. With a directory or a repository all
    /// its files go to the board.
    pub fn from_argument(argument: &str) -> Result<Vec<Self>> {
        if let Some((place, path)) = argument.split_once('#') {
            return match Path::new(place) {
                directory if directory.is_dir() => {
                    Ok(vec![Self::in_tree(directory, Path::new(path))?])
                }
                _ => Ok(vec![Self::from_git(place, path)?]),
            };
        }
        let path = Path::new(argument);
        if !path.is_dir() {
            let (definition, warnings) = Definition::load(path)?;
            return Ok(vec![Loaded {
                definition,
                tree: None,
                warnings,
                clone: None,
            }]);
        }
        let found = yaml_files(path)?;
        if found.is_empty() {
            return Err(
                Fault::input(format!("{argument} holds no test definition (*.yaml)")).into(),
            );
        }
        found.iter().map(|file| Self::in_tree(path, file)).collect()
    }

    fn in_tree(tree: &Path, path: &Path) -> Result<Self> {
        let (definition, warnings) = Definition::load(&tree.join(path))?;
        Ok(Loaded {
            definition,
            tree: Some(tree.to_path_buf()),
            warnings,
            clone: None,
        })
    }

    fn from_git(address: &str, path: &str) -> Result<Self> {
        let (path, revision) = match path.rsplit_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (path, None),
        };
        let clone = clone(address, revision)?;
        let loaded = Self::in_tree(clone.path(), Path::new(path))
            .with_context(|| format!("in the repository {address}"))?;
        Ok(Loaded {
            clone: Some(clone),
            ..loaded
        })
    }
}

/// Clones a repository, without its history, into a temporary directory.
pub(super) fn clone(address: &str, revision: Option<&str>) -> Result<TempDir> {
    let into = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--depth", "1"]);
    if let Some(revision) = revision {
        git.args(["--branch", revision]);
    }
    let output = git
        .arg("--")
        .arg(address)
        .arg(into.path())
        .env("GIT_TERMINAL_PROMPT", "0")
        .output()
        .map_err(|_| Fault::host("git is missing").remedy("install the package git"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Fault::input(format!("cannot clone {address}: {}", said.trim())).into());
    }
    Ok(into)
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?
    {
        let name = PathBuf::from(entry?.file_name());
        if name
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml")
        {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

impl Definition {
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>)> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the test definition {}", path.display()))?;
        Ok(Self::parse(path, &text)?)
    }

    /// Parses a definition; `file` is only for diagnostics.
    pub fn parse(file: &Path, text: &str) -> Result<(Self, Vec<Warning>), Box<Diagnostic>> {
        let source = Source { file, text };
        let raw: Raw = serde_saphyr::from_str(text).map_err(|error| source.yaml_error(&error))?;
        let warnings = raw
            .others
            .0
            .iter()
            .map(|(key, at)| {
                *source.at(
                    *at,
                    format!("`{key}` is not a part of a test definition; it is ignored"),
                )
            })
            .collect();
        let metadata = &raw.metadata.value;
        if metadata.format.value != FORMAT {
            let problem = format!("`{}` is not the format `{FORMAT}`", metadata.format.value);
            return Err(source.at(metadata.format.referenced, problem));
        }
        if !is_name(&metadata.name.value) {
            let problem = format!(
                "the name `{}` may only have letters, digits, `-`, `_`, `+` and `.`",
                metadata.name.value
            );
            return Err(source.at(metadata.name.referenced, problem));
        }
        let pattern = raw
            .parse
            .map(|parse| source.pattern(parse))
            .transpose()?
            .flatten();
        let mut parameters = source.parameters(raw.params)?;
        parameters.extend(source.parameters(raw.parameters)?);
        Ok((
            Definition {
                name: metadata.name.value.clone(),
                description: metadata.description.clone().unwrap_or_default(),
                parameters,
                install: source.install(raw.install.unwrap_or_default())?,
                steps: source.shell_lines(
                    raw.run.map(|run| run.steps).unwrap_or_default(),
                    "run.steps",
                )?,
                pattern,
                text: text.to_string(),
            },
            warnings,
        ))
    }
}

/// As LAVA's schema for names of definitions.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_+.".contains(c))
}

#[derive(Deserialize)]
struct Raw {
    metadata: Spanned<Metadata>,
    install: Option<RawInstall>,
    params: Option<Pairs>,
    parameters: Option<Pairs>,
    run: Option<RawRun>,
    parse: Option<Spanned<RawParse>>,
    #[serde(flatten)]
    others: Keys,
}

#[derive(Deserialize)]
struct Metadata {
    format: Spanned<String>,
    name: Spanned<String>,
    description: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawInstall {
    deps: Option<Spanned<Value>>,
    #[serde(rename = "deps-debian")]
    deps_debian: Option<Spanned<Value>>,
    #[serde(rename = "git-repos")]
    git_repos: Option<Vec<Spanned<Value>>>,
    steps: Option<Vec<Spanned<Value>>>,
}

#[derive(Deserialize)]
struct RawRun {
    #[serde(default)]
    steps: Vec<Spanned<Value>>,
}

#[derive(Deserialize)]
struct RawParse {
    pattern: Option<String>,
    fixupdict: Option<BTreeMap<String, String>>,
}

/// A mapping's pairs in the file's order.
#[derive(Default)]
struct Pairs(Vec<(String, Spanned<Value>)>);

/// A mapping's keys, where their values are of no matter.
#[derive(Default)]
struct Keys(Vec<(String, Location)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor).map(Pairs)
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values: BTreeMap<String, Value> = BTreeMap::deserialize(deserializer)?;
        Ok(Keys(
            values
                .into_keys()
                .map(|key| (key, Location::UNKNOWN))
                .collect(),
        ))
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Vec<(String, Spanned<Value>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of names to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// The text of a definition, for diagnostics.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, location: Location, message: impl Into<String>) -> Box<Diagnostic> {
        Box::new(Diagnostic {
            file: self.file.to_path_buf(),
            text: self.text.to_string(),
            span: self.span(location),
            message: message.into(),
            help: None,
        })
    }

    fn yaml_error(&self, error: &serde_saphyr::Error) -> Box<Diagnostic> {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        // The library puts the place into its message; ours is beside the file's name already.
        let message = error.without_snippet().to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        self.at(location, message.trim_end_matches([' ', ',']))
    }

    /// The bytes that a location covers, within one line.
    fn span(&self, location: Location) -> Range<usize> {
        let line = usize::try_from(location.line()).unwrap_or(0);
        let column = usize::try_from(location.column()).unwrap_or(0);
        if line == 0 {
            return 0..0;
        }
        let start_of_line: usize = self
            .text
            .split_inclusive('\n')
            .take(line - 1)
            .map(str::len)
            .sum();
        let rest = &self.text[start_of_line..];
        let within = rest
            .char_indices()
            .nth(column.saturating_sub(1))
            .map_or(rest.len(), |(index, _)| index);
        let start = start_of_line + within;
        let length = self.text[start..]
            .find('\n')
            .unwrap_or(self.text.len() - start);
        start..start + length
    }

    fn parameters(&self, pairs: Option<Pairs>) -> Result<Vec<(String, String)>, Box<Diagnostic>> {
        pairs
            .unwrap_or_default()
            .0
            .into_iter()
            .map(|(name, value)| {
                if !is_variable(&name) {
                    return Err(self.at(
                        value.referenced,
                        format!("`{name}` cannot be the name of a shell variable"),
                    ));
                }
                match scalar(&value.value) {
                    Some(text) => Ok((name, text)),
                    None => Err(self.at(
                        value.referenced,
                        format!("the parameter {name} is not a single value"),
                    )),
                }
            })
            .collect()
    }

    fn shell_lines(
        &self,
        steps: Vec<Spanned<Value>>,
        place: &str,
    ) -> Result<Vec<String>, Box<Diagnostic>> {
        steps
            .into_iter()
            .enumerate()
            .map(|(index, step)| match (&step.value, scalar(&step.value)) {
                // The commands `true` and `false`, which YAML takes for something else.
                (Value::Bool(command), _) => Ok(command.to_string()),
                (_, Some(text)) => Ok(text),
                (_, None) => {
                    let problem = format!(
                        "step {} of {place} is not a shell line but a YAML structure",
                        index + 1
                    );
                    let mut diagnostic = self.at(step.referenced, problem);
                    diagnostic.help = Some(
                        "a `: ` in a line makes YAML read a mapping: put the line in quotes".into(),
                    );
                    Err(diagnostic)
                }
            })
            .collect()
    }

    fn install(&self, raw: RawInstall) -> Result<Install, Box<Diagnostic>> {
        let mut packages = Vec::new();
        for list in [raw.deps, raw.deps_debian].into_iter().flatten() {
            match &list.value {
                Value::Null => {}
                Value::Array(values) => {
                    for value in values {
                        let name = scalar(value).ok_or_else(|| {
                            self.at(list.referenced, "a package in `deps` is not a name")
                        })?;
                        // LAVA takes several names in one string.
                        packages.extend(name.split_whitespace().map(String::from));
                    }
                }
                _ => return Err(self.at(list.referenced, "`deps` is not a list of packages")),
            }
        }
        let repositories = raw
            .git_repos
            .unwrap_or_default()
            .into_iter()
            .map(|repository| {
                let text = |key: &str| {
                    repository
                        .value
                        .get(key)
                        .and_then(Value::as_str)
                        .map(String::from)
                };
                match (&repository.value, text("url")) {
                    (Value::String(url), _) => Ok((url.clone(), None, None)),
                    (_, Some(url)) => Ok((url, text("branch"), text("destination"))),
                    _ => Err(self.at(
                        repository.referenced,
                        "a repository in `git-repos` has no url",
                    )),
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Install {
            packages,
            repositories,
            steps: self.shell_lines(raw.steps.unwrap_or_default(), "install.steps")?,
        })
    }

    fn pattern(&self, raw: Spanned<RawParse>) -> Result<Option<Pattern>, Box<Diagnostic>> {
        let Some(pattern) = raw.value.pattern else {
            return Ok(None);
        };
        Pattern::new(&pattern, raw.value.fixupdict.unwrap_or_default())
            .map(Some)
            .map_err(|problem| self.at(raw.referenced, format!("parse.pattern: {problem}")))
    }
}

fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A single value as LAVA, which is Python, writes it into its shell scripts.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOKE: &str = "\
metadata:
  format: Lava-Test Test Definition 1.0
  name: smoke
  description: \"A first look\"
  os: [debian]
params:
  SECOND: 2
  FIRST: 'it''s'
install:
  deps:
    - curl wget
run:
  steps:
    - lava-test-case uname --shell uname -a
    - 'echo \"a: b\"'
";

    fn wrong(text: &str) -> (String, (usize, usize)) {
        let problem = Definition::parse(Path::new("t.yaml"), text).unwrap_err();
        (problem.message.clone(), problem.position())
    }

    #[test]
    fn a_definition_is_read_as_it_is() {
        let (definition, warnings) = Definition::parse(Path::new("smoke.yaml"), SMOKE).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(definition.name, "smoke");
        assert_eq!(
            definition.parameters,
            [
                ("SECOND".into(), "2".into()),
                ("FIRST".into(), "it's".into())
            ]
        );
        assert_eq!(definition.install.packages, ["curl", "wget"]);
        assert_eq!(definition.steps.len(), 2);
    }

    #[test]
    fn each_mistake_is_shown_at_its_place() {
        let (message, place) = wrong(&SMOKE.replace("Definition 1.0", "Definition 2"));
        assert!(message.contains("is not the format"), "{message}");
        assert_eq!(place, (2, 11));
        let (message, place) = wrong(&SMOKE.replace("name: smoke", "name: a b"));
        assert!(message.contains("may only have letters"), "{message}");
        assert_eq!(place, (3, 9));
        let (message, place) =
            wrong(&SMOKE.replace("lava-test-case uname --shell uname -a", "echo a: b"));
        assert!(message.contains("step 1 of run.steps"), "{message}");
        assert_eq!(place.0, 14);
        let (message, _) = wrong(&SMOKE.replace("  name: smoke\n", ""));
        assert!(message.contains("name"), "{message}");
        let (message, place) = wrong("metadata:\n  name: [a\n");
        assert!(place.0 >= 2, "{message} at {place:?}");
        let (message, _) = wrong(&format!("{SMOKE}parse:\n  pattern: '('\n"));
        assert!(message.contains("parse.pattern"), "{message}");
    }

    #[test]
    fn keys_that_nobody_knows_are_told() {
        let (_, warnings) =
            Definition::parse(Path::new("s.yaml"), &format!("{SMOKE}rum:\n  steps: []\n")).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].message.contains("`rum`"));
    }
}
