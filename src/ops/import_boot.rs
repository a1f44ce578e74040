//! Owns what boards boot an imported root with: kernel, device trees, initrd and bootloader, out of the root itself or
//! of files that were given. Never reads the root's own format.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::import_bootloaders::{Blobs, bootloaders, hashed, wanted_blobs};
use super::import_kept::{self, Kept, Tar, source};
use crate::arch::Arch;
use crate::build::{Key, SideStages, collect, copy_out, copy_tree, set_date, wrap_initrd};
use crate::error::{Fault, InputContext};
use crate::image::index::{Image, Kind, Number};
use crate::image::{Artifact, Source};
use crate::initrd;
use crate::input;
use crate::kernel::form;
use crate::progress::{Stage, Unit};
use crate::recipe::{self, BoardType, Compression, ImageKind, InitrdOptions};

/// Raised when the same inputs give other bytes.
const REVISION: u32 = 1;

/// Where Debian and others put kernels and their device trees.
const KERNEL_PREFIXES: [&str; 5] = ["vmlinuz", "vmlinux", "zImage", "Image", "kernel"];
/// What the default kernel is called where there are several.
const DEFAULT_KERNELS: [&str; 6] = [
    "boot/vmlinuz",
    "vmlinuz",
    "boot/zImage",
    "boot/Image",
    "boot/vmlinux",
    "vmlinux",
];

/// Files that are given besides a root.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootFiles<'a> {
    /// Else the one in the root's `/boot`.
    pub kernel: Option<&'a Path>,
    /// Which of several kernels in the root.
    pub release: Option<&'a str>,
    /// A device tree or a directory of them; else those in the root.
    pub dtb: Option<&'a Path>,
    /// Else hearth builds one out of the root.
    pub initrd: Option<&'a Path>,
    /// A directory with bootloaders under their paths in Debian's packages, with or without the board type before them:
    /// the `bootloader` of a build's output, or `/`. Else those in the root.
    pub bootloader: Option<&'a Path>,
}

impl BootFiles<'_> {
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.kernel, self.dtb, self.initrd, self.bootloader]
            .into_iter()
            .flatten()
    }
}

/// Given files that were looked at.
pub(super) struct Given<'a> {
    files: BootFiles<'a>,
    /// Those of a directory of device trees, relative to it.
    trees: Vec<PathBuf>,
    pub sources: BTreeMap<String, Source>,
    /// The kernel that is given, out of its wrappings.
    pub kernel: Option<PathBuf>,
    /// The release of the kernel and the modules that are given, where it is known.
    pub release: Option<String>,
}

/// What was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct BootParts {
    /// By path in the output directory.
    pub artifacts: BTreeMap<String, Artifact>,
    /// The kernel's release, if it is known.
    pub kernel: Option<String>,
    pub kernel_arguments: Vec<String>,
    pub notes: Vec<String>,
}

/// Hashes the given files.
///
/// # Errors
/// If one cannot be read, or is not what it should be.
pub(super) fn open<'a>(files: &BootFiles<'a>) -> Result<Given<'a>> {
    let mut sources = BTreeMap::new();
    for (what, path) in [("kernel", files.kernel), ("initrd", files.initrd)] {
        if let Some(path) = path {
            sources.insert(what.to_string(), source(path)?);
        }
    }
    if let Some(path) = files.initrd {
        check_initrd(path)?;
    }
    let mut trees = Vec::new();
    if let Some(path) = files.dtb {
        let from = match path.is_dir() {
            true => {
                trees = device_trees_below(path)?;
                let mut all = String::new();
                for tree in &trees {
                    let hash = source(&path.join(tree))?.sha256;
                    all += &format!("{}\0{hash}\n", tree.display());
                }
                Source {
                    path: path.display().to_string(),
                    sha256: hex::encode(<sha2::Sha256 as sha2::Digest>::digest(all)),
                }
            }
            false => source(path)?,
        };
        sources.insert("dtb".into(), from);
    }
    if let Some(path) = files.bootloader
        && !path.is_dir()
    {
        return Err(Fault::input(format!("{} is no directory of bootloaders", path.display()))
            .remedy("name the `bootloader` directory of a build's output, or one with a package's files such as /")
            .into());
    }
    Ok(Given {
        files: *files,
        trees,
        sources,
        kernel: None,
        release: None,
    })
}

/// What a kernel that was given says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KernelFacts {
    /// As `uname -r` prints it, if it can be told.
    pub release: Option<String>,
}

/// Puts a kernel that is given into a stage, out of its wrappings; `None` without one.
///
/// # Errors
/// If it is no kernel for boards of this architecture.
pub(super) fn kernel_stage(
    given: &Given<'_>,
    arch: Arch,
    stages: &mut SideStages<'_>,
) -> Result<Option<Kept<KernelFacts>>> {
    let Some(path) = given.files.kernel else {
        return Ok(None);
    };
    let key = Key::new("import-kernel", REVISION)
        .with("kernel", &given.sources["kernel"].sha256)
        .with("architecture", arch.debian());
    let kept = import_kept::stage(stages, key, |directory| {
        let data = input::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let kernel = form::read(data, arch, form_of(arch))
            .input_context(|| format!("cannot use {} as a kernel", path.display()))?;
        fs::write(directory.join(KERNEL), &kernel.data)
            .context("cannot write the kernel to the cache")?;
        Ok(KernelFacts {
            release: kernel.about.release,
        })
    })?;
    Ok(Some(kept))
}

/// The kernel's file, in the output directory and in its stage.
pub(super) const KERNEL: &str = "vmlinuz";

/// What boards of an architecture boot.
fn form_of(arch: Arch) -> ImageKind {
    match arch {
        Arch::Armel | Arch::Armhf => ImageKind::ZImage,
        Arch::Arm64 | Arch::Riscv64 => ImageKind::Image,
    }
}

fn check_initrd(path: &Path) -> Result<()> {
    let failed = || format!("cannot use {} as an initrd", path.display());
    let file = input::open(path).with_context(failed)?;
    let reader = std::io::BufReader::with_capacity(1 << 16, file);
    initrd::read(reader, &mut |_, _| Ok(()))
        .map(drop)
        .map_err(|error| {
            error.context(
                Fault::input(failed())
                    .remedy("give an initramfs: cpio (newc), plain or compressed"),
            )
        })
}

/// The device trees and overlays below a directory, sorted.
fn device_trees_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let place = directory.join(&below);
        let entries =
            fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = below.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => pending.push(path),
                kind if kind.is_file() && is_device_tree(&path) => found.push(path),
                _ => {}
            }
        }
    }
    if found.is_empty() {
        return Err(
            Fault::input(format!("{} has no device tree", directory.display()))
                .remedy("name a .dtb file, or a directory with such files in it")
                .into(),
        );
    }
    found.sort();
    Ok(found)
}

fn is_device_tree(path: &Path) -> bool {
    path.extension()
        .is_some_and(|suffix| suffix == "dtb" || suffix == "dtbo")
}

/// Makes the parts for a root's tar, or finds them in the cache.
///
/// # Errors
/// If the root has several kernels, or the disk is full. An initrd that the root has not the programs for is only told.
pub(super) fn stage(
    given: &Given<'_>,
    tars: &[Tar],
    arch: Arch,
    epoch: i64,
    stages: &mut SideStages<'_>,
) -> Result<Kept<BootParts>> {
    let mut boards = recipe::board_types()?;
    boards.retain(|_, board| board.arch == arch);
    let hashes: BTreeMap<&String, &String> = given
        .sources
        .iter()
        .map(|(what, source)| (what, &source.sha256))
        .collect();
    let blobs = bootloaders(given.files.bootloader, &boards)?;
    let key = Key::new("import-boot", REVISION)
        .with("root", &tars[0].2.sha256)
        .with("given", serde_json::to_vec(&hashes)?)
        .with(
            "device tree's name",
            given.files.dtb.and_then(name_of).unwrap_or_default(),
        )
        .with("release", given.files.release.unwrap_or_default())
        .with("bootloaders", serde_json::to_vec(&hashed(&blobs)?)?)
        .with("board types", serde_json::to_vec(&boards)?)
        .with("architecture", arch.debian());
    let progress = stages.progress();
    let paths: Vec<PathBuf> = tars.iter().map(|(_, path, _)| path.clone()).collect();
    import_kept::stage(stages, key, |directory| {
        let out = directory.join("out");
        fs::create_dir(&out)?;
        let stage = progress.stage("boot", None, Unit::Items);
        let making = Making {
            given,
            image: &Image::open_stack(&paths)?,
            arch,
            boards: &boards,
            out: &out,
            epoch,
        };
        let mut parts = making.make(&blobs, &*stage)?;
        collect(&out, Path::new(""), &mut parts.artifacts)?;
        for name in parts.artifacts.keys() {
            set_date(&out.join(name), epoch)?;
        }
        stage.finish(&format!(
            "kernel {}",
            parts.kernel.as_deref().unwrap_or("none")
        ));
        Ok(parts)
    })
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

struct Making<'a> {
    given: &'a Given<'a>,
    image: &'a Image,
    arch: Arch,
    boards: &'a BTreeMap<String, BoardType>,
    out: &'a Path,
    epoch: i64,
}

impl Making<'_> {
    fn make(&self, blobs: &Blobs, stage: &dyn Stage) -> Result<BootParts> {
        let mut parts = BootParts::default();
        self.kernel(&mut parts)?;
        self.device_trees(parts.kernel.as_deref())?;
        for (name, path) in blobs {
            copy(path, &self.out.join(name))?;
        }
        if self.given.files.bootloader.is_none() {
            self.bootloaders_of_root()?;
        }
        stage.message("initrd");
        self.initrd(&mut parts)?;
        Ok(parts)
    }

    fn kernel(&self, parts: &mut BootParts) -> Result<()> {
        let target = self.out.join(KERNEL);
        let asked = self.given.files.release.map(String::from);
        if let Some(path) = &self.given.kernel {
            copy(path, &target)?;
            let release = self.given.release.clone();
            parts.kernel = release.or(asked).or_else(|| self.only_release());
        } else if let Some((release, number)) = self.kernel_of_root()? {
            copy_out(self.image, number, &target)?;
            let told = || {
                let data = self.image.read(number).ok()?;
                let kernel = form::read(data, self.arch, form_of(self.arch)).ok()?;
                kernel.about.release
            };
            let release = release.or_else(told);
            parts.kernel = release.or(asked).or_else(|| self.only_release());
        } else {
            let note = "there is no kernel, neither in the root's /boot nor given with --kernel: no board can boot it alone";
            parts.notes.push(note.into());
            return Ok(());
        }
        if let (Some(found), Some(modules)) = (&parts.kernel, &self.given.release)
            && found != modules
        {
            return Err(Fault::input(format!(
                "the modules that are given are of {modules}, but the kernel is {found}"
            ))
            .remedy("give both of one build")
            .into());
        }
        if let (Some(asked), Some(found)) = (self.given.files.release, &parts.kernel)
            && asked != found
        {
            return Err(
                Fault::input(format!("the kernel's release is {found}, not {asked}"))
                    .remedy("leave --release out")
                    .into(),
            );
        }
        Ok(())
    }

    /// The kernel in the root's `/boot`, with its release if its name tells that.
    fn kernel_of_root(&self) -> Result<Option<(Option<String>, Number)>> {
        let mut found: BTreeMap<u64, (Option<String>, Number)> = BTreeMap::new();
        for directory in ["boot", ""] {
            let Some(place) = self.image.follow(directory) else {
                continue;
            };
            for entry in self.image.entries(place.number) {
                let Ok(name) = std::str::from_utf8(&entry.name) else {
                    continue;
                };
                if !is_kernel(name) {
                    continue;
                }
                let Some(file) = self.file(&format!("{directory}/{name}")) else {
                    continue;
                };
                // Under several names, the one with a release tells most.
                let known = found.entry(file.get()).or_insert((None, file));
                if known.0.is_none() {
                    known.0 = release_in(name).map(String::from);
                }
            }
        }
        if let Some(asked) = self.given.files.release {
            found.retain(|_, (release, _)| {
                release.as_deref().is_none_or(|release| release == asked)
            });
            if found.is_empty() {
                return Err(Fault::input(format!("the root has no kernel {asked}"))
                    .remedy("leave --release out, or name the kernel's file with --kernel")
                    .into());
            }
        }
        let kernels: Vec<_> = found.into_values().collect();
        match &kernels[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            several => {
                let default = DEFAULT_KERNELS.iter().find_map(|path| self.file(path));
                let chosen = several.iter().find(|(_, number)| Some(*number) == default);
                if let Some(chosen) = chosen {
                    return Ok(Some(chosen.clone()));
                }
                let names: Vec<&str> = several
                    .iter()
                    .map(|(release, _)| release.as_deref().unwrap_or("one without a release"))
                    .collect();
                Err(Fault::input(format!(
                    "the root has {} kernels: {}",
                    names.len(),
                    names.join(", ")
                ))
                .remedy("choose one with --release, or name a file with --kernel")
                .into())
            }
        }
    }

    /// A regular file of the root, behind any links.
    fn file(&self, path: &str) -> Option<Number> {
        let found = self.image.follow(path)?;
        let inode = self.image.inode(found.number)?;
        matches!(inode.kind, Kind::File { size, .. } if size > 0).then_some(found.number)
    }

    /// The release of the root's modules, if there are those of one kernel.
    fn only_release(&self) -> Option<String> {
        let modules = self
            .image
            .follow("lib/modules")
            .or_else(|| self.image.follow("usr/lib/modules"))?;
        match self.image.entries(modules.number) {
            [only] => Some(String::from_utf8_lossy(&only.name).into_owned()),
            _ => None,
        }
    }

    fn device_trees(&self, release: Option<&str>) -> Result<()> {
        let target = self.out.join("dtb");
        if let Some(path) = self.given.files.dtb {
            if path.is_dir() {
                for tree in &self.given.trees {
                    copy(&path.join(tree), &target.join(tree))?;
                }
            } else {
                let name = path.file_name().context("the device tree has no name")?;
                copy(path, &target.join(name))?;
            }
            return self.place_for_boards(&target);
        }
        let of_release = |release: &str| {
            [
                format!("usr/lib/linux-image-{release}"),
                format!("boot/dtbs/{release}"),
                format!("boot/dtb-{release}"),
            ]
        };
        let mut places: Vec<String> = release.map(of_release).into_iter().flatten().collect();
        places.extend(["boot/dtb".into(), "boot/dtbs".into()]);
        for place in places {
            if let Some(found) = self.image.follow(&place)
                && !self.image.entries(found.number).is_empty()
            {
                copy_tree(self.image, found.number, &target)?;
                return self.place_for_boards(&target);
            }
        }
        // Buildroot puts them beside the kernel.
        let Some(boot) = self.image.follow("boot") else {
            return Ok(());
        };
        for entry in self.image.entries(boot.number) {
            let name = Path::new(std::ffi::OsStr::from_bytes(&entry.name));
            if is_device_tree(name)
                && let Some(number) = self.file(&format!("boot/{}", name.display()))
            {
                fs::create_dir_all(&target)?;
                copy_out(self.image, number, &target.join(name))?;
            }
        }
        self.place_for_boards(&target)
    }

    /// Gives device trees a second place, where a board type looks for one of the same name: kernels before 6.5 have no
    /// directories of vendors for arm.
    fn place_for_boards(&self, target: &Path) -> Result<()> {
        if !target.is_dir() {
            return Ok(());
        }
        let mut by_name = BTreeMap::new();
        for tree in device_trees_below(target).unwrap_or_default() {
            if let Some(name) = tree.file_name() {
                by_name.entry(name.to_os_string()).or_insert(tree.clone());
            }
        }
        let wanted = self
            .boards
            .values()
            .filter_map(|board| board.device_tree.as_deref());
        for wanted in wanted.map(Path::new) {
            let place = target.join(wanted);
            if let Some(found) = wanted.file_name().and_then(|name| by_name.get(name))
                && !place.exists()
            {
                copy(&target.join(found), &place)?;
            }
        }
        Ok(())
    }

    /// Bootloaders of packages that are installed in the root.
    fn bootloaders_of_root(&self) -> Result<()> {
        for (board, file) in wanted_blobs(self.boards) {
            let to = self.out.join("bootloader").join(board);
            if let Some(below) = file.strip_suffix("/*") {
                if let Some(found) = self.image.follow(below) {
                    copy_tree(self.image, found.number, &to.join(below))?;
                }
            } else if let Some(number) = self.file(file) {
                let path = to.join(file);
                fs::create_dir_all(path.parent().unwrap_or(&to))?;
                copy_out(self.image, number, &path)?;
            }
        }
        Ok(())
    }

    fn initrd(&self, parts: &mut BootParts) -> Result<()> {
        let path = self.out.join("initrd.img");
        if let Some(given) = self.given.files.initrd {
            copy(given, &path)?;
            return self.wrap();
        }
        let Some(release) = parts.kernel.as_deref() else {
            if self.out.join("vmlinuz").exists() {
                let note = "there is no initrd: the kernel's release is not known (--release tells it), or give one with --initrd";
                parts.notes.push(note.into());
            }
            return Ok(());
        };
        let defaults = InitrdOptions::default();
        let trees = self.out.join("dtb");
        let options = initrd::Options {
            arch: self.arch,
            board_types: self.boards,
            boards_are_named: false,
            kernel: Some(release),
            device_trees: trees.is_dir().then_some(trees.as_path()),
            modules: &[],
            binaries: &[],
            compression: Compression::default(),
            roots: &defaults.roots,
        };
        match initrd::build(self.image, &options, &path) {
            Ok(()) => self.wrap(),
            Err(error) if crate::error::class_of(&error) == crate::error::Class::Host => Err(error),
            Err(error) => {
                parts.notes.push(format!(
                    "there is no initrd, because the root has not what it takes: {error:#} (--initrd takes one)"
                ));
                Ok(())
            }
        }
    }

    fn wrap(&self) -> Result<()> {
        // A uImage's time has 32 bits.
        wrap_initrd(self.out, self.arch, self.epoch.min(u32::MAX.into()))
    }
}

fn is_kernel(name: &str) -> bool {
    KERNEL_PREFIXES.iter().any(|prefix| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() && *prefix != "kernel" || rest.starts_with('-'))
    })
}

/// The release in the name of a kernel's file, as in `vmlinuz-6.1.0-39-armmp`.
fn release_in(name: &str) -> Option<&str> {
    let prefix = KERNEL_PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let release = prefix.strip_prefix('-')?;
    release
        .starts_with(|c: char| c.is_ascii_digit())
        .then_some(release)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {} to {}", from.display(), to.display());
    let parent = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(failed)?;
    let mut from = input::open(from).with_context(failed)?;
    let mut to = fs::File::create(to).with_context(failed)?;
    std::io::copy(&mut from, &mut to).with_context(failed)?;
    Ok(())
}
