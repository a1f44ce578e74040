//! Owns running again what a report tells of: its definitions, its image, its settings.
//! Never takes another image or definition without saying so.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::plan::{Sources, plan_of};
use super::prepared::{Prepared, Settings};
use super::reports::{directory_of, kept_lock};
use super::target::{Exactly, Target};
use crate::build;
use crate::error::Fault;
use crate::image::Manifest;
use crate::input;
use crate::job::inputs::{JOB, RECIPE, RunInputs};
use crate::job::report::{self, lack};
use crate::job::{Parameter, Report, kept};
use crate::lab::network;
use crate::progress::Progress;
use crate::recipe::RecipeFile;

/// Where images are built again, below the working directory.
const BUILDS: &str = "out/rerun";

/// A run to be had again.
pub struct Rerun {
    pub report: Report,
    inputs: RunInputs,
    path: PathBuf,
}

/// An image for the run, and what is to be told of it.
pub struct FoundImage {
    /// The output directory.
    pub build: PathBuf,
    /// How it was booted.
    pub exactly: Exactly,
    pub notes: Vec<String>,
}

impl Rerun {
    /// Reads a report.
    ///
    /// # Errors
    /// If it cannot be read, or an older hearth wrote it, which kept nothing.
    pub fn open(path: &Path) -> Result<Self> {
        let report = report::load(path)?;
        let Some(inputs) = report.inputs.clone() else {
            let lacks = lack(&report).unwrap_or_default();
            return Err(Fault::input(format!("{} {lacks}", path.display()))
                .remedy("run `hearth test` with the same arguments")
                .into());
        };
        Ok(Rerun {
            report,
            inputs,
            path: path.to_path_buf(),
        })
    }

    /// The lab file of the run, if it had one.
    pub fn lab(&self) -> Option<&Path> {
        self.inputs.settings.lab.as_deref()
    }

    /// The image of the run: where it was, else below `out/`, else built again from the kept lock.
    ///
    /// # Errors
    /// If it is nowhere and cannot be built again.
    pub fn image(&self, sources: &Sources<'_>, progress: &dyn Progress) -> Result<FoundImage> {
        if let Some(build) = self.find() {
            return self.found(build, Vec::new());
        }
        let build = Path::new(BUILDS).join(&self.inputs.recipe.name);
        // Run again inside the network of emulated boards, hearth finds it built.
        if !network::is_inside() {
            self.build_again(&build, sources, progress)?;
        }
        let manifest = Manifest::load(&build)?;
        let mut notes = vec![format!(
            "the image {} is neither in {} nor below out/: built again from the report's lock",
            self.report.image,
            self.inputs.build.display()
        )];
        let differing = self.differing(&manifest);
        if !differing.is_empty() {
            notes.push(format!(
                "what is booted is not what the report names: other hashes of {}",
                differing.join(", ")
            ));
        }
        self.found(build, notes)
    }

    fn found(&self, build: PathBuf, notes: Vec<String>) -> Result<FoundImage> {
        Ok(FoundImage {
            exactly: Exactly {
                kernel_arguments: Manifest::load(&build)?.kernel_arguments,
                device_tree: self.inputs.settings.device_tree.clone(),
                board_type: self.report.board_type.clone(),
            },
            build,
            notes,
        })
    }

    /// An output directory with the very files that were booted.
    fn find(&self) -> Option<PathBuf> {
        let below = fs::read_dir("out").into_iter().flatten().flatten();
        let mut places: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
        places.sort();
        places.insert(0, self.inputs.build.clone());
        places.into_iter().find(|place| {
            let manifest = Manifest::load(place);
            manifest.is_ok_and(|manifest| {
                manifest.image == self.report.image && self.differing(&manifest).is_empty()
            })
        })
    }

    /// The booted files that a build has not, or has otherwise. The boot script is made when a board asks for it.
    fn differing(&self, manifest: &Manifest) -> Vec<&str> {
        let booted = self.inputs.booted.iter();
        booted
            .filter(|file| file.part != "boot script")
            .filter(|file| {
                let made = manifest.artifacts.get(&file.file);
                made.is_none_or(|made| made.sha256 != file.sha256)
            })
            .map(|file| file.file.as_str())
            .collect()
    }

    fn build_again(
        &self,
        build: &Path,
        sources: &Sources<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let gone = || {
            format!(
                "the image {} is neither in {} nor below out/",
                self.report.image,
                self.inputs.build.display()
            )
        };
        if let Some(given) = self.inputs.sources.first() {
            return Err(Fault::input(format!(
                "{}, and it cannot be built again: its {} came from {}",
                gone(),
                given.part,
                given.path
            ))
            .remedy("run `hearth test` or `hearth import` with the same arguments as then")
            .into());
        }
        let lacks = |what: &str| {
            Fault::input(format!(
                "{}, and the report has no copy of its {what}",
                gone()
            ))
            .remedy("build the recipe, and run `hearth test` with the same arguments as then")
        };
        let lock = kept_lock(&self.path, &self.inputs)?.ok_or_else(|| lacks("lock"))?;
        let file = self.recipe()?.ok_or_else(|| lacks("recipe"))?;
        if !lock.is_of(&file.recipe) {
            return Err(Fault::input(format!(
                "the lock that {} keeps is not of the recipe that it keeps",
                self.path.display()
            ))
            .into());
        }
        let mut plan = plan_of(&file, &lock, &sources.fetcher, progress)?;
        // The recipe's own last build stays in the cache.
        plan.owner = std::path::absolute(build)?;
        build::build(&plan, build, progress).map(drop)
    }

    /// The recipe as it was, at the place where it was: its files are looked for there.
    fn recipe(&self) -> Result<Option<RecipeFile>> {
        let kept = &self.inputs.recipe;
        if kept.kept.is_none() {
            return Ok(None);
        }
        let copy = directory_of(&self.path).join(RECIPE);
        let text = input::read_text(&copy)
            .with_context(|| format!("cannot read the kept recipe {}", copy.display()))?;
        self.same(&copy, &kept.sha256, text.as_bytes())?;
        let place = kept.path.clone().unwrap_or(copy);
        RecipeFile::with_text(&kept.name, place, text).map(Some)
    }

    fn same(&self, path: &Path, sha256: &str, content: &[u8]) -> Result<()> {
        if hex::encode(Sha256::digest(content)) == sha256 {
            return Ok(());
        }
        Err(Fault::input(format!(
            "{} is not what its report names: it has changed since",
            path.display()
        ))
        .into())
    }

    /// The job as it was, for the board that is to run it now.
    ///
    /// # Errors
    /// If the report has no copy of it, or not the one that it names; if it cannot fit into the board's memory.
    pub fn job(&self, target: &Target) -> Result<Prepared> {
        let copy = directory_of(&self.path).join(JOB);
        if self.inputs.job.kept.is_none() {
            return Err(Fault::input(format!(
                "{} has no copy of the definitions",
                self.path.display()
            ))
            .remedy("run `hearth test` with the same arguments as then")
            .into());
        }
        let tar = kept::read(&copy)?;
        self.same(&copy, &self.inputs.job.sha256, &tar)?;
        let job = kept::again(&tar, &target.board.type_name)?;
        let settings = &self.inputs.settings;
        let parameters = settings.parameters.iter();
        let settings = Settings {
            parameters: parameters
                .map(|text| text.parse::<Parameter>())
                .collect::<Result<_, _>>()
                .map_err(|wrong| Fault::input(format!("{}: {wrong}", self.path.display())))?,
            allow_local: settings.allow_local,
            strict_lava: settings.strict_lava,
            retries: settings.retries,
            timeout: settings.timeout,
        };
        Prepared::again(job, settings, self.inputs.definitions.clone(), target)
    }

    /// A sentence for each thing that is not as it was, but makes no difference to the run.
    pub fn notes(&self, target: &Target) -> Vec<String> {
        let mut notes = Vec::new();
        for definition in &self.inputs.definitions {
            let now = input::read(Path::new(&definition.source)).ok();
            if now.is_some_and(|text| hex::encode(Sha256::digest(text)) != definition.sha256) {
                notes.push(format!(
                    "{} has changed since: what runs is the report's copy",
                    definition.source
                ));
            }
        }
        if self.report.hearth != env!("CARGO_PKG_VERSION") {
            notes.push(format!(
                "the report is of hearth {}, this is hearth {}",
                self.report.hearth,
                env!("CARGO_PKG_VERSION")
            ));
        }
        if self.report.board_type != target.board.type_name {
            notes.push(format!(
                "the report is of a {}, this board is a {}",
                self.report.board_type, target.board.type_name
            ));
        }
        notes
    }
}
