//! Owns finding test definitions: files, directories and git repositories, and the files that go to the board with them.
//! Never reads a definition's text.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use super::definition::{Definition, Warning};
use super::git::{self, Clone, Trust};
use crate::error::Fault;

/// A definition with the files that it was found among.
#[derive(Debug)]
pub struct Loaded {
    pub definition: Definition,
    /// How it was named on the command line; one of a directory's as `DIRECTORY#FILE`.
    pub source: String,
    /// The name that the command line gave it; the definition's own otherwise.
    pub name: Option<String>,
    /// The work tree that goes to the board with it, and in which its steps run.
    pub tree: Option<PathBuf>,
    /// Its file, below the work tree if it has one.
    pub file: PathBuf,
    pub warnings: Vec<Warning>,
    /// Keeps a clone alive while it is needed; definitions of one repository share it.
    pub clone: Option<Rc<Clone>>,
}

/// Loads definitions; a repository that several are in is cloned once.
#[derive(Debug, Default)]
pub struct Loader {
    clones: Vec<(String, Option<String>, Rc<Clone>)>,
}

impl Loader {
    /// Loads `FILE`, `DIRECTORY` (all its `*.yaml`), `DIRECTORY#PATH`, or `REPOSITORY#PATH[@REVISION]`, where a
    /// repository is anything that git can fetch, and a revision anything that git can resolve in it. With a directory or
    /// a repository all its files go to the board. `NAME=` before it names the suite.
    ///
    /// # Errors
    /// If there is no such definition, or it has a mistake; if git cannot fetch; if a path leads out of its directory.
    pub fn load(&mut self, argument: &str) -> Result<Vec<Loaded>> {
        let (name, argument) = named(argument);
        let mut found = self.find(argument)?;
        if name.is_some() && found.len() > 1 {
            return Err(Fault::input(format!(
                "{argument} holds {} definitions, which cannot all have one name",
                found.len()
            ))
            .into());
        }
        for loaded in &mut found {
            loaded.name = name.map(String::from);
        }
        Ok(found)
    }

    fn find(&mut self, argument: &str) -> Result<Vec<Loaded>> {
        if let Some((place, path)) = argument.split_once('#') {
            let directory = Path::new(place);
            if directory.is_dir() && !git::is_repository(directory, path) {
                return Ok(vec![in_tree(directory, path, None)?]);
            }
            return Ok(vec![self.of_git(place, path)?]);
        }
        let path = Path::new(argument);
        if !path.is_dir() {
            let (definition, warnings) = Definition::load(path)?;
            return Ok(vec![Loaded {
                definition,
                source: argument.into(),
                name: None,
                tree: None,
                file: path.to_path_buf(),
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
        found.iter().map(|file| in_tree(path, file, None)).collect()
    }

    fn of_git(&mut self, address: &str, path: &str) -> Result<Loaded> {
        let (path, revision) = match path.rsplit_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (path, None),
        };
        // Named by the user, so that it may be on this machine.
        let clone = self.clone(address, revision, Trust::Local)?;
        let tree = clone.path().to_path_buf();
        let loaded = in_tree(&tree, path, Some(clone));
        let mut loaded = loaded.with_context(|| format!("in the repository {address}"))?;
        loaded.source = format!("{address}#{path}");
        if let Some(revision) = revision {
            loaded.source = format!("{}@{revision}", loaded.source);
        }
        Ok(loaded)
    }

    /// A clone of a repository at a revision; the same one each time.
    pub fn clone(
        &mut self,
        address: &str,
        revision: Option<&str>,
        trust: Trust,
    ) -> Result<Rc<Clone>> {
        let known = self
            .clones
            .iter()
            .find(|(of, at, _)| of == address && at.as_deref() == revision);
        if let Some((_, _, clone)) = known {
            return Ok(Rc::clone(clone));
        }
        let clone = Rc::new(git::clone(address, revision, trust)?);
        self.clones.push((
            address.into(),
            revision.map(String::from),
            Rc::clone(&clone),
        ));
        Ok(clone)
    }
}

/// Splits `NAME=DEFINITION`; a file that has this very name is meant as it is.
fn named(argument: &str) -> (Option<&str>, &str) {
    match argument.split_once('=') {
        Some((name, rest)) if is_suite_name(name) && !Path::new(argument).exists() => {
            (Some(name), rest)
        }
        _ => (None, argument),
    }
}

/// As LAVA's schema for the names that a job gives to its definitions.
fn is_suite_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn in_tree(tree: &Path, path: &str, clone: Option<Rc<Clone>>) -> Result<Loaded> {
    let file = within(tree, path)?;
    let (definition, warnings) = Definition::load(&file)?;
    Ok(Loaded {
        definition,
        source: format!("{}#{path}", tree.display()),
        name: None,
        tree: Some(tree.to_path_buf()),
        file: path.into(),
        warnings,
        clone,
    })
}

/// The file at `path` below `tree`; no name and no link may lead out of it.
fn within(tree: &Path, path: &str) -> Result<PathBuf> {
    let leaves = || {
        Fault::input(format!(
            "the test definition {path} is outside of its directory {}",
            tree.display()
        ))
    };
    let relative = Path::new(path);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.is_empty() || !relative.components().all(plain) {
        return Err(leaves().into());
    }
    let file = tree.join(relative);
    let (real, root) = (file.canonicalize(), tree.canonicalize());
    let real =
        real.with_context(|| format!("cannot read the test definition {}", file.display()))?;
    let root = root.with_context(|| format!("cannot read {}", tree.display()))?;
    if !real.starts_with(root) {
        return Err(leaves().into());
    }
    Ok(file)
}

fn yaml_files(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?
    {
        let name = entry?.file_name();
        if let Some(name) = name.to_str()
            && (name.ends_with(".yaml") || name.ends_with(".yml"))
        {
            found.push(name.to_string());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_before_a_definition_is_a_suites() {
        assert_eq!(named("net=a.yaml"), (Some("net"), "a.yaml"));
        assert_eq!(named("https://x/y?a=b#c"), (None, "https://x/y?a=b#c"));
        assert_eq!(named("r#p@a=b"), (None, "r#p@a=b"));
    }

    #[test]
    fn no_path_and_no_link_leads_out_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link.yaml")).unwrap();
        for path in ["../x.yaml", "/etc/passwd", "a/../../x", "link.yaml", ""] {
            let said = format!("{:#}", in_tree(dir.path(), path, None).unwrap_err());
            assert!(said.contains("outside of its directory"), "{path}: {said}");
        }
    }
}
