//! Owns the virtual tree of files for boards, the same over TFTP and HTTP: boot scripts rendered on
//! request, and the artifacts of images. Never writes it to disk: `hearth netboot` does.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::current_lab::{CurrentLab, CurrentTemplates};
use super::images::Images;
use crate::input;
use crate::netboot::tftp::{Content, Files};
use crate::recipe::{Board, LoadedLab, Mac, boot_values};
use crate::uboot::BootScript;

/// The kernel's ARP table.
const ARP: &str = "/proc/net/arp";

pub struct View {
    lab: CurrentLab,
    templates: CurrentTemplates,
    images: Arc<Images>,
}

impl View {
    pub fn new(lab: LoadedLab, images: Arc<Images>) -> Self {
        View {
            lab: CurrentLab::new(lab),
            templates: CurrentTemplates::default(),
            images,
        }
    }

    /// The lab as its file describes it now.
    pub fn lab(&self) -> Result<Arc<LoadedLab>> {
        self.lab.get()
    }

    /// Whether a host is a board of the lab: by its address in the lab file, or by its MAC.
    pub fn is_board(&self, peer: IpAddr) -> bool {
        self.lab()
            .is_ok_and(|lab| known_board(&lab, peer).is_some())
    }

    /// A board's script for the image that it boots next: all formats, with their paths.
    fn script(&self, lab: &LoadedLab, board: &Board) -> Result<BootScript> {
        let image = self.images.next_of(&board.name, board.recipe.as_deref())?;
        let templates = self.templates.get()?;
        // The ports of the running server, even if the file has changed.
        let mut settings = lab.settings.clone();
        settings.ports = self.lab.first().settings.ports;
        settings.address = self.lab.first().settings.address;
        let values = boot_values(board, &settings, Some(&image.id));
        BootScript::render(
            &templates,
            &board.boot_script,
            &values,
            board.board_type.arch,
            // No time in the header: the same values give the same bytes.
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

    /// The board at an address, for a request without a name: according to the lab file, the
    /// kernel's ARP table, or because there is only one.
    fn board_at<'a>(&self, lab: &'a LoadedLab, peer: IpAddr) -> Option<&'a Board> {
        let only = || match lab.boards.as_slice() {
            [board] => Some(board),
            _ => None,
        };
        known_board(lab, peer).or_else(only)
    }

    /// An artifact built with an image.
    fn artifact(&self, below: &str) -> Result<Option<Content>> {
        let Some((id, path)) = below.split_once('/') else {
            return Ok(None);
        };
        let Some(export) = self.images.by_id(id) else {
            return Ok(None);
        };
        open_below(export.directory.join(path))
    }

    /// The images and the boards of the lab, as JSON.
    pub fn index(&self) -> Result<Vec<u8>> {
        let lab = self.lab()?;
        let images: Vec<_> = self
            .images
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
        Ok(text)
    }
}

impl Files for View {
    fn open(&self, path: &str, peer: IpAddr) -> Result<Option<Content>> {
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

/// The board that the lab file has at this address, or whose MAC the kernel has seen there.
fn known_board(lab: &LoadedLab, peer: IpAddr) -> Option<&Board> {
    let mut boards = lab.boards.iter();
    let by_address = boards.find(|board| board.address.map(IpAddr::V4) == Some(peer));
    by_address.or_else(|| lab.board_with_mac(mac_of(peer)?))
}

/// Opens a regular file; `None` if it is missing or not a regular file.
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

/// The MAC of an address in the kernel's ARP table (Linux, Documentation/filesystems/proc.rst).
fn mac_of(address: IpAddr) -> Option<Mac> {
    let table = fs::read_to_string(ARP).ok()?;
    let address = address.to_string();
    let line = table
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().next() == Some(&address))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
