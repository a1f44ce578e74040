//! Owns the agent of an image that was made without one: whether the image can run it, who starts it there, and the layer that
//! brings it.
//! Never runs a program of the image: what is there is looked at.

use std::fs;

use anyhow::{Context, Result};
use tar::{EntryType, Header};

use crate::agent;
use crate::build::compose::{Change, Derived, Part, derive};
use crate::build::{Key, SideStages};
use crate::image::Manifest;
use crate::image::index::{Image, Kind};
use crate::progress::Progress;

/// Raised when the same image gets another layer.
const REVISION: u32 = 1;

/// Where programs are that a root's shell finds.
const PATH: [&str; 6] = [
    "usr/local/sbin",
    "usr/local/bin",
    "usr/sbin",
    "usr/bin",
    "sbin",
    "bin",
];
/// Any of these calls the lab; of busybox the agent looks whether its wget can.
const CALLERS: [&str; 3] = ["curl", "wget", "busybox"];
/// The directories that hearth's initrd moves mounts to.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "run", "sys"];

/// How an image gets to run jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It has an agent, or nothing is known that could start one.
    AsItIs,
    /// The agent is a unit of systemd, whose own units are in this directory.
    Systemd { units: String },
    /// The agent is started beside another init, which is at this path.
    Beside { init: String },
    /// Nothing in it could call the lab.
    NoNetwork,
}

/// Looks at what an image has.
pub fn look(image: &Image) -> Fit {
    let is_there = |path: &str| image.follow(path).is_some();
    if is_there("usr/lib/hearth/agent") {
        return Fit::AsItIs;
    }
    let (Some(init), Some(place)) = (image.follow("sbin/init"), image.find("sbin/init")) else {
        return Fit::AsItIs;
    };
    let calls = |directory: &str| {
        CALLERS
            .iter()
            .any(|name| is_there(&format!("{directory}/{name}")))
    };
    if !PATH.iter().any(|directory| calls(directory)) {
        return Fit::NoNetwork;
    }
    let init = String::from_utf8_lossy(&init.path).into_owned();
    match init.strip_suffix("/systemd/systemd") {
        Some(library) => Fit::Systemd {
            units: format!("{library}/systemd/system"),
        },
        None => Fit::Beside {
            init: String::from_utf8_lossy(&place.path).into_owned(),
        },
    }
}

/// The image in `build` with the agent over it, or none where it needs no layer.
///
/// # Errors
/// If the image cannot be read, or the cache cannot be written to.
pub fn with_agent(
    build: &std::path::Path,
    image: &Image,
    fit: &Fit,
    progress: &dyn Progress,
) -> Result<Option<Derived>> {
    let manifest = Manifest::load(build)?;
    let epoch = u64::try_from(manifest.epoch).unwrap_or(0);
    let Some(tar) = layer(image, fit, epoch)? else {
        return Ok(None);
    };
    let mut stages = SideStages::open(&crate::dirs::cache(), &[build.to_path_buf()], progress)?;
    let key = Key::new("agent-layer", REVISION).with("tar", &tar);
    let stored = stages.stage(key, |directory| {
        let path = directory.join("layer.tar");
        fs::write(&path, &tar).with_context(|| format!("cannot write {}", path.display()))
    })?;
    let change = Change {
        layers: vec![Part::of(&stored.path.join("layer.tar"))?],
        ..Change::default()
    };
    let derived = derive(build, &change, &mut stages)?;
    stages.finish()?;
    Ok(Some(derived))
}

/// The layer's tar; the same for the same image.
fn layer(image: &Image, fit: &Fit, epoch: u64) -> Result<Option<Vec<u8>>> {
    let mut layer = Layer {
        image,
        epoch,
        tar: tar::Builder::new(Vec::new()),
    };
    match fit {
        Fit::AsItIs | Fit::NoNetwork => return Ok(None),
        Fit::Systemd { units } => {
            let unit = format!("{units}/hearth-agent.service");
            layer.file(&unit, 0o644, agent::UNIT.as_bytes())?;
            let wants = "etc/systemd/system/multi-user.target.wants/hearth-agent.service";
            layer.link(wants, &format!("/{unit}"))?;
            layer.file(
                "etc/systemd/system.conf.d/50-hearth.conf",
                0o644,
                agent::SLOW_BOARDS.as_bytes(),
            )?;
        }
        Fit::Beside { init } => {
            layer.own_init(init)?;
            layer.file(init, 0o755, agent::INIT.as_bytes())?;
            layer.file("usr/lib/hearth/keep-agent", 0o755, agent::KEEP.as_bytes())?;
        }
    }
    layer.file("usr/lib/hearth/agent", 0o755, agent::AGENT.as_bytes())?;
    for directory in MOUNT_POINTS {
        if image.follow(directory).is_none() {
            layer.directory(directory)?;
        }
    }
    Ok(Some(layer.tar.into_inner()?))
}

/// A layer's tar under way. It has no member for a directory that the image has, so that none changes its owner or mode.
struct Layer<'a> {
    image: &'a Image,
    epoch: u64,
    tar: tar::Builder<Vec<u8>>,
}

impl Layer<'_> {
    /// The init that the image has, under its own name elsewhere: programs as busybox go by that.
    fn own_init(&mut self, init: &str) -> Result<()> {
        let own = "usr/lib/hearth/own/init";
        let found = self
            .image
            .find(init)
            .with_context(|| format!("the image has no {init}"))?;
        match self.image.inode(found.number) {
            Some(inode) if matches!(inode.kind, Kind::File { .. }) => {
                let bytes = self.image.read(found.number)?;
                self.file(own, inode.mode, &bytes)
            }
            _ => {
                let target = self
                    .image
                    .follow(init)
                    .with_context(|| format!("/{init} leads nowhere"))?;
                self.link(own, &format!("/{}", String::from_utf8_lossy(&target.path)))
            }
        }
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let mut header = self.header(EntryType::Regular, mode);
        header.set_size(data.len() as u64);
        self.tar.append_data(&mut header, self.place(path), data)?;
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = self.header(EntryType::Symlink, 0o777);
        self.tar
            .append_link(&mut header, self.place(path), target)?;
        Ok(())
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        let mut header = self.header(EntryType::Directory, 0o755);
        self.tar
            .append_data(&mut header, format!("{path}/"), &[][..])?;
        Ok(())
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch);
        header.set_size(0);
        header
    }

    /// Where a path leads to in the image: a layer with a directory where the image has a link, such as /lib, would hide what
    /// the link leads to.
    fn place(&self, path: &str) -> String {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut place = String::new();
        for part in directory.split('/').filter(|part| !part.is_empty()) {
            let below = if place.is_empty() {
                part.to_string()
            } else {
                format!("{place}/{part}")
            };
            place = match self.image.follow(&below) {
                Some(found) => String::from_utf8_lossy(&found.path).into_owned(),
                None => below,
            };
        }
        if place.is_empty() {
            name.to_string()
        } else {
            format!("{place}/{name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use common::tarball::{Entry, dir, file, symlink, tar};

    use super::*;

    fn image(entries: &[Entry]) -> Image {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), tar(entries)).unwrap();
        Image::open(file.path()).unwrap()
    }

    /// The image with its layer over it.
    fn stacked(entries: &[Entry]) -> Image {
        let below = image(entries);
        let layer = layer(&below, &look(&below), 7).unwrap().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let paths = ["below.tar", "layer.tar"].map(|name| directory.path().join(name));
        fs::write(&paths[0], tar(entries)).unwrap();
        fs::write(&paths[1], layer).unwrap();
        Image::open_stack(&paths).unwrap()
    }

    fn text(image: &Image, path: &str) -> String {
        let found = image
            .follow(path)
            .unwrap_or_else(|| panic!("there is no {path}"));
        String::from_utf8(image.read(found.number).unwrap()).unwrap()
    }

    #[test]
    fn systemd_gets_a_unit_in_merged_and_in_split_roots() {
        let merged = [
            dir("./", 0o755),
            symlink("lib", "usr/lib"),
            symlink("sbin", "usr/sbin"),
            symlink("usr/sbin/init", "../lib/systemd/systemd"),
            file("usr/lib/systemd/systemd", 0o755, "elf"),
            file("usr/bin/curl", 0o755, "elf"),
        ];
        let split = [
            dir("./", 0o755),
            symlink("sbin/init", "/lib/systemd/systemd"),
            file("lib/systemd/systemd", 0o755, "elf"),
            file("bin/busybox", 0o755, "elf"),
        ];
        for (entries, units) in [
            (&merged[..], "usr/lib/systemd/system"),
            (&split, "lib/systemd/system"),
        ] {
            let image = stacked(entries);
            assert_eq!(
                text(&image, &format!("{units}/hearth-agent.service")),
                agent::UNIT
            );
            let wants = "etc/systemd/system/multi-user.target.wants/hearth-agent.service";
            assert_eq!(text(&image, wants), agent::UNIT);
            assert_eq!(text(&image, "/usr/lib/hearth/agent"), agent::AGENT);
            // What the image had is still to be seen.
            assert_eq!(text(&image, "/lib/systemd/systemd"), "elf");
            assert_eq!(look(&image), Fit::AsItIs);
        }
        assert!(matches!(
            stacked(&merged)
                .find("lib")
                .and_then(|lib| stacked(&merged).inode(lib.number).cloned())
                .unwrap()
                .kind,
            Kind::Symlink { .. }
        ));
    }

    #[test]
    fn another_init_is_started_under_its_own_name_in_its_place() {
        let busybox = [
            dir("./", 0o755),
            file("bin/busybox", 0o755, "elf"),
            symlink("sbin/init", "../bin/busybox"),
            symlink("linuxrc", "bin/busybox"),
            dir("proc/", 0o555),
        ];
        let image = stacked(&busybox);
        assert_eq!(text(&image, "sbin/init"), agent::INIT);
        assert_eq!(text(&image, "usr/lib/hearth/own/init"), "elf");
        assert!(
            image
                .follow("usr/lib/hearth/own/init")
                .unwrap()
                .path
                .ends_with(b"bin/busybox")
        );
        let mode = |path: &str| {
            image
                .inode(image.follow(path).unwrap().number)
                .unwrap()
                .mode
        };
        assert_eq!((mode("run"), mode("proc")), (0o755, 0o555));

        let sysvinit = [
            dir("./", 0o755),
            file("sbin/init", 0o755, "sysvinit"),
            file("usr/bin/wget", 0o755, "elf"),
        ];
        let image = stacked(&sysvinit);
        assert_eq!(text(&image, "sbin/init"), agent::INIT);
        assert_eq!(text(&image, "usr/lib/hearth/own/init"), "sysvinit");
    }

    #[test]
    fn what_cannot_call_the_lab_and_what_has_no_init_gets_no_layer() {
        let mute = [
            dir("./", 0o755),
            file("sbin/init", 0o755, "elf"),
            file("bin/sh", 0o755, "elf"),
        ];
        assert_eq!(look(&image(&mute)), Fit::NoNetwork);
        assert_eq!(look(&image(&[dir("./", 0o755)])), Fit::AsItIs);
        assert!(layer(&image(&mute), &Fit::NoNetwork, 0).unwrap().is_none());
    }
}
