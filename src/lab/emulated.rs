//! Owns how a board of a board type becomes an emulated one: which files of a build it starts from, and its card.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::board::network::user_network;
use crate::board::qemu::Spec;
use crate::error::Fault;
use crate::media::{BoardCard, TestPartition};
use crate::output::AtomicFile;
use crate::recipe::{Board, EmulatedNetwork, LabSettings, Place};
use crate::uboot::Templates;

/// The size of an emulated card, in bytes: QEMU takes powers of two only. What the board's boot does not need is
/// a partition for tests.
const CARD: u64 = 64 << 20;

/// Writes the board's card into `directory` and says how to emulate the board from the build output in `build`.
///
/// # Errors
/// If QEMU cannot be this board, or the build lacks its bootloader.
pub fn prepare(board: &Board, lab: &LabSettings, build: &Path, directory: &Path) -> Result<Spec> {
    let emulation = board.board_type.emulation.clone().ok_or_else(|| {
        Fault::input(format!("QEMU cannot be a {}", board.type_name))
            .remedy("`hearth boards` shows which types can be emulated")
    })?;
    let image = BoardCard {
        board,
        lab,
        templates: &Templates::load()?,
        build: Some(build),
        test: Some(TestPartition::Rest),
        size: Some(CARD),
    }
    .image()?;
    let card = directory.join("card.img");
    image.write_to(AtomicFile::create(&card)?)?;
    Ok(Spec {
        arch: board.board_type.arch,
        firmware: firmware(board, build)?,
        card: Some(card),
        network: user_network(1, &board.name),
        mac: (emulation.network == EmulatedNetwork::VirtioNetPci).then_some(board.mac),
        emulation,
    })
}

/// The file of the build that is the emulator's firmware, for types whose bootloader is not on the card.
fn firmware(board: &Board, build: &Path) -> Result<Option<PathBuf>> {
    let blobs = board
        .board_type
        .bootloader
        .iter()
        .flat_map(|bootloader| &bootloader.blobs);
    let Some(file) = blobs
        .filter(|blob| blob.place == Place::Firmware)
        .find_map(|blob| blob.file.as_deref())
    else {
        return Ok(None);
    };
    let path = build.join("bootloader").join(&board.type_name).join(file);
    fs::metadata(&path).with_context(|| {
        format!(
            "the build in {} lacks the bootloader of {}",
            build.display(),
            board.type_name
        )
    })?;
    // QEMU is started in the same directory, but takes a bare name for a file of its own.
    Ok(Some(fs::canonicalize(path)?))
}
