//! Owns the builds to serve, and preserves those that boards still use. Never builds.
//!
//! A build is a directory with a `manifest.json`. Each build that is served is preserved as a tree
//! of hard links in `.served/` next to the builds, which needs no space while the build itself
//! exists: a rebuild replaces the build's directory, but boards that run from the old one, or are
//! loading it, still find all its files, even after a restart of the server.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::error::Fault;
use crate::image::Manifest;
use crate::netboot::nfs::exports::{Export, Exports};

const KEPT: &str = ".served";
/// How long a replaced build is kept after its last use by a client.
const KEEP_UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Identifies a version of a file: device, inode, and modification time with nanoseconds.
type Version = (u64, u64, i64, i64);

/// What one board boots instead of its own recipe's newest image, for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The image with this id.
    Image(String),
    /// The newest image of this recipe.
    Recipe(String),
}

/// The current builds below one directory.
#[derive(Debug)]
pub struct Images {
    builds: PathBuf,
    exports: Arc<Exports>,
    known: Mutex<HashMap<PathBuf, (Version, Option<Current>)>>,
    /// By the board's name.
    pins: Mutex<HashMap<String, Pin>>,
}

/// The current build of each directory; `None` if it cannot be served, which is logged once.
#[derive(Clone, Debug)]
struct Current {
    recipe: String,
    export: Arc<Export>,
}

impl Images {
    /// Opens the builds in `builds`, each a sub-directory, and the preserved ones. A build that
    /// cannot be served is logged and skipped.
    ///
    /// # Errors
    /// If `builds` is no directory.
    pub fn open(builds: &Path, exports: Arc<Exports>) -> Result<Self> {
        if !builds.is_dir() {
            return Err(Fault::input(format!(
                "there is no directory {} with images to serve",
                builds.display()
            ))
            .remedy("build an image with `hearth build`, or name the directory with --images")
            .into());
        }
        let images = Images {
            builds: builds.to_path_buf(),
            exports,
            known: Mutex::default(),
            pins: Mutex::default(),
        };
        images.open_kept();
        images.refresh();
        Ok(images)
    }

    /// The image that a board of this recipe boots next. `recipe` is a name, or a path that ends in
    /// one.
    ///
    /// # Errors
    /// If there is none.
    pub fn current(&self, recipe: &str) -> Result<Arc<Export>> {
        self.refresh();
        let name = Path::new(recipe.strip_suffix(".toml").unwrap_or(recipe))
            .file_name()
            .map_or_else(
                || recipe.to_string(),
                |name| name.to_string_lossy().into_owned(),
            );
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest of several builds of one recipe.
        let found = known
            .values()
            .filter_map(|(version, current)| Some((version, current.as_ref()?)))
            .filter(|(_, current)| current.recipe == name)
            .max_by_key(|((_, _, seconds, nanoseconds), _)| (*seconds, *nanoseconds));
        if let Some((_, current)) = found {
            return Ok(current.export.clone());
        }
        let place = self.builds.display();
        Err(
            Fault::input(format!("{place} has no image of the recipe `{name}`"))
                .remedy(format!("build it: hearth build {recipe} -o {place}/{name}"))
                .into(),
        )
    }

    /// The image that this board boots next: the one that it is pinned to, else the newest of its recipe.
    ///
    /// # Errors
    /// If there is none.
    pub fn next_of(&self, board: &str, recipe: Option<&str>) -> Result<Arc<Export>> {
        match (self.pin_of(board), recipe) {
            (Some(Pin::Image(id)), _) => self.by_id(&id).ok_or_else(|| {
                Fault::input(format!("the image {id}, which {board} is to boot, is gone")).into()
            }),
            (Some(Pin::Recipe(recipe)), _) => self.current(&recipe),
            (None, Some(recipe)) => self.current(recipe),
            (None, None) => Err(Fault::input(format!("board `{board}` has no recipe"))
                .remedy("give it one in the lab file, or the whole lab: recipe = \"…\"")
                .into()),
        }
    }

    /// Pins a board to what a job boots, or with `None` lets it boot its own again.
    pub fn pin(&self, board: &str, pin: Option<Pin>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        match pin {
            Some(pin) => pins.insert(board.into(), pin),
            None => pins.remove(board),
        };
    }

    /// What the board is pinned to.
    pub fn pin_of(&self, board: &str) -> Option<Pin> {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(board).cloned()
    }

    /// The image with this id, newly built ones included.
    pub fn by_id(&self, id: &str) -> Option<Arc<Export>> {
        self.refresh();
        self.exports.by_id(id)
    }

    /// The ids of the current builds, with their recipes.
    pub fn listing(&self) -> Vec<(String, String)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listing: Vec<_> = known
            .values()
            .filter_map(|(_, current)| current.as_ref())
            .map(|current| (current.export.id.clone(), current.recipe.clone()))
            .collect();
        listing.sort();
        listing
    }

    /// Scans for builds that are new or were replaced.
    pub fn refresh(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let present = sub_directories(&self.builds);
        known.retain(|directory, _| present.contains(directory));
        for directory in present {
            let version = match fs::metadata(directory.join(Manifest::FILE)) {
                Ok(meta) => (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()),
                // Not a build, or one being replaced right now.
                Err(_) => continue,
            };
            if known
                .get(&directory)
                .is_some_and(|(seen, _)| *seen == version)
            {
                continue;
            }
            let current = match self.load(&directory) {
                Ok(current) => {
                    log::info!("serving {} from {}", current.export.id, directory.display());
                    Some(current)
                }
                Err(error) => {
                    log::error!("cannot serve {}: {error:#}", directory.display());
                    None
                }
            };
            known.insert(directory, (version, current));
        }
    }

    /// Preserves the build and serves the preserved copy, which a rebuild does not change.
    fn load(&self, directory: &Path) -> Result<Current> {
        let kept = match self.keep(directory) {
            Ok(kept) => kept,
            Err(error) => {
                log::warn!(
                    "cannot keep {} by hard links ({error:#}): when it is built again, boards that run from it lose \
                     their root as soon as hearth is started again",
                    directory.display()
                );
                directory.to_path_buf()
            }
        };
        let manifest = Manifest::load(&kept)?;
        let export = match self.exports.at(&kept) {
            Some(known) => known,
            None => self.exports.insert(open_build(&kept, &manifest)?),
        };
        Ok(Current {
            recipe: manifest.recipe.name,
            export,
        })
    }

    /// Hard-links the files of a build into `.served/<image id>.<hash of its manifest>/`.
    fn keep(&self, directory: &Path) -> Result<PathBuf> {
        let manifest = fs::read(directory.join(Manifest::FILE))?;
        let parsed: Manifest = serde_json::from_slice(&manifest)?;
        anyhow::ensure!(
            is_plain_name(&parsed.image),
            "`{}` is no image id",
            parsed.image
        );
        let hash = hex::encode(Sha256::digest(&manifest));
        let kept = self.builds.join(KEPT);
        let place = kept.join(format!("{}.{}", parsed.image, &hash[..12]));
        if place.is_dir() {
            return Ok(place);
        }
        fs::create_dir_all(&kept)?;
        let beside = tempfile::Builder::new().prefix(".").tempdir_in(&kept)?;
        link_tree(directory, beside.path())?;
        // The links must match the manifest, in case the build was replaced meanwhile.
        anyhow::ensure!(
            fs::read(beside.path().join(Manifest::FILE))? == manifest,
            "it was replaced at this moment"
        );
        fs::rename(beside.keep(), &place)?;
        Ok(place)
    }

    /// Serves the builds that earlier runs have preserved, unless they were unused for long.
    fn open_kept(&self) {
        for directory in sub_directories(&self.builds.join(KEPT)) {
            let opened =
                Manifest::load(&directory).and_then(|manifest| open_build(&directory, &manifest));
            match opened {
                Ok(export) => {
                    self.exports.insert(export);
                }
                Err(error) => {
                    log::warn!("cannot serve the kept {}: {error:#}", directory.display());
                }
            }
        }
    }

    /// Records which images clients have used, and drops replaced ones that were unused for a week.
    /// To be called periodically.
    pub fn tidy(&self) {
        let current: Vec<PathBuf> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known
                .values()
                .filter_map(|(_, current)| Some(current.as_ref()?.export.directory.clone()))
                .collect()
        };
        let used: Vec<String> = self
            .exports
            .all()
            .iter()
            .filter(|export| export.take_used())
            .map(|export| export.id.clone())
            .collect();
        for directory in sub_directories(&self.builds.join(KEPT)) {
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            let id = name.rsplit_once('.').map_or(&*name, |(id, _)| id);
            if current.contains(&directory) || used.iter().any(|used| used == id) {
                let touched = File::open(&directory)
                    .and_then(|opened| opened.set_modified(SystemTime::now()));
                if let Err(error) = touched {
                    log::warn!("cannot note the use of {}: {error}", directory.display());
                }
            } else if unused_for_long(&directory) {
                log::info!(
                    "no longer serving {}, which nobody uses",
                    directory.display()
                );
                if let Some(export) = self.exports.at(&directory) {
                    self.exports.remove(&export);
                }
                if let Err(error) = fs::remove_dir_all(&directory) {
                    log::warn!("cannot remove {}: {error}", directory.display());
                }
            }
        }
    }
}

fn open_build(directory: &Path, manifest: &Manifest) -> Result<Export> {
    let hash = manifest.root_digest(directory)?;
    let image = manifest.open_image(directory)?;
    let id = manifest.image.clone();
    Ok(Export::new(id, hash, image, directory.to_path_buf()))
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// Directories in `directory` that are not hidden, sorted; empty if it cannot be read.
fn sub_directories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            (!hidden && entry.path().is_dir()).then(|| entry.path())
        })
        .collect();
    found.sort();
    found
}

/// Recreates the directories of `from` below `to`, with hard links to its files.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            link_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::hard_link(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn unused_for_long(directory: &Path) -> bool {
    let touched = fs::metadata(directory).and_then(|meta| meta.modified());
    touched.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEEP_UNUSED))
}
