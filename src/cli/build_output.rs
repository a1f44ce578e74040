//! Finds what `hearth build` made of a recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hearth::error::Fault;
use serde::Deserialize;

/// An output directory of `hearth build`.
#[derive(Debug)]
pub struct BuildOutput {
    pub directory: PathBuf,
    /// The image id.
    pub image: String,
}

#[derive(Deserialize)]
struct Manifest {
    image: String,
}

impl BuildOutput {
    /// The one in `given`, else `out/` and the recipe's name.
    ///
    /// # Errors
    /// If nothing was built there.
    pub fn find(recipe: &str, given: Option<&Path>) -> Result<Self> {
        let directory = match given {
            Some(directory) => directory.to_path_buf(),
            None => Path::new("out").join(Path::new(recipe).file_stem().unwrap_or_default()),
        };
        let path = directory.join("manifest.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Fault::input(format!(
                "there is no image of `{recipe}`: {}: {error}",
                path.display()
            ))
            .remedy(format!(
                "build it with `hearth build {recipe}`, or name its output with --from DIR"
            ))
        })?;
        let manifest: Manifest = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        if manifest.image.is_empty()
            || manifest.image.starts_with('.')
            || manifest.image.contains('/')
        {
            return Err(Fault::input(format!(
                "{} is damaged: its image id is no name",
                path.display()
            ))
            .into());
        }
        Ok(BuildOutput {
            directory,
            image: manifest.image,
        })
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs.tar")
    }
}
