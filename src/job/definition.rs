//! Owns test definitions: LAVA's YAML files, read as they are, with a diagnostic for every mistake.
//! Never runs them.
//!
//! Format: `Lava-Test Test Definition 1.0`, LAVA's documentation, "Writing a test definition".

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

use super::pattern::Pattern;
use super::python::Python;
use super::yaml::{self, Node, Yaml};
use crate::error::Fault;
use crate::input;
use crate::recipe::Diagnostic;

const FORMAT: &str = "Lava-Test Test Definition 1.0";
/// A definition larger than this, in bytes, is none.
const LARGEST: u64 = 4 << 20;

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
    /// Whether `metadata.os` names systems of which none has bash for LAVA: its steps run under the plain shell then.
    pub posix: bool,
    /// The file as it was read.
    pub text: String,
}

/// What a definition wants installed before it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Install {
    /// Debian packages.
    pub packages: Vec<String>,
    /// Ids of keys that apt is to trust, or packages that have them, for `lava-add-keys`.
    pub keys: Vec<String>,
    /// Sources of packages, for `lava-add-sources`.
    pub sources: Vec<String>,
    /// Repositories to clone into the definition's directory.
    pub repositories: Vec<Repository>,
    pub steps: Vec<String>,
}

/// A repository of `install.git-repos`. The values may be parameters, written `$NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    pub address: String,
    pub branch: Option<String>,
    /// Below the definition's directory; as `git clone` would name it otherwise.
    pub directory: Option<String>,
}

/// Something in a definition that is no mistake, but will not do what its author may expect.
pub type Warning = Diagnostic;

impl Definition {
    /// # Errors
    /// If `path` is no regular file, too large, not UTF-8, or has a mistake.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>)> {
        let meta = fs::metadata(path)
            .with_context(|| format!("cannot read the test definition {}", path.display()))?;
        if !meta.is_file() {
            return Err(Fault::input(format!("{} is not a regular file", path.display())).into());
        }
        if meta.len() > LARGEST {
            return Err(Fault::input(format!(
                "{} is larger than {} MiB, and so no test definition",
                path.display(),
                LARGEST >> 20
            ))
            .into());
        }
        let bytes = input::read(path)
            .with_context(|| format!("cannot read the test definition {}", path.display()))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Fault::input(format!("{} is not UTF-8 text", path.display())))?;
        Ok(Self::parse(path, &text)?)
    }

    /// Parses a definition; `file` is only for diagnostics.
    pub fn parse(file: &Path, text: &str) -> Result<(Self, Vec<Warning>), Box<Diagnostic>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut source = Source {
            file,
            text,
            warnings: Vec::new(),
        };
        let document = yaml::parse(text).map_err(|error| source.at(error.span, error.message))?;
        let root = document.root;
        if !root.is_mapping() {
            return Err(source.at(root.span, "a test definition is a mapping"));
        }
        for (name, span) in document.repeated {
            source.warn(
                span,
                format!("`{name}` is given twice; the last one counts, as for LAVA"),
            );
        }
        for (key, _) in root.pairs() {
            let name = key.text().unwrap_or_default();
            if !KEYS.contains(&name) {
                let said = format!("`{name}` is not a part of a test definition; it is ignored");
                source.warn(key.span.clone(), said);
            }
        }
        let definition = source.definition(&root)?;
        Ok((definition, source.warnings))
    }
}

/// What a definition may have at its top.
const KEYS: [&str; 6] = [
    "metadata",
    "install",
    "params",
    "parameters",
    "run",
    "parse",
];

/// LAVA's deployments whose shell is `/bin/sh`, by `os` (its `deployment_data.py`).
const POSIX: [&str; 8] = [
    "android",
    "apertis",
    "oe",
    "openembedded",
    "lede",
    "qnx",
    "slackware",
    "posix",
];

/// The text of a definition, and what is odd in it.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
    warnings: Vec<Warning>,
}

impl Source<'_> {
    fn at(&self, span: Range<usize>, message: impl Into<String>) -> Box<Diagnostic> {
        Box::new(Diagnostic {
            file: self.file.to_path_buf(),
            text: self.text.to_string(),
            span,
            message: message.into(),
            help: None,
        })
    }

    fn warn(&mut self, span: Range<usize>, message: impl Into<String>) {
        let warning = *self.at(span, message);
        self.warnings.push(warning);
    }

    fn definition(&mut self, root: &Node) -> Result<Definition, Box<Diagnostic>> {
        let metadata = root
            .get("metadata")
            .filter(|node| node.is_mapping())
            .ok_or_else(|| self.at(0..0, "the mapping `metadata` is missing"))?;
        self.format(metadata)?;
        let name = metadata
            .get("name")
            .ok_or_else(|| self.at(metadata.span.clone(), "`metadata.name` is missing"))?;
        let text = Python::of(name).str();
        if text.trim().is_empty() || text.contains(|c: char| c.is_control() || c == '/') {
            let problem = "`metadata.name` is empty, or has a `/` or a control character";
            return Err(self.at(name.span.clone(), problem));
        }
        let systems: Vec<String> = list(metadata.get("os"));
        let is_posix = |name: &String| POSIX.contains(&name.as_str());
        let mut parameters = self.parameters(root.get("params"))?;
        parameters.extend(self.parameters(root.get("parameters"))?);
        let steps = root.get("run").and_then(|run| run.get("steps"));
        Ok(Definition {
            name: text,
            description: metadata
                .get("description")
                .map(|node| Python::of(node).str())
                .unwrap_or_default(),
            parameters,
            install: self.install(root.get("install"))?,
            steps: self.shell_lines(steps, "run.steps")?,
            pattern: self.pattern(root.get("parse"))?,
            posix: !systems.is_empty() && systems.iter().all(is_posix),
            text: self.text.to_string(),
        })
    }

    /// LAVA's dispatcher takes whatever the format says; its schema only one.
    fn format(&mut self, metadata: &Node) -> Result<(), Box<Diagnostic>> {
        let Some(format) = metadata.get("format") else {
            return Err(self.at(metadata.span.clone(), "`metadata.format` is missing"));
        };
        let text = Python::of(format).str();
        if text != FORMAT {
            let said = format!(
                "the format is `{text}`; it is read as `{FORMAT}`, the only one that LAVA's schema knows"
            );
            self.warn(format.span.clone(), said);
        }
        Ok(())
    }

    /// Parameters as LAVA writes them into the script: what is false for Python is empty.
    fn parameters(&self, node: Option<&Node>) -> Result<Vec<(String, String)>, Box<Diagnostic>> {
        let Some(node) = node else {
            return Ok(Vec::new());
        };
        if let Yaml::Scalar { text, .. } = &node.value
            && text.is_empty()
        {
            return Ok(Vec::new());
        }
        if !node.is_mapping() {
            let problem = "parameters are a mapping of names to values";
            return Err(self.at(node.span.clone(), problem));
        }
        node.pairs()
            .iter()
            .map(|(key, value)| {
                let name = Python::of(key).str();
                if !is_variable(&name) {
                    let problem = format!("`{name}` cannot be the name of a shell variable");
                    return Err(self.at(key.span.clone(), problem));
                }
                let value = Python::of(value);
                let text = if value.is_true() {
                    value.str()
                } else {
                    String::new()
                };
                Ok((name, text))
            })
            .collect()
    }

    fn shell_lines(
        &self,
        node: Option<&Node>,
        place: &str,
    ) -> Result<Vec<String>, Box<Diagnostic>> {
        let steps = match node.map(|node| (&node.value, node)) {
            None => return Ok(Vec::new()),
            Some((Yaml::Sequence(steps), _)) => steps,
            Some((Yaml::Scalar { text, .. }, _)) if text.is_empty() => return Ok(Vec::new()),
            Some((_, node)) => {
                let problem = format!("`{place}` is not a list of shell lines");
                return Err(self.at(node.span.clone(), problem));
            }
        };
        let mut lines = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            match (&step.value, Python::of(step)) {
                // An empty item; LAVA leaves it out.
                (_, Python::None) => {}
                // The commands `true` and `false`, `yes` and the like, as they are written.
                (Yaml::Scalar { text, .. }, _) => lines.push(text.clone()),
                _ => {
                    let problem = format!(
                        "step {} of {place} is not a shell line but a YAML structure",
                        index + 1
                    );
                    return Err(self.at(step.span.clone(), problem).help(
                        "a `: ` in a line makes YAML read a mapping: put the line in quotes",
                    ));
                }
            }
        }
        Ok(lines)
    }

    fn install(&self, node: Option<&Node>) -> Result<Install, Box<Diagnostic>> {
        let Some(node) = node.filter(|node| node.is_mapping()) else {
            return Ok(Install::default());
        };
        let mut packages = Vec::new();
        for key in ["deps", "deps-debian"] {
            let Some(names) = node.get(key) else { continue };
            if let Yaml::Mapping(_) = names.value {
                return Err(self.at(names.span.clone(), "`deps` is not a list of packages"));
            }
            for name in list(Some(names)) {
                // LAVA takes several names in one string.
                packages.extend(name.split_whitespace().map(String::from));
            }
        }
        let repositories = match node.get("git-repos").map(|node| &node.value) {
            Some(Yaml::Sequence(repositories)) => repositories
                .iter()
                .map(|repository| self.repository(repository))
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        Ok(Install {
            packages,
            keys: list(node.get("keys")),
            sources: list(node.get("sources")),
            repositories,
            steps: self.shell_lines(node.get("steps"), "install.steps")?,
        })
    }

    fn repository(&self, node: &Node) -> Result<Repository, Box<Diagnostic>> {
        let text = |key: &str| {
            node.get(key)
                .map(|node| Python::of(node).str())
                .filter(|text| !text.is_empty())
        };
        match (&node.value, text("url")) {
            (Yaml::Scalar { text, .. }, _) => Ok(Repository {
                address: text.clone(),
                ..Repository::default()
            }),
            (_, Some(address)) => Ok(Repository {
                address,
                branch: text("branch"),
                directory: text("destination"),
            }),
            _ => Err(self.at(node.span.clone(), "a repository in `git-repos` has no url")),
        }
    }

    fn pattern(&self, node: Option<&Node>) -> Result<Option<Pattern>, Box<Diagnostic>> {
        let Some(node) = node.filter(|node| node.is_mapping()) else {
            return Ok(None);
        };
        let fixups: BTreeMap<String, String> = node
            .get("fixupdict")
            .map(Node::pairs)
            .unwrap_or_default()
            .iter()
            .map(|(key, value)| (Python::of(key).str(), Python::of(value).str()))
            .collect();
        let pattern = match node.get("pattern") {
            Some(pattern) => Python::of(pattern).str(),
            None if fixups.is_empty() => return Ok(None),
            // The words alone, for what signals say.
            None => String::new(),
        };
        Pattern::new(&pattern, fixups)
            .map(Some)
            .map_err(|problem| self.at(node.span.clone(), format!("parse.pattern: {problem}")))
    }
}

/// A list of words, of which one may stand alone.
fn list(node: Option<&Node>) -> Vec<String> {
    match node.map(|node| &node.value) {
        Some(Yaml::Sequence(values)) => {
            values.iter().map(|value| Python::of(value).str()).collect()
        }
        Some(Yaml::Scalar { text, .. }) if !text.is_empty() => vec![text.clone()],
        _ => Vec::new(),
    }
}

/// Whether a shell takes it as the name of a variable.
pub fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
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
        let (message, place) = wrong(&SMOKE.replace("name: smoke", "name: a/b"));
        assert!(message.contains("has a `/`"), "{message}");
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
        assert_eq!(warnings[0].position().0, 16);
    }

    #[test]
    fn what_the_dispatcher_takes_is_taken_with_a_note() {
        let text = SMOKE
            .replace("Test Definition 1.0", "Test-Shell Test Definition 1.0")
            .replace("name: smoke", "name: a smoke test\n  name: the last one");
        let (definition, warnings) = Definition::parse(
            Path::new("s.yaml"),
            &format!("\u{feff}{text}").replace('\n', "\r\n"),
        )
        .unwrap();
        assert_eq!(definition.name, "the last one");
        assert_eq!(definition.steps[0], "lava-test-case uname --shell uname -a");
        let said: Vec<&str> = warnings.iter().map(|w| w.message.as_str()).collect();
        assert!(
            said[0].contains("given twice") && said[1].contains("the format is"),
            "{said:?}"
        );
    }

    #[test]
    fn parameters_and_steps_are_written_as_python_writes_them() {
        let text = SMOKE.replace(
            "  SECOND: 2\n",
            "  SECOND: 0755\n  YES: yes\n  OFF: off\n  LIST: [a, 1]\n  NONE:\n",
        ) + "    - true\n    -\n    - 08\n";
        let (definition, _) = Definition::parse(Path::new("s.yaml"), &text).unwrap();
        let values: Vec<&str> = definition
            .parameters
            .iter()
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(values, ["493", "True", "", "['a', 1]", "", "it's"]);
        assert_eq!(definition.steps[2..], ["true", "08"]);
    }
}
