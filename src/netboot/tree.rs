//! Owns the netboot tree: the files for a lab's boards on any TFTP server.
//! Never serves it.
//!
//! ```text
//! images/<image id>/{vmlinuz,initrd.img,uInitrd,dtb/<device tree>}
//! boards/<board>/boot.scr{,.uimg}   pxelinux.cfg/01-<mac>   boot.scr.uimg   manifest.json
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::Fault;
use crate::image::{Artifact, Manifest};
use crate::output::{AtomicDir, Replaces};
use crate::progress::{Progress, Unit};
use crate::recipe::{Board, LabSettings, boot_values};
use crate::uboot::bootscript::{BootScript, image_arch};
use crate::uboot::{Templates, script};

const ARTIFACTS: [&str; 3] = ["vmlinuz", "initrd.img", "uInitrd"];

/// A board, with the output directory and id of the image that it boots.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub board: &'a Board,
    pub build: &'a Path,
    pub image: &'a str,
}

/// Parameters of the tree for some boards of a lab.
#[derive(Clone, Copy)]
pub struct NetbootTree<'a> {
    pub lab: &'a LabSettings,
    pub clients: &'a [Client<'a>],
    pub templates: &'a Templates,
    /// The directory of `hearth provision`, exported by kernel nfsd; without it, the images are
    /// exported by their ids as by `hearth serve`.
    pub nfs_root: Option<&'a Path>,
    /// Time in the scripts' headers, seconds since 1970.
    pub time: u32,
}

impl NetbootTree<'_> {
    /// Writes the tree as the directory `output`, atomically.
    ///
    /// # Errors
    /// If an artifact is missing, a script cannot be rendered, or `output` contains other files.
    pub fn write(&self, output: &Path, progress: &dyn Progress) -> Result<()> {
        let files = self.artifacts();
        let stage = progress.stage("netboot", Some(files.len() as u64), Unit::Items);
        let directory = AtomicDir::create(output, Replaces::Output)?;
        for (from, to) in &files {
            stage.message(to);
            copy(from, &directory.path().join(to))?;
            stage.advance(1);
        }
        for client in self.clients {
            let made = self.script(client)?;
            for (path, data) in made.network_files(&client.board.name, client.board.mac) {
                write(&directory.path().join(path), data)?;
            }
        }
        let dispatch = self.dispatch()?;
        for name in ["boot.scr", "boot.scr.uimg"] {
            write(&directory.path().join(name), &dispatch)?;
        }
        write_manifest(directory.path())?;
        directory.commit()?;
        stage.finish(&format!(
            "{} boards, {} files",
            self.clients.len(),
            files.len()
        ));
        Ok(())
    }

    /// Source and destination of each file, without duplicates.
    fn artifacts(&self) -> BTreeSet<(PathBuf, String)> {
        let mut files = BTreeSet::new();
        for client in self.clients {
            let tree = client.board.board_type.device_tree.iter();
            let names = ARTIFACTS.map(String::from);
            for name in names
                .into_iter()
                .chain(tree.map(|tree| format!("dtb/{tree}")))
            {
                let to = format!("images/{}/{name}", client.image);
                files.insert((client.build.join(name), to));
            }
        }
        files
    }

    fn script(&self, client: &Client<'_>) -> Result<BootScript> {
        let board = client.board;
        let mut values = boot_values(board, self.lab, Some(client.image));
        if let (Some(root), Some(image)) = (self.nfs_root, &mut values.image) {
            let path = root.join(client.image);
            image.nfs_path = path.to_string_lossy().into_owned();
        }
        let arch = board.board_type.arch;
        BootScript::render(self.templates, &board.boot_script, &values, arch, self.time)
            .with_context(|| format!("cannot render the boot script of board `{}`", board.name))
    }

    /// A script for a U-Boot without a card, which requests `boot.scr.uimg`: continues with the
    /// script of the board with its MAC. Board names and MACs need no quoting.
    fn dispatch(&self) -> Result<Vec<u8>> {
        let mut text = String::from("# Runs the script of the board that has this MAC.\n");
        for client in self.clients {
            let (name, mac) = (&client.board.name, client.board.mac);
            text += &format!(
                "if test \"${{ethaddr}}\" = {mac}; then\n  \
                 tftpboot ${{scriptaddr}} boards/{name}/boot.scr.uimg && source ${{scriptaddr}}\nfi\n"
            );
        }
        text += "echo \"hearth: no board has the MAC ${ethaddr}\"\n";
        // U-Boot does not compare a script's architecture with its own.
        let arch = self
            .clients
            .first()
            .map(|client| client.board.board_type.arch);
        let arch = image_arch(arch.unwrap_or(crate::recipe::Arch::Armhf));
        Ok(script::wrap(
            text.as_bytes(),
            arch,
            "hearth dispatch",
            self.time,
        )?)
    }
}

/// Names every file of the tree in its manifest: by that, the next run knows what it may replace.
fn write_manifest(directory: &Path) -> Result<()> {
    let mut artifacts = BTreeMap::new();
    gather(directory, Path::new(""), &mut artifacts)?;
    let manifest = serde_json::json!({
        "hearth": env!("CARGO_PKG_VERSION"),
        "artifacts": artifacts,
    });
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    write(&directory.join(Manifest::FILE), text.as_bytes())
}

fn gather(root: &Path, below: &Path, artifacts: &mut BTreeMap<String, Artifact>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            gather(root, &path, artifacts)?;
        } else {
            let artifact = Artifact::of(&root.join(&path))?;
            artifacts.insert(path.to_string_lossy().into_owned(), artifact);
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).map(drop).map_err(|error| {
        anyhow::Error::new(error).context(
            Fault::input(format!(
                "cannot copy {} into the netboot tree",
                from.display()
            ))
            .remedy("build the recipe again with `hearth build`"),
        )
    })
}

fn write(path: &Path, data: &[u8]) -> Result<()> {
    make_parent(path)?;
    fs::write(path, data).with_context(|| format!("cannot write {}", path.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .with_context(|| format!("cannot make the directory {}", parent.display()))
}
