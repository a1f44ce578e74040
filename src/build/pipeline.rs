//! Owns the pipeline from a lock's packages to an output directory: the stages and the inputs of
//! each.
//! Never fetches: the packages are on the disk already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::boot;
use super::image::{IMAGE, ImageInput};
use super::keys::{configure_key, image_key};
use super::plan::Plan;
use super::publish::{collect, publish, set_date};
use super::sbom;
use super::sealing::Seals;
use super::stages::{Begun, Key, StageCache, Stored};
use crate::error::Fault;
use crate::image::{Artifact, LockReference, Manifest, RecipeReference};
use crate::output::refuse_no_output;
use crate::progress::{Progress, Unit};
use crate::recipe::Role;
use crate::rootfs::{CONFIGURE, LAYERS_BELOW, PackagesInput, TOOLS, UNPACK, fallback, tools};
use crate::sandbox::{Namespaces, owners, remove};

/// The result of a build.
#[derive(Clone, Debug)]
pub struct Built {
    pub manifest: Manifest,
    /// In the order of the pipeline.
    pub stages: Vec<StageReport>,
    /// Whether the output directory was written; otherwise it was up to date.
    pub written: bool,
}

/// Whether a stage ran, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageReport {
    pub stage: String,
    pub ran: bool,
    pub reason: String,
}

/// Builds the image and its boot artifacts, and publishes them in `out`.
///
/// # Errors
/// The first error of a stage. `out` is unchanged then; completed stages stay in the cache.
pub fn build(plan: &Plan, out: &Path, progress: &dyn Progress) -> Result<Built> {
    refuse_no_output(out)?;
    Pipeline::run(plan, progress, |pipeline| {
        let unpacked = pipeline.unpack()?;
        let configured = pipeline.configure(&unpacked)?;
        let image = pipeline.image(&configured)?;
        let boot = pipeline.boot(&image)?;
        let initrd = pipeline.initrd(&unpacked, &image, &boot, &plan.initrd())?;
        pipeline.verify(&[&image, &boot, &initrd])?;
        for warning in &image.facts.warnings {
            log::warn!("{warning}");
        }
        let manifest = plan.manifest(&image, &boot, &initrd);
        let artifacts = [&image, &boot, &initrd]
            .into_iter()
            .flat_map(FinishedStage::artifacts);
        let written = publish(&manifest, artifacts, out, plan.epoch)?;
        let linked: &[&FinishedStage] = if written {
            &[&image, &boot, &initrd]
        } else {
            &[]
        };
        pipeline.finish(linked)?;
        Ok(Built {
            manifest,
            stages: std::mem::take(&mut pipeline.reports),
            written,
        })
    })
}

/// How far to build an image for `hearth shell` and `hearth run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Before any maintainer script has run.
    Unpacked,
    /// The complete image.
    Complete,
}

/// The layers of an image as lowerdirs, topmost first; builds what is missing.
///
/// # Errors
/// As [`build`].
pub fn layers(plan: &Plan, until: Until, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    Pipeline::run(plan, progress, |pipeline| {
        let unpacked = pipeline.unpack()?;
        if until == Until::Unpacked {
            pipeline.verify(&[&unpacked])?;
            return Ok(unpacked.layers);
        }
        let configured = pipeline.configure(&unpacked)?;
        let image = pipeline.image(&configured)?;
        pipeline.verify(&[&unpacked, &configured, &image])?;
        Ok(image.layers)
    })
}

/// A completed stage, with what later stages and the output directory use of it.
pub(super) struct FinishedStage {
    pub digest: String,
    pub stored: Stored,
    pub layers: Vec<PathBuf>,
    pub facts: Facts,
}

/// Stage metadata (`stage.json`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    pub artifacts: BTreeMap<String, Artifact>,
    pub kernel: Option<String>,
    /// Shown by every build that uses the stage.
    #[serde(default)]
    pub warnings: Vec<String>,
}

pub(super) struct Pipeline<'a> {
    pub plan: &'a Plan,
    pub progress: &'a dyn Progress,
    store: StageCache,
    before: Vec<Key>,
    keys: Vec<Key>,
    reports: Vec<StageReport>,
    seals: Seals,
    /// Stages that were in the cache, by directory and digest, and have not been checked against their seals: a tree of
    /// thousands of files is looked at only if something is made of it or handed out.
    unchecked: Vec<(PathBuf, String)>,
    /// The digests of stages that this build has made.
    made: BTreeSet<String>,
    /// Stages, by digest, that are in the cache and not what they were made as, and why.
    lost: BTreeMap<String, String>,
}

impl<'a> Pipeline<'a> {
    /// Runs `stages`, and once more if one that was in the cache is found not to be what it was made as.
    pub(super) fn run<T>(
        plan: &'a Plan,
        progress: &'a dyn Progress,
        mut stages: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut pipeline = Pipeline::start(plan, progress)?;
        for _ in 0..MOST_RUNS {
            match stages(&mut pipeline) {
                Err(error) if error.is::<Lost>() => pipeline.begin_again(),
                other => return other,
            }
        }
        Err(Fault::host("the cache's stages are changed by somebody while they are used").into())
    }

    fn start(plan: &'a Plan, progress: &'a dyn Progress) -> Result<Self> {
        let store = StageCache::open(&plan.cache)?;
        let abandoned = store.abandoned()?;
        remove(
            &abandoned.iter().map(|(path, _)| path.clone()).collect(),
            progress,
        )?;
        Ok(Pipeline {
            before: store.remembered(&plan.owner),
            plan,
            progress,
            store,
            keys: Vec::new(),
            reports: Vec::new(),
            seals: Seals::new(),
            unchecked: Vec::new(),
            made: BTreeSet::new(),
            lost: BTreeMap::new(),
        })
    }

    fn begin_again(&mut self) {
        self.keys.clear();
        self.reports.clear();
        self.unchecked.clear();
    }

    /// Checks those of these stages against their seals that were in the cache and have not been checked.
    ///
    /// # Errors
    /// [`Lost`] if one is not what it was made as.
    pub(super) fn verify(&mut self, stages: &[&FinishedStage]) -> Result<()> {
        let is_wanted = |digest: &String| stages.iter().any(|stage| stage.digest == *digest);
        let (wanted, rest) = std::mem::take(&mut self.unchecked)
            .into_iter()
            .partition(|(_, digest)| is_wanted(digest));
        self.unchecked = rest;
        self.check(&wanted)
    }

    /// Makes a stage while those that it is made of are checked. It is dropped if one of them is not what it was made as:
    /// what it made of that was in the sandbox.
    fn make_of_checked(&mut self, make: impl FnOnce() -> Result<Facts>) -> Result<Facts> {
        let found = std::mem::take(&mut self.unchecked);
        let seals = &self.seals;
        let (faults, made) = thread::scope(|scope| {
            let checking = scope.spawn(|| seals.faults(&found));
            let made = make();
            (checking.join().expect("checking does not panic"), made)
        });
        self.note_lost(&found, faults?)?;
        made
    }

    fn check(&mut self, stages: &[(PathBuf, String)]) -> Result<()> {
        let faults = self.seals.faults(stages)?;
        self.note_lost(stages, faults)
    }

    /// # Errors
    /// [`Lost`] if one of the stages has a fault.
    fn note_lost(
        &mut self,
        stages: &[(PathBuf, String)],
        faults: Vec<Option<String>>,
    ) -> Result<()> {
        for ((_, digest), fault) in stages.iter().zip(faults) {
            if let Some(fault) = fault {
                self.lost.insert(digest.clone(), fault);
            }
        }
        match self.lost.is_empty() {
            true => Ok(()),
            false => Err(Lost.into()),
        }
    }

    pub(super) fn unpack(&mut self) -> Result<FinishedStage> {
        let plan = self.plan;
        self.stage(plan.unpack_key(owners()?), |directory| {
            let input = plan.packages_input(Role::Root, directory, &[]);
            Namespaces::running(plan.recipe.arch).step(&UNPACK, &input, self.progress)?;
            Ok(Facts::default())
        })
        .map(|made| made.with_layer("tree", &[]))
    }

    /// The layer of native programs for maintainer scripts; `None` if the lock has none or this
    /// host cannot run them.
    pub(super) fn tools(&mut self, unpacked: &FinishedStage) -> Result<Option<FinishedStage>> {
        let plan = self.plan;
        if plan.emulate || !tools::are_native() || plan.of_role(Role::Tool).next().is_none() {
            return Ok(None);
        }
        let progress = self.progress;
        self.stage(plan.tools_key(&unpacked.digest), |directory| {
            let input = PackagesInput {
                image: plan.package_files(Role::Root),
                ..plan.packages_input(Role::Tool, directory, &unpacked.layers)
            };
            Namespaces::running(plan.recipe.arch).step(&TOOLS, &input, progress)?;
            Ok(Facts::default())
        })
        .map(Some)
    }

    pub(super) fn configure(&mut self, unpacked: &FinishedStage) -> Result<FinishedStage> {
        let plan = self.plan;
        let tools = self.tools(unpacked)?;
        let key = configure_key(
            &unpacked.digest,
            tools.as_ref().map(|made| made.digest.as_str()),
        );
        let progress = self.progress;
        let tools = tools.as_ref().map(|made| made.stored.path.as_path());
        self.stage(key, |directory| {
            fallback::or_emulated(tools, directory, progress, |tools, emulated| {
                let input = PackagesInput {
                    tools: tools.map(Path::to_path_buf),
                    emulated: emulated.clone(),
                    ..plan.packages_input(Role::Root, directory, &unpacked.layers)
                };
                Namespaces::running(plan.recipe.arch).step(&CONFIGURE, &input, progress)?;
                Ok(Facts::default())
            })
        })
        .map(|made| {
            let more = LAYERS_BELOW.map(|layer| made.stored.path.join(layer));
            let below = [unpacked.layers.as_slice(), &more].concat();
            made.with_layer("upper", &below)
        })
    }

    pub(super) fn image(&mut self, configured: &FinishedStage) -> Result<FinishedStage> {
        let plan = self.plan;
        let customisation = plan.customisation()?;
        let key = image_key(&configured.digest, &customisation)?;
        let progress = self.progress;
        self.stage(key, |directory| {
            let input = ImageInput {
                arch: plan.recipe.arch,
                epoch: plan.epoch,
                directory: directory.to_path_buf(),
                layers: configured.layers.clone(),
                customisation,
                limits: plan.limits(),
            };
            let made = Namespaces::running(plan.recipe.arch).step(&IMAGE, &input, progress)?;
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

    pub(super) fn boot(&mut self, image: &FinishedStage) -> Result<FinishedStage> {
        let plan = self.plan;
        let key = plan.boot_key(&image.digest, &plan.image_id(image))?;
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

    /// Returns a stage from the cache, or makes it.
    pub(super) fn stage(
        &mut self,
        key: Key,
        make: impl FnOnce(&Path) -> Result<Facts>,
    ) -> Result<FinishedStage> {
        let digest = key.digest();
        let (begun, loss) = match self.store.begin(&key)? {
            Begun::Done(stored) => match self.loss(&digest, &stored)? {
                Some(loss) => {
                    log::warn!("the stage {} is made again: {loss}", key.stage);
                    self.store.discard(stored)?;
                    (self.store.begin(&key)?, Some(loss))
                }
                None => (Begun::Done(stored), None),
            },
            begun => (begun, None),
        };
        let (stored, ran) = match begun {
            Begun::Done(stored) => {
                if !self.keys.contains(&key) && !self.made.contains(&digest) {
                    self.unchecked.push((stored.path.clone(), digest.clone()));
                }
                (stored, false)
            }
            Begun::ToDo(work) => {
                let facts = self.make_of_checked(|| make(&work.path))?;
                let mut known = BTreeMap::new();
                for (name, made) in &facts.artifacts {
                    let path = artifact(&work.path, name);
                    set_date(&path, self.plan.epoch)?;
                    let path = path.strip_prefix(&work.path).unwrap_or(&path);
                    known.insert(path.to_path_buf(), made.sha256.clone());
                }
                let path = work.path.join(FACTS);
                fs::write(&path, serde_json::to_vec(&facts)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                let (stored, unsealed) = work.commit()?;
                self.made.insert(digest.clone());
                let is_linked = !known.is_empty();
                self.seals.add(unsealed, &stored.path, &digest, known);
                // What is linked into the output is sealed after that.
                if !is_linked {
                    self.seals.begin();
                }
                (stored, true)
            }
        };
        let facts = read_facts(&stored.path)?;
        // Two stages may depend on the same one.
        if !self.keys.contains(&key) {
            self.reports.push(StageReport {
                reason: loss.unwrap_or_else(|| self.reason(&key, ran)),
                stage: key.stage.clone(),
                ran,
            });
            self.keys.push(key);
        }
        Ok(FinishedStage {
            digest,
            stored,
            layers: Vec::new(),
            facts,
        })
    }

    /// Why a cached stage cannot be used any more, as far as is known.
    fn loss(&mut self, digest: &str, stored: &Stored) -> Result<Option<String>> {
        if let Some(fault) = self.lost.remove(digest) {
            return Ok(Some(fault));
        }
        if !stored.survived()? {
            let loss = "this machine went down before the cache was on its disk";
            return Ok(Some(loss.into()));
        }
        Ok(read_facts(&stored.path)
            .err()
            .map(|error| format!("{error:#}")))
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

    /// Remembers what was used, and removes stages that no recipe uses any more. `linked` are the stages whose files were
    /// linked into the output.
    fn finish(&mut self, linked: &[&FinishedStage]) -> Result<()> {
        let stages: Vec<_> = linked
            .iter()
            .map(|made| (made.stored.path.clone(), made.digest.clone()))
            .collect();
        self.seals.finish(&stages)?;
        let keys: Vec<&Key> = self.keys.iter().collect();
        let known = keys.iter().all(|key| self.before.contains(key));
        if known {
            return Ok(());
        }
        self.store.remember(&self.plan.owner, &keys)?;
        let unused = self.store.unused()?;
        remove(
            &unused.iter().map(|(path, _)| path.clone()).collect(),
            self.progress,
        )
    }
}

const FACTS: &str = "stage.json";
/// How often a build begins again because a stage was not what it was made as: each time it makes one anew.
const MOST_RUNS: usize = 8;

/// A stage of the cache is not what it was made as; [`Pipeline::lost`] says which.
#[derive(Debug, thiserror::Error)]
#[error("a stage of the cache is not what it was made as")]
struct Lost;

fn read_facts(directory: &Path) -> Result<Facts> {
    let path = directory.join(FACTS);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

impl FinishedStage {
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

/// The path of an artifact in the directory of a stage.
fn artifact(stage: &Path, name: &str) -> PathBuf {
    let direct = stage.join(name);
    if direct.exists() {
        direct
    } else {
        stage.join("out").join(name)
    }
}

impl Plan {
    fn image_id(&self, image: &FinishedStage) -> String {
        // What a stage says of itself is used before it is checked.
        let tar = image.facts.artifacts.get("rootfs.tar");
        let start = tar.and_then(|tar| tar.sha256.get(..12));
        format!("{}-{}", self.name, start.unwrap_or_default())
    }

    fn manifest(
        &self,
        image: &FinishedStage,
        boot: &FinishedStage,
        initrd: &FinishedStage,
    ) -> Manifest {
        let mut artifacts = image.facts.artifacts.clone();
        artifacts.extend(boot.facts.artifacts.clone());
        artifacts.extend(initrd.facts.artifacts.clone());
        Manifest {
            hearth: env!("CARGO_PKG_VERSION").into(),
            recipe: RecipeReference {
                name: self.name.clone(),
                sha256: self.recipe_sha256.clone(),
            },
            lock: Some(LockReference {
                sha256: self.lock_sha256.clone(),
            }),
            arch: self.recipe.arch,
            epoch: self.epoch,
            kernel: boot.facts.kernel.clone(),
            image: self.image_id(image),
            artifacts,
            layers: Vec::new(),
            kernel_arguments: Vec::new(),
            sources: BTreeMap::new(),
        }
    }
}
