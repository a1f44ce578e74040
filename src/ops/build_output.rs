//! Owns finding what `hearth build` made of a recipe.
//! Never builds.

use std::path::{Path, PathBuf};

use crate::error::Fault;
use crate::image::Manifest;
use anyhow::Result;

/// An output directory of `hearth build`.
#[derive(Debug)]
pub struct BuildOutput {
    pub directory: PathBuf,
    /// The image id.
    pub image: String,
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
        if !directory.join(Manifest::FILE).exists() {
            return Err(Fault::input(format!(
                "there is no image of `{recipe}`: {} is not what `hearth build` made",
                directory.display()
            ))
            .remedy(format!(
                "build it with `hearth build {recipe}`, or name its output with --from DIR"
            ))
            .into());
        }
        let manifest = Manifest::load(&directory)?;
        if manifest.image.is_empty()
            || manifest.image.starts_with('.')
            || manifest.image.contains('/')
        {
            return Err(Fault::input(format!(
                "{} is damaged: its image id is no name",
                directory.join(Manifest::FILE).display()
            ))
            .into());
        }
        Ok(BuildOutput {
            directory,
            image: manifest.image,
        })
    }

    /// The tars of the image, bottom first.
    ///
    /// # Errors
    /// If the manifest cannot be read.
    pub fn tars(&self) -> Result<Vec<PathBuf>> {
        Ok(Manifest::load(&self.directory)?.tars(&self.directory))
    }
}
