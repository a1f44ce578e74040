//! Owns the pipeline from a lock's packages to an output directory: which stages there are, and what each is made from.
//! Never fetches: the packages are on the disk already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::boot;
use super::customise::Customisation;
use super::install::LAYERS_BELOW;
use super::manifest::{Artifact, LockReference, Manifest, RecipeReference};
use super::package::PackageFile;
use super::publish::{collect, is_sealed, publish, seal};
use super::sbom;
use super::steps::{self, ImageInput, PackagesInput};
use super::store::{Begun, Key, Store, Stored};
use super::{fallback, tools};
use crate::clock;
use crate::dirs;
use crate::error::Fault;
use crate::output::refuse_no_output;
use crate::progress::{Progress, Unit};
use crate::recipe::{self, BoardType, Lock, LockedPackage, Recipe, RecipeFile, Role};
use crate::sandbox::{Namespaces, owners};

/// Goes up when a stage's code makes something else of the same inputs.
const UNPACK_REVISION: u32 = 1;
const TOOLS_REVISION: u32 = 6;
const CONFIGURE_REVISION: u32 = 4;
const IMAGE_REVISION: u32 = 5;
const BOOT_REVISION: u32 = 1;

/// What to build, all of it read and checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipe's name, for the image id.
    pub name: String,
    /// The recipe's file; relative paths in the recipe begin at its directory.
    pub path: PathBuf,
    pub recipe: Recipe,
    /// SHA-256 of the recipe's text, in hex.
    pub recipe_sha256: String,
    /// SHA-256 of the lock, in hex.
    pub lock_sha256: String,
    /// The lock's packages, and where each is on the disk.
    pub packages: Vec<(LockedPackage, PathBuf)>,
    /// Board types that the image is for.
    pub boards: BTreeMap<String, BoardType>,
    /// Unix seconds: no file of the image is newer.
    pub epoch: i64,
    pub cache: PathBuf,
    pub threads: usize,
    /// Whether scripts run the image's own programs only, though the lock has native ones.
    pub emulate: bool,
}

/// What a build has done.
#[derive(Clone, Debug)]
pub struct Built {
    pub manifest: Manifest,
    /// In the order of the pipeline.
    pub stages: Vec<StageReport>,
    /// Whether the output directory was written; otherwise it was up to date.
    pub written: bool,
}

/// Why a stage ran, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageReport {
    pub stage: String,
    pub ran: bool,
    pub reason: String,
}

/// Builds the image and what boards boot from it, and puts it all into `out`.
///
/// # Errors
/// The first that a stage meets. What was at `out` stays then; stages that are done stay in the cache.
pub fn build(plan: &Plan, out: &Path, progress: &dyn Progress) -> Result<Built> {
    refuse_no_output(out)?;
    let mut pipeline = Pipeline::start(plan, progress)?;
    let unpacked = pipeline.unpack()?;
    let configured = pipeline.configure(&unpacked)?;
    let image = pipeline.image(&configured)?;
    for warning in &image.facts.warnings {
        log::warn!("{warning}");
    }
    let boot = pipeline.boot(&image)?;
    let initrd = pipeline.initrd(&unpacked, &image, &boot, &plan.initrd())?;
    let manifest = plan.manifest(&image, &boot, &initrd);
    let artifacts = [&image, &boot, &initrd]
        .into_iter()
        .flat_map(Made::artifacts);
    let written = publish(&manifest, artifacts, out, plan.epoch)?;
    pipeline.finish()?;
    Ok(Built {
        manifest,
        stages: pipeline.reports,
        written,
    })
}

/// How far an image is built that somebody wants to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Before any script has run.
    Unpacked,
    /// As boards see it.
    Complete,
}

/// The layers of an image, topmost first, for a sandbox to mount; builds what is missing.
///
/// # Errors
/// As [`build`].
pub fn layers(plan: &Plan, until: Until, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let mut pipeline = Pipeline::start(plan, progress)?;
    let unpacked = pipeline.unpack()?;
    if until == Until::Unpacked {
        return Ok(unpacked.layers);
    }
    let configured = pipeline.configure(&unpacked)?;
    Ok(pipeline.image(&configured)?.layers)
}

/// A stage that is done, with what later stages and the output take from it.
pub(super) struct Made {
    pub digest: String,
    pub stored: Stored,
    pub layers: Vec<PathBuf>,
    pub facts: Facts,
}

/// What a stage tells of itself, kept beside it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    pub artifacts: BTreeMap<String, Artifact>,
    pub kernel: Option<String>,
    /// Told by every build that uses the stage.
    #[serde(default)]
    pub warnings: Vec<String>,
}

pub(super) struct Pipeline<'a> {
    pub plan: &'a Plan,
    pub progress: &'a dyn Progress,
    store: Store,
    before: Vec<Key>,
    keys: Vec<Key>,
    reports: Vec<StageReport>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn start(plan: &'a Plan, progress: &'a dyn Progress) -> Result<Self> {
        let store = Store::open(&plan.cache)?;
        let abandoned = store.abandoned()?;
        remove(
            abandoned.iter().map(|(path, _)| path.clone()).collect(),
            progress,
        )?;
        Ok(Pipeline {
            before: store.remembered(&plan.path),
            plan,
            progress,
            store,
            keys: Vec::new(),
            reports: Vec::new(),
        })
    }

    pub(super) fn unpack(&mut self) -> Result<Made> {
        let plan = self.plan;
        let mut key = Key::new("unpack", UNPACK_REVISION)
            .with("architecture", plan.recipe.arch.debian())
            .with("epoch", plan.epoch.to_string())
            .with("owners on this host", owners()?);
        for (package, _) in plan.of_role(Role::Root) {
            key = key.with(format!("package {}", package.name), &package.sha256);
        }
        self.stage(key, |directory| {
            let input = plan.packages_input(Role::Root, directory, &[]);
            plan.namespaces()
                .step(&steps::UNPACK, &input, self.progress)?;
            Ok(Facts::default())
        })
        .map(|made| made.with_layer("tree", &[]))
    }

    /// The layer of native programs for maintainer scripts, where the lock has them and this host runs them.
    pub(super) fn tools(&mut self, unpacked: &Made) -> Result<Option<Made>> {
        let plan = self.plan;
        if plan.emulate || !tools::are_native() || plan.of_role(Role::Tool).next().is_none() {
            return Ok(None);
        }
        let mut key = Key::new("tools", TOOLS_REVISION).with("stage unpack", &unpacked.digest);
        for (package, _) in plan.of_role(Role::Tool) {
            key = key.with(format!("package {}", package.name), &package.sha256);
        }
        let progress = self.progress;
        self.stage(key, |directory| {
            let input = PackagesInput {
                image: plan.package_files(Role::Root),
                ..plan.packages_input(Role::Tool, directory, &unpacked.layers)
            };
            plan.namespaces().step(&steps::TOOLS, &input, progress)?;
            Ok(Facts::default())
        })
        .map(Some)
    }

    pub(super) fn configure(&mut self, unpacked: &Made) -> Result<Made> {
        let plan = self.plan;
        let tools = self.tools(unpacked)?;
        let mut key =
            Key::new("configure", CONFIGURE_REVISION).with("stage unpack", &unpacked.digest);
        if let Some(tools) = &tools {
            key = key.with("stage tools", &tools.digest);
        }
        let progress = self.progress;
        let tools = tools.as_ref().map(|made| made.stored.path.as_path());
        self.stage(key, |directory| {
            fallback::or_emulated(tools, directory, progress, |tools, emulated| {
                let input = PackagesInput {
                    tools: tools.map(Path::to_path_buf),
                    emulated: emulated.clone(),
                    ..plan.packages_input(Role::Root, directory, &unpacked.layers)
                };
                plan.namespaces()
                    .step(&steps::CONFIGURE, &input, progress)?;
                Ok(Facts::default())
            })
        })
        .map(|made| {
            let more = LAYERS_BELOW.map(|layer| made.stored.path.join(layer));
            let below = [unpacked.layers.as_slice(), &more].concat();
            made.with_layer("upper", &below)
        })
    }

    pub(super) fn image(&mut self, configured: &Made) -> Result<Made> {
        let plan = self.plan;
        let customisation = plan.customisation()?;
        let mut key = Key::new("image", IMAGE_REVISION).with("stage configure", &configured.digest);
        for (name, value) in customisation.inputs()? {
            key = key.with(name, value);
        }
        let progress = self.progress;
        self.stage(key, |directory| {
            let input = ImageInput {
                arch: plan.recipe.arch,
                epoch: plan.epoch,
                directory: directory.to_path_buf(),
                layers: configured.layers.clone(),
                customisation,
            };
            let made = plan.namespaces().step(&steps::IMAGE, &input, progress)?;
            let tar = Artifact {
                sha256: made.sha256,
                size: made.size,
            };
            Ok(Facts {
                artifacts: BTreeMap::from([("rootfs.tar".to_string(), tar)]),
                warnings: made.warnings,
                ..Facts::default()
            })
        })
        .map(|made| made.with_layer("upper", &configured.layers))
    }

    pub(super) fn boot(&mut self, image: &Made) -> Result<Made> {
        let plan = self.plan;
        let mut key = Key::new("boot", BOOT_REVISION)
            .with("stage image", &image.digest)
            .with("image", plan.image_id(image))
            .with("board types", serde_json::to_vec(&plan.boards)?);
        for (package, _) in plan.of_role(Role::Bootloader) {
            key = key.with(format!("package {}", package.name), &package.sha256);
        }
        let tar = image.stored.path.join("rootfs.tar");
        let progress = self.progress;
        self.stage(key, |directory| {
            let stage = progress.stage("boot", None, Unit::Items);
            let out = directory.join("out");
            fs::create_dir(&out)?;
            let bootloaders = plan.package_files(Role::Bootloader);
            let named = !plan.recipe.boards.is_empty();
            let kernel = thread::scope(|scope| {
                let kernel = scope.spawn(|| boot::extract_kernel(&tar, &out));
                boot::extract_bootloaders(&plan.boards, named, &bootloaders, &out)?;
                kernel.join().expect("extracting does not panic")
            })?;
            let sbom = sbom::document(&sbom::Subject {
                image: &plan.image_id(image),
                sha256: &image.facts.artifacts["rootfs.tar"].sha256,
                epoch: plan.epoch,
                packages: &plan.locked(),
            });
            fs::write(out.join("sbom.spdx.json"), sbom)?;
            let mut artifacts = BTreeMap::new();
            collect(&out, Path::new(""), &mut artifacts)?;
            stage.finish(&format!("kernel {}", kernel.as_deref().unwrap_or("none")));
            Ok(Facts {
                artifacts,
                kernel,
                ..Facts::default()
            })
        })
    }

    /// Finds a stage, or makes it.
    pub(super) fn stage(
        &mut self,
        key: Key,
        make: impl FnOnce(&Path) -> Result<Facts>,
    ) -> Result<Made> {
        let digest = key.digest();
        let (begun, loss) = match self.store.begin(&key)? {
            Begun::Done(stored) => match self.loss(&stored)? {
                Some(loss) => {
                    self.store.discard(stored)?;
                    (self.store.begin(&key)?, Some(loss))
                }
                None => (Begun::Done(stored), None),
            },
            begun => (begun, None),
        };
        let (stored, ran) = match begun {
            Begun::Done(stored) => (stored, false),
            Begun::ToDo(work) => {
                let facts = make(&work.path)?;
                for name in facts.artifacts.keys() {
                    seal(&artifact(&work.path, name), self.plan.epoch)?;
                }
                let path = work.path.join(FACTS);
                fs::write(&path, serde_json::to_vec(&facts)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                (work.commit()?, true)
            }
        };
        let facts = read_facts(&stored.path)?;
        // Two stages may need the same one.
        if !self.keys.contains(&key) {
            self.reports.push(StageReport {
                reason: loss.map_or_else(|| self.reason(&key, ran), str::to_string),
                stage: key.stage.clone(),
                ran,
            });
            self.keys.push(key);
        }
        Ok(Made {
            digest,
            stored,
            layers: Vec::new(),
            facts,
        })
    }

    /// Why a stage that was made cannot be used any more.
    fn loss(&self, stored: &Stored) -> Result<Option<&'static str>> {
        Ok(if !stored.survived()? {
            Some("this machine went down before the cache was on its disk")
        } else if !is_intact(&stored.path, self.plan.epoch) {
            Some("what the cache had of it was changed by somebody")
        } else {
            None
        })
    }

    fn reason(&self, key: &Key, ran: bool) -> String {
        let before = self.before.iter().find(|before| before.stage == key.stage);
        match (ran, before) {
            (false, _) => "nothing changed".into(),
            (true, None) => "not built before".into(),
            (true, Some(before)) => match key.changed_since(before) {
                changed if changed.is_empty() => "not in the cache any more".into(),
                changed => format!("changed: {}", changed.join(", ")),
            },
        }
    }

    /// Remembers what was used, and removes stages that no recipe uses any more.
    fn finish(&mut self) -> Result<()> {
        let keys: Vec<&Key> = self.keys.iter().collect();
        let known = keys.iter().all(|key| self.before.contains(key));
        if known {
            return Ok(());
        }
        self.store.remember(&self.plan.path, &keys)?;
        let unused = self.store.unused()?;
        remove(
            unused.iter().map(|(path, _)| path.clone()).collect(),
            self.progress,
        )
    }
}

const FACTS: &str = "stage.json";

fn read_facts(directory: &Path) -> Result<Facts> {
    let path = directory.join(FACTS);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; remove its directory", path.display()))
}

impl Made {
    fn with_layer(mut self, name: &str, below: &[PathBuf]) -> Self {
        self.layers = std::iter::once(self.stored.path.join(name))
            .chain(below.iter().cloned())
            .collect();
        self
    }

    pub(super) fn artifact(&self, name: &str) -> PathBuf {
        artifact(&self.stored.path, name)
    }

    fn artifacts(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        let names = self.facts.artifacts.keys();
        names.map(|name| (name.as_str(), self.artifact(name)))
    }
}

/// Where a stage in this directory keeps an artifact.
fn artifact(stage: &Path, name: &str) -> PathBuf {
    let direct = stage.join(name);
    if direct.exists() {
        direct
    } else {
        stage.join("out").join(name)
    }
}

/// Whether all artifacts of a stage are as they were made.
fn is_intact(stage: &Path, epoch: i64) -> bool {
    read_facts(stage).is_ok_and(|facts| {
        facts
            .artifacts
            .iter()
            .all(|(name, made)| is_sealed(&artifact(stage, name), made.size, epoch))
    })
}

impl Plan {
    /// The plan for a recipe and its lock; `debs` are the lock's packages on the disk, in its order.
    /// The epoch is `SOURCE_DATE_EPOCH`, else the date of the lock's newest release.
    ///
    /// # Errors
    /// If a board type that the recipe names is unknown or of another architecture, or there is no
    /// sensible epoch.
    pub fn new(file: &RecipeFile, lock: &Lock, debs: Vec<PathBuf>) -> Result<Self> {
        Ok(Plan {
            name: file.name.clone(),
            path: if file.is_built_in() {
                file.path.clone()
            } else {
                std::path::absolute(&file.path)?
            },
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

    /// Where the image's programs run.
    fn namespaces(&self) -> Namespaces {
        Namespaces::running(self.recipe.arch)
    }

    fn of_role(&self, role: Role) -> impl Iterator<Item = &(LockedPackage, PathBuf)> {
        self.packages
            .iter()
            .filter(move |(package, _)| package.role == role)
    }

    fn locked(&self) -> Vec<LockedPackage> {
        self.packages
            .iter()
            .map(|(package, _)| package.clone())
            .collect()
    }

    fn package_files(&self, role: Role) -> Vec<PackageFile> {
        self.of_role(role)
            .map(|(package, deb)| PackageFile::of(package, deb))
            .collect()
    }

    fn packages_input(&self, role: Role, directory: &Path, layers: &[PathBuf]) -> PackagesInput {
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
        }
    }

    /// Where relative paths in the recipe begin.
    pub(super) fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        }
    }

    fn customisation(&self) -> Result<Customisation> {
        let auto = self
            .of_role(Role::Root)
            .filter(|(package, _)| package.auto)
            .map(|(package, _)| package.name.clone())
            .collect();
        Ok(Customisation::new(&self.recipe, self.directory(), auto))
    }

    fn image_id(&self, image: &Made) -> String {
        let tar = &image.facts.artifacts["rootfs.tar"];
        format!("{}-{}", self.name, tar.sha256.get(..12).unwrap_or_default())
    }

    fn manifest(&self, image: &Made, boot: &Made, initrd: &Made) -> Manifest {
        let mut artifacts = image.facts.artifacts.clone();
        artifacts.extend(boot.facts.artifacts.clone());
        artifacts.extend(initrd.facts.artifacts.clone());
        Manifest {
            hearth: env!("CARGO_PKG_VERSION").into(),
            recipe: RecipeReference {
                name: self.name.clone(),
                sha256: self.recipe_sha256.clone(),
            },
            lock: LockReference {
                sha256: self.lock_sha256.clone(),
            },
            arch: self.recipe.arch,
            epoch: self.epoch,
            kernel: boot.facts.kernel.clone(),
            image: self.image_id(image),
            artifacts,
        }
    }
}

/// The board types that the recipe is for, by name.
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

/// Unix seconds of the newest that a file in the image may be.
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

pub(super) fn remove(paths: Vec<PathBuf>, progress: &dyn Progress) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    Namespaces::new().step(&steps::REMOVE, &paths, progress)
}
