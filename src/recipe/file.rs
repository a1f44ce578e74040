//! Owns finding a recipe by name or path, together with its lock. Never writes either.

use std::path::{Path, PathBuf};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::check::check;
use super::lock::Lock;
use super::model::Recipe;
use crate::data::{self, RECIPE, Source};
use crate::diagnostic::parse_toml;
use crate::error::Fault;

/// A recipe and its source.
#[derive(Clone, Debug)]
pub struct RecipeFile {
    /// The file's name without `.toml`; part of the names of build outputs.
    pub name: String,
    /// The file; for a built-in recipe a path that does not exist.
    pub path: PathBuf,
    pub text: String,
    pub recipe: Recipe,
}

impl Recipe {
    /// Reads a recipe by path or name; [`RecipeFile::open`] also returns where it was found.
    pub fn load(argument: &str) -> Result<Self> {
        RecipeFile::open(argument).map(|file| file.recipe)
    }

    /// Parses a recipe; `path` is only for messages.
    ///
    /// # Errors
    /// The first mistake, as a [`Diagnostic`](crate::diagnostic::Diagnostic).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let recipe: Recipe = parse_toml(path, text)?;
        check(&recipe, path, text)?;
        Ok(recipe)
    }
}

impl RecipeFile {
    /// Finds a recipe by path (anything with a `/`, or that ends in `.toml`) or by name, in the
    /// `recipes/` of [`dirs::data`](crate::dirs::data), then among the built-in ones.
    ///
    /// # Errors
    /// If there is none, or it is wrong; the latter is a [`Diagnostic`](crate::diagnostic::Diagnostic).
    pub fn open(argument: &str) -> Result<Self> {
        let Source { path, text } = data::find(RECIPE, argument)?;
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let name = name.unwrap_or_default().to_string();
        RecipeFile::with_text(&name, path, text)
    }

    /// A recipe whose text is known; files in it are relative to the directory of `path`.
    ///
    /// # Errors
    /// As [`RecipeFile::open`]; if the name is none for a recipe.
    pub fn with_text(name: &str, path: PathBuf, text: String) -> Result<Self> {
        let recipe = Recipe::parse(&path, &text)?;
        if !is_name(name) {
            return Err(Fault::input(format!(
                "{} is no name for a recipe: only letters, digits, `.`, `_` and `-`",
                path.display()
            ))
            .remedy("rename the file")
            .into());
        }
        Ok(RecipeFile {
            name: name.to_string(),
            path,
            text,
            recipe,
        })
    }

    /// Whether it is built in, without a file.
    pub fn is_built_in(&self) -> bool {
        self.path.starts_with("<hearth>")
    }

    /// The directory that paths in the recipe are relative to.
    pub fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// SHA-256 of the recipe's text, in hex.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.text))
    }

    /// The path of the lock, in the same directory.
    pub fn lock_path(&self) -> PathBuf {
        self.path.with_extension("lock")
    }

    /// The lock, if there is one, even if it does not match the recipe.
    pub fn existing_lock(&self) -> Result<Option<Lock>> {
        let path = self.lock_path();
        if let Ok(embedded) = path.strip_prefix("<hearth>") {
            return match data::find_file(&embedded.to_string_lossy())? {
                Some(source) => Lock::parse(&path, &source.text).map(Some),
                None => Ok(None),
            };
        }
        if path.exists() {
            return Lock::load(&path).map(Some);
        }
        Ok(None)
    }

    /// The lock, which must match the recipe.
    ///
    /// # Errors
    /// If there is none, or the recipe has changed since.
    pub fn lock(&self) -> Result<Lock> {
        let remedy = format!("run hearth lock {}", self.path.display());
        let Some(lock) = self.existing_lock()? else {
            return Err(
                Fault::input(format!("the recipe {} has no lock yet", self.name))
                    .remedy(remedy)
                    .into(),
            );
        };
        if !lock.is_of(&self.recipe) {
            return Err(Fault::input(format!(
                "{} does not fit the recipe any more: its architecture, suites or packages have changed",
                self.lock_path().display()
            ))
            .remedy(remedy)
            .into());
        }
        Ok(lock)
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
