//! Owns what is to be built: recipe, lock and packages, all of it read and checked.
//! Never decides in which stages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::clock;
use crate::dirs;
use crate::error::Fault;
use crate::recipe::{self, BoardType, Lock, LockedPackage, Recipe, RecipeFile, Role};
use crate::rootfs::customise::Customisation;
use crate::rootfs::{PackageFile, PackagesInput};
use crate::sandbox::Limits;

/// What to build, read and validated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipe's name, for the image id.
    pub name: String,
    /// The recipe's file; relative paths in the recipe are relative to its directory.
    pub path: PathBuf,
    /// Whose last build this is for the cache, which keeps its stages until the next one of the same owner; they go
    /// when this path is gone. The recipe's own path, unless it is built on the side.
    pub owner: PathBuf,
    pub recipe: Recipe,
    /// SHA-256 of the recipe's text, in hex.
    pub recipe_sha256: String,
    /// SHA-256 of the lock, in hex.
    pub lock_sha256: String,
    /// The lock's packages, each with the path of its file.
    pub packages: Vec<(LockedPackage, PathBuf)>,
    /// Board types that the image supports.
    pub boards: BTreeMap<String, BoardType>,
    /// Unix seconds: no file of the image is newer.
    pub epoch: i64,
    pub cache: PathBuf,
    pub threads: usize,
    /// Whether maintainer scripts run only the image's own programs, even if the lock has native
    /// ones.
    pub emulate: bool,
}

impl Plan {
    /// The plan for a recipe and its lock; `debs` are the files of the lock's packages, in its
    /// order. The epoch is `SOURCE_DATE_EPOCH`, else the date of the lock's newest release.
    ///
    /// # Errors
    /// If a board type that the recipe names is unknown or of another architecture, or there is no
    /// valid epoch.
    pub fn new(file: &RecipeFile, lock: &Lock, debs: Vec<PathBuf>) -> Result<Self> {
        let path = if file.is_built_in() {
            file.path.clone()
        } else {
            std::path::absolute(&file.path)?
        };
        Ok(Plan {
            name: file.name.clone(),
            owner: path.clone(),
            path,
            recipe: file.recipe.clone(),
            recipe_sha256: file.digest(),
            lock_sha256: lock.digest(),
            packages: lock.packages.iter().cloned().zip(debs).collect(),
            boards: boards(&file.recipe)?,
            epoch: epoch(lock)?,
            cache: dirs::cache(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            emulate: false,
        })
    }

    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = &(LockedPackage, PathBuf)> {
        self.packages
            .iter()
            .filter(move |(package, _)| package.role == role)
    }

    pub(super) fn locked(&self) -> Vec<LockedPackage> {
        self.packages
            .iter()
            .map(|(package, _)| package.clone())
            .collect()
    }

    pub(super) fn package_files(&self, role: Role) -> Vec<PackageFile> {
        self.of_role(role)
            .map(|(package, deb)| PackageFile::of(package, deb))
            .collect()
    }

    pub(super) fn packages_input(
        &self,
        role: Role,
        directory: &Path,
        layers: &[PathBuf],
    ) -> PackagesInput {
        PackagesInput {
            files: self.package_files(role),
            arch: self.recipe.arch,
            epoch: self.epoch,
            directory: directory.to_path_buf(),
            layers: layers.to_vec(),
            image: Vec::new(),
            tools: None,
            emulated: BTreeSet::new(),
            threads: self.threads,
            limits: self.limits(),
        }
    }

    /// The limits of the image's programs, as the recipe sets them. Not part of any stage's key: they do not change its
    /// output.
    pub fn limits(&self) -> Limits {
        Limits::default().with(&self.recipe.limits)
    }

    /// The directory that relative paths in the recipe are relative to.
    pub(super) fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        }
    }

    pub(super) fn customisation(&self) -> Result<Customisation> {
        let auto = self
            .of_role(Role::Root)
            .filter(|(package, _)| package.auto)
            .map(|(package, _)| package.name.clone())
            .collect();
        Ok(Customisation::new(&self.recipe, self.directory(), auto))
    }
}

/// The board types that the recipe supports, by name.
fn boards(recipe: &Recipe) -> Result<BTreeMap<String, BoardType>> {
    let mut types = recipe::board_types()?;
    if recipe.boards.is_empty() {
        types.retain(|_, board| board.arch == recipe.arch);
        return Ok(types);
    }
    let mut chosen = BTreeMap::new();
    for name in &recipe.boards {
        let board = recipe::board_type(name)?;
        if board.arch != recipe.arch {
            return Err(Fault::input(format!(
                "the board type {name} is {}, but the recipe {}",
                board.arch, recipe.arch
            ))
            .remedy("take it out of the recipe's `boards`")
            .into());
        }
        chosen.insert(name.clone(), board);
    }
    Ok(chosen)
}

/// The latest modification time of a file in the image, in Unix seconds.
fn epoch(lock: &Lock) -> Result<i64> {
    let from_lock = || lock.epoch().and_then(|epoch| u32::try_from(epoch).ok());
    let epoch = clock::source_date_epoch()?
        .or_else(from_lock)
        .ok_or_else(|| {
            Fault::input("the lock tells no release date")
                .remedy("set SOURCE_DATE_EPOCH, or lock the recipe again")
        })?;
    Ok(epoch.into())
}
