//! Owns booting what a user has built, a kernel, modules, a device tree, an initrd or a bootloader, with the rest of an
//! image: which parts there are, whether they fit, and the output directory with them. Never copies the image's root.

mod bootloader;
mod device_tree;
mod initrd;
mod kernel;
mod modules;
mod needs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use self::bootloader::files as bootloader_files;
use crate::build::compose::{Change, Derived, derive};
use crate::build::{Key, SideStages, Stored};
use crate::dirs;
use crate::error::Fault;
use crate::image::{Artifact, Manifest, Source};
use crate::progress::Progress;
use crate::recipe::{Board, BoardType, Own};

/// What a board boots that has something of its own.
pub struct OwnBoot {
    /// The output directory, which stays in the cache while this lives.
    pub derived: Derived,
    /// The board with the kernel arguments and the device tree of its own, and nothing left to prepare.
    pub board: Board,
}

/// Makes the output directory that a board boots, out of that of an image and the board's own parts, or finds it in the
/// cache. `None` if the board has nothing of its own.
///
/// # Errors
/// If a part cannot be read, is for another board, or does not fit the others.
pub fn prepare(board: &Board, base: &Path, progress: &dyn Progress) -> Result<Option<OwnBoot>> {
    if board.own.is_empty() {
        return Ok(None);
    }
    let mut board = board.clone();
    let inputs = inputs(&board, base);
    let mut work = Work {
        base,
        manifest: Manifest::load(base)?,
        type_name: board.type_name.clone(),
        stages: SideStages::open(&dirs::cache(), &inputs, progress)?,
        change: Change::default(),
        held: Vec::new(),
    };
    work.check_arch(&board.board_type)?;
    let own = board.own.clone();
    work.take_parts(&own, &mut board.board_type)?;
    let arguments = own.arguments();
    board.board_type.kernel_arguments.extend(arguments.clone());
    work.change.kernel_arguments = arguments;
    let derived = derive(base, &work.change, &mut work.stages)?;
    work.stages.finish()?;
    board.own = Own::default();
    Ok(Some(OwnBoot { derived, board }))
}

/// What the stages are kept for. The board type is one of them, since the same kernel has another initrd on another.
fn inputs(board: &Board, base: &Path) -> Vec<PathBuf> {
    let board_type = Path::new("<hearth>/board type").join(&board.type_name);
    let paths = board.own.paths().cloned();
    [base.to_path_buf(), board_type]
        .into_iter()
        .chain(paths)
        .collect()
}

/// The change of an output directory in the making.
struct Work<'a> {
    base: &'a Path,
    /// The base's.
    manifest: Manifest,
    /// Name of the board type.
    type_name: String,
    stages: SideStages<'a>,
    change: Change,
    /// Stages that parts of the change are in, until it is made.
    held: Vec<Stored>,
}

impl Work<'_> {
    fn check_arch(&self, board_type: &BoardType) -> Result<()> {
        if self.manifest.arch == board_type.arch {
            return Ok(());
        }
        Err(Fault::input(format!(
            "the image {} is for {}, but a {} is {}",
            self.manifest.image, self.manifest.arch, self.type_name, board_type.arch
        ))
        .remedy("choose an image of the board's architecture with --image or --recipe")
        .into())
    }

    /// Takes what the user named, in the order in which the parts depend on each other.
    fn take_parts(&mut self, own: &Own, board_type: &mut BoardType) -> Result<()> {
        let given = kernel::take(self, own, board_type)?;
        let trees = device_tree::take(self, own, given.as_ref(), board_type)?;
        let kernel = modules::take(self, own, given, board_type.arch)?;
        if own.initrd.is_some() || kernel.is_some() || trees.is_some() {
            initrd::take(self, own, kernel, trees.as_deref(), board_type)?;
        }
        bootloader::take(self, own, board_type)
    }

    /// Makes files in a stage, or finds it, and holds it.
    fn stage(&mut self, key: Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let stored = self.stages.stage(key, make)?;
        let path = stored.path.clone();
        self.held.push(stored);
        Ok(path)
    }

    /// Notes where a part came from.
    fn note_source(&mut self, what: &str, path: &Path, sha256: &str) {
        let source = Source {
            path: path.display().to_string(),
            sha256: sha256.to_string(),
        };
        self.change.sources.insert(what.to_string(), source);
    }
}

/// Artifacts of a stage by file name, as [`write_artifacts`] has noted them.
type Artifacts = BTreeMap<String, Artifact>;

const ARTIFACTS: &str = "artifacts.json";

/// Notes the sizes and hashes of a stage's files in it, so that they need not be hashed again.
fn write_artifacts(stage: &Path, names: &[&str]) -> Result<()> {
    let mut artifacts = Artifacts::new();
    for name in names {
        artifacts.insert((*name).to_string(), Artifact::of(&stage.join(name))?);
    }
    write_json(&stage.join(ARTIFACTS), &artifacts)
}

fn read_artifacts(stage: &Path) -> Result<Artifacts> {
    read_json(&stage.join(ARTIFACTS))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    std::fs::write(path, serde_json::to_vec(value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let failed = || format!("cannot read {}", path.display());
    let text = std::fs::read(path).with_context(failed)?;
    serde_json::from_slice(&text).with_context(failed)
}

/// Refuses a path that is not there, by the option that it was given with.
fn exists(path: &Path, what: &str) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Fault::input(format!(
            "there is no {what} {}",
            path.display()
        ))
        .remedy("correct the path")
        .into()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the {what} {}", path.display()))
        }
    }
}
