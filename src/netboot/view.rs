//! Owns the tree of files that boards see, the same over TFTP and HTTP: boot scripts rendered when they are asked
//! for, and the artifacts of images. Never writes it down: that is `hearth netboot`.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::store::Store;
use super::tftp::{Content, Files};
use crate::error::Fault;
use crate::input;
use crate::recipe::{Board, LoadedLab, Mac};
use crate::uboot::{BootScript, Templates, Values};

/// Where the kernel keeps which address has which MAC.
const ARP: &str = "/proc/net/arp";

#[derive(Debug)]
pub struct View {
    /// The lab as it was when the server started; its file is read again for each boot script.
    lab: LoadedLab,
    store: Arc<Store>,
}

impl View {
    pub fn new(lab: LoadedLab, store: Arc<Store>) -> Self {
        View { lab, store }
    }

    /// The lab as its file describes it now.
    pub fn lab(&self) -> Result<LoadedLab> {
        match &self.lab.path {
            Some(path) => LoadedLab::load(path),
            None => Ok(self.lab.clone()),
        }
    }

    /// A board's script for the image that is its next: in all forms, with the paths they have.
    fn script(&self, lab: &LoadedLab, board: &Board) -> Result<BootScript> {
        let recipe = board.recipe.as_deref().ok_or_else(|| {
            Fault::input(format!("board `{}` has no recipe", board.name))
                .remedy("give it one in the lab file, or the whole lab: recipe = \"…\"")
        })?;
        let image = self.store.current(recipe)?;
        let templates = Templates::load()?;
        // Ports are those that this server has, whatever the file says by now.
        let mut settings = lab.settings.clone();
        settings.ports = self.lab.settings.ports;
        settings.address = self.lab.settings.address;
        let values = Values::of(board, &settings, Some(&image.id));
        BootScript::render(
            &templates,
            &board.boot_script,
            &values,
            board.board_type.arch,
            // A script has no time of its own: the same values give the same bytes.
            0,
        )
    }

    /// One file of a board's script, by its path in the tree.
    fn script_file(&self, lab: &LoadedLab, board: &Board, path: &str) -> Result<Option<Content>> {
        let script = self.script(lab, board)?;
        let files = script.network_files(&board.name, board.mac);
        let found = files.into_iter().find(|(known, _)| known == path);
        Ok(found.map(|(_, data)| Content::Bytes(data.to_vec())))
    }

    /// The board at an address, for a request that names none: by the lab file, by the kernel's ARP table, or
    /// because there is only one.
    fn board_at<'a>(&self, lab: &'a LoadedLab, peer: IpAddr) -> Option<&'a Board> {
        let by_address = || {
            let mut boards = lab.boards.iter();
            boards.find(|board| board.address.map(IpAddr::V4) == Some(peer))
        };
        let by_mac = || lab.board_with_mac(mac_of(peer)?);
        let only = || match lab.boards.as_slice() {
            [board] => Some(board),
            _ => None,
        };
        by_address().or_else(by_mac).or_else(only)
    }

    /// An artifact of an image, as it was built with it.
    fn artifact(&self, below: &str) -> Result<Option<Content>> {
        let Some((id, path)) = below.split_once('/') else {
            return Ok(None);
        };
        let Some(export) = self.store.by_id(id) else {
            return Ok(None);
        };
        open_below(export.directory.join(path))
    }

    fn index(&self) -> Result<Content> {
        let lab = self.lab()?;
        let images: Vec<_> = self
            .store
            .listing()
            .into_iter()
            .map(|(image, recipe)| json!({ "image": image, "recipe": recipe }))
            .collect();
        let boards: Vec<_> = lab
            .boards
            .iter()
            .map(|board| {
                json!({
                    "board": board.name,
                    "type": board.type_name,
                    "mac": board.mac.to_string(),
                    "recipe": board.recipe,
                })
            })
            .collect();
        let index = json!({ "lab": lab.settings.name, "images": images, "boards": boards });
        let mut text = serde_json::to_vec_pretty(&index)?;
        text.push(b'\n');
        Ok(Content::Bytes(text))
    }
}

impl Files for View {
    fn open(&self, path: &str, peer: IpAddr) -> Result<Option<Content>> {
        if path.is_empty() {
            return self.index().map(Some);
        }
        if let Some(below) = path.strip_prefix("images/") {
            return self.artifact(below);
        }
        let lab = self.lab()?;
        if let Some(below) = path.strip_prefix("boards/") {
            let name = below.split('/').next().unwrap_or_default();
            let board = lab.boards.iter().find(|board| board.name == name);
            return match board {
                Some(board) => self.script_file(&lab, board, path),
                None => Ok(None),
            };
        }
        if let Some(mac) = path.strip_prefix("pxelinux.cfg/01-") {
            let board = mac
                .parse()
                .ok()
                .and_then(|mac: Mac| lab.board_with_mac(mac));
            return match board {
                Some(board) => self.script_file(&lab, board, path),
                None => Ok(None),
            };
        }
        if matches!(path, "boot.scr.uimg" | "boot.scr") {
            let Some(board) = self.board_at(&lab, peer) else {
                log::warn!("{peer} asks for {path} and is no board that the lab file knows");
                return Ok(None);
            };
            let own = format!("boards/{}/{path}", board.name);
            return self.script_file(&lab, board, &own);
        }
        Ok(None)
    }
}

/// A regular file; what is missing, or no file, is not there.
fn open_below(path: PathBuf) -> Result<Option<Content>> {
    match input::open(&path) {
        Ok(file) => Ok(Some(Content::of(file)?)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::InvalidData
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
    }
}

/// The MAC that the kernel has learnt for an address (Linux, Documentation/filesystems/proc.rst).
fn mac_of(address: IpAddr) -> Option<Mac> {
    let table = fs::read_to_string(ARP).ok()?;
    let address = address.to_string();
    let line = table
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().next() == Some(&address))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
