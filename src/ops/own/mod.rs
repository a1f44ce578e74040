//! Owns booting what a user has built, a kernel, modules, a device tree, an initrd or a bootloader, with the rest of an
//! image: which parts there are, whether they fit, and the output directory with them. Never copies the image's root.

mod bootloader;
mod device_tree;
mod initrd;
mod kernel;
mod modules;
mod needs;
mod work;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use self::bootloader::files as bootloader_files;
use self::work::Work;
use crate::build::SideStages;
use crate::build::compose::{Change, Derived, derive};
use crate::dirs;
use crate::image::Manifest;
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
    take_parts(&mut work, &own, &mut board.board_type)?;
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

/// Takes what the user named, in the order in which the parts depend on each other.
fn take_parts(work: &mut Work<'_>, own: &Own, board_type: &mut BoardType) -> Result<()> {
    let given = kernel::take(work, own, board_type)?;
    let trees = device_tree::take(work, own, given.as_ref(), board_type)?;
    let kernel = modules::take(work, own, given, board_type.arch)?;
    if own.initrd.is_some() || kernel.is_some() || trees.is_some() {
        initrd::take(work, own, kernel, trees.as_deref(), board_type)?;
    }
    bootloader::take(work, own, board_type)
}
