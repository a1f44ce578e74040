//! Owns the native builder: an initrd put together out of an image's own files, without running one
//! of them.
//! Never reads a file of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use super::elf::Closure;
use super::kernel::Kernel;
use super::modinfo::{self, Info};
use super::module_name::Name;
use super::options::Options;
use super::select::{Selection, Wish, select};
use super::tree::InitrdTree;
use super::{fdt, glob};
use crate::error::{Fault, InputContext};
use crate::image::index::Image;
use crate::recipe::{BoardType, Compression, RootKind};

/// The programs of `/init`, all of them busybox's; and some that help in a shell of
/// `hearth.break=`. A busybox that has `unxz` has a modprobe that reads compressed modules.
pub(super) const APPLETS: &[&str] = &[
    "awk",
    "blkid",
    "cat",
    "cp",
    "cttyhack",
    "dd",
    "dmesg",
    "findfs",
    "grep",
    "hexdump",
    "hostname",
    "ip",
    "ipcalc",
    "ls",
    "lsmod",
    "unxz",
    "mkdir",
    "modprobe",
    "mount",
    "nslookup",
    "ping",
    "ps",
    "readlink",
    "reboot",
    "sed",
    "setsid",
    "sh",
    "sleep",
    "sort",
    "switch_root",
    "timeout",
    "tr",
    "udhcpc",
    "umount",
    "vi",
    "xargs",
];

/// What each kind of root needs of the kernel, why, and whether the initrd is useless without. No
/// program mounts NFS: the kernel speaks MOUNT and NFS itself.
fn parts(root: RootKind) -> &'static [(&'static str, &'static str, bool)] {
    match root {
        RootKind::Nfs3 => &[
            ("nfs", "a root on NFS", true),
            ("nfsv3", "a root on NFS, version 3", true),
            DHCP,
        ],
        RootKind::Nfs4 => &[
            ("nfs", "a root on NFS", true),
            ("nfsv4", "a root on NFS, version 4", false),
            DHCP,
        ],
        RootKind::Card => &[("ext4", "a root on a card", false), MMC],
    }
}
const DHCP: (&str, &str, bool) = ("af_packet", "DHCP", false);
const MMC: (&str, &str, bool) = ("mmc_block", "a root on an SD card", false);
const OVERLAY: (&str, &str, bool) = ("overlay", "the layer above the root", true);

/// The kernel's firmware directories.
const FIRMWARE: &str = "usr/lib/firmware";

/// The file with the reason for each module, below the modules' directory, read by `show`.
pub const REASONS: &str = "modules.hearth";

/// Builds an initrd.
///
/// # Errors
/// If the image lacks something; names it and its dependent.
pub fn assemble(image: &Image, options: &Options<'_>) -> Result<InitrdTree> {
    let (kernel, selection) = selection(image, options)?;
    let mut tree = InitrdTree::default();
    add_skeleton(&mut tree, image)?;
    add_programs(&mut tree, image, options)?;
    add_modules(&mut tree, image, &kernel, &selection)?;
    Ok(tree)
}

/// The kernel, and the modules that boards and recipe need.
///
/// # Errors
/// If a module is missing; names it and its dependent.
pub fn selection(image: &Image, options: &Options<'_>) -> Result<(Kernel, Selection)> {
    let kernel = Kernel::open(image, options.kernel)?;
    check_compression(image, &kernel, options)?;
    let wishes = wishes(image, &kernel, options)?;
    let selection = select(image, &kernel, &wishes)?;
    Ok((kernel, selection))
}

/// Checks that the image's kernel can decompress the initrd; assumes so if its configuration is not
/// in the image.
fn check_compression(image: &Image, kernel: &Kernel, options: &Options<'_>) -> Result<()> {
    let option = match options.compression {
        Compression::Gzip => "CONFIG_RD_GZIP",
        Compression::Zstd => "CONFIG_RD_ZSTD",
        Compression::None => return Ok(()),
    };
    if kernel.has_option(image, option) == Some(false) {
        return Err(Fault::input(format!(
            "the kernel {} cannot unpack an initrd with {:?} compression: its configuration lacks {option}",
            kernel.release, options.compression
        ))
        .remedy("choose another compression under [initrd] in the recipe")
        .into());
    }
    Ok(())
}

fn wishes(image: &Image, kernel: &Kernel, options: &Options<'_>) -> Result<Vec<Wish>> {
    let mut wishes = Vec::new();
    for (name, board_type) in options.board_types {
        let of_board = board_wishes(image, kernel, name, board_type, options.device_trees)
            .and_then(|wishes| select(image, kernel, &wishes).map(|_| wishes));
        match of_board {
            Ok(of_board) => wishes.extend(of_board),
            Err(error) if !options.boards_are_named => {
                log::warn!("the initrd is not for the board type {name}: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    for module in options.modules {
        wishes.push(Wish::Module {
            name: module.clone(),
            by: "the recipe".into(),
        });
    }
    let parts = options.roots.iter().flat_map(|root| parts(*root));
    // A driver that is optional with several kinds of root is required if its kind is the only one.
    let only = options.roots.len() == 1;
    wishes.extend(
        parts
            .chain([&OVERLAY])
            .map(|&(name, by, required)| Wish::Part {
                name: name.to_string(),
                by: by.to_string(),
                required: required || (only && name != DHCP.0 && name != MMC.0),
            }),
    );
    Ok(wishes)
}

fn board_wishes(
    image: &Image,
    kernel: &Kernel,
    name: &str,
    board_type: &BoardType,
    trees: Option<&Path>,
) -> Result<Vec<Wish>> {
    let by = format!("the board type {name}");
    let modules = board_type.initrd.modules.iter();
    let mut wishes: Vec<Wish> = modules
        .map(|module| Wish::Module {
            name: module.clone(),
            by: by.clone(),
        })
        .collect();
    if board_type.initrd.from_device_tree {
        wishes.extend(devices(image, kernel, name, board_type, trees)?);
    }
    Ok(wishes)
}

/// The devices in a board type's device tree.
fn devices(
    image: &Image,
    kernel: &Kernel,
    name: &str,
    board_type: &BoardType,
    trees: Option<&Path>,
) -> Result<Vec<Wish>> {
    let Some(tree) = &board_type.device_tree else {
        return Err(Fault::input(format!(
            "the board type {name} wants its modules from its device tree, but names none"
        ))
        .remedy("add device-tree = \"….dtb\", or set from-device-tree = false under [initrd]")
        .into());
    };
    let (path, data) = match trees {
        Some(directory) => {
            let path = directory.join(tree);
            let data = crate::input::read(&path)
                .with_context(|| format!("cannot read the device tree {}", path.display()))?;
            (path.display().to_string(), data)
        }
        None => tree_in_image(image, &kernel.release, name, tree)?,
    };
    let compatible = fdt::compatible_strings(&data)
        .input_context(|| format!("{path} is no sound device tree"))?;
    Ok(compatible
        .into_iter()
        .map(|compatible| Wish::Device {
            compatible,
            tree: tree.clone(),
        })
        .collect())
}

/// The device tree that the image's kernel package has, and where.
fn tree_in_image(
    image: &Image,
    release: &str,
    name: &str,
    tree: &str,
) -> Result<(String, Vec<u8>)> {
    // First the path in Debian's kernel packages; then those of flash-kernel and others.
    let places = [
        format!("usr/lib/linux-image-{release}/{tree}"),
        format!("boot/dtbs/{release}/{tree}"),
        format!("boot/dtb-{release}/{tree}"),
    ];
    let Some((path, found)) = places
        .iter()
        .find_map(|path| Some((path, image.follow(path)?)))
    else {
        return Err(Fault::input(format!(
            "the kernel {release} has no device tree {tree}, which the board type {name} boots with"
        ))
        .remedy("correct the board type's device-tree, or choose another kernel")
        .into());
    };
    let data = image.read(found.number).with_context(|| path.clone())?;
    Ok((format!("/{path}"), data))
}

fn add_skeleton(tree: &mut InitrdTree, image: &Image) -> Result<()> {
    for directory in [
        "dev",
        "proc",
        "sys",
        "run",
        "etc/hearth",
        "newroot",
        "lower",
        "writable",
    ] {
        tree.directory(directory);
    }
    // As in the image, where these are usually links into /usr.
    for directory in ["bin", "sbin", "lib", "usr/bin", "usr/sbin", "usr/lib"] {
        if image.find(directory).is_some() {
            tree.take_links(image, directory)?;
        } else {
            tree.directory(directory);
        }
    }
    // The kernel opens it for /init before devtmpfs is mounted.
    tree.device("dev/console", 5, 1);
    tree.file("init", true, include_str!("init.sh"));
    tree.file("etc/hearth/ip.sh", false, include_str!("ip.sh"));
    tree.file("etc/hearth/root.sh", false, include_str!("root.sh"));
    tree.file("etc/hearth/udhcpc.sh", true, include_str!("udhcpc.sh"));
    Ok(())
}

fn add_programs(tree: &mut InitrdTree, image: &Image, options: &Options<'_>) -> Result<()> {
    let mut closure = Closure::new(image, options.arch.triplet());
    let busybox = ["/usr/bin/busybox", "/bin/busybox"]
        .into_iter()
        .find(|path| image.follow(path).is_some());
    let Some(busybox) = busybox else {
        return Err(Fault::input(format!(
            "{} has no busybox, which the initrd's programs come from",
            image.path().display()
        ))
        .remedy("add busybox to the recipe's packages, or use the chroot builder")
        .into());
    };
    closure.take(tree, busybox)?;
    let applets = applets(options.roots);
    check_applets(image, busybox, &applets)?;
    for applet in applets {
        // The kernel's default modprobe path is /sbin/modprobe.
        let directory = if applet == "modprobe" {
            "usr/sbin"
        } else {
            "usr/bin"
        };
        let path = format!("{directory}/{applet}");
        if !tree.contains(&path) {
            tree.symlink(&path, busybox);
        }
    }
    if !tree.is_symlink("sbin") {
        tree.symlink("sbin/modprobe", busybox);
    }
    for binary in options.binaries {
        closure.take(tree, binary)?;
    }
    let extra: Vec<&str> = closure.extra_directories().collect();
    tree.file("etc/hearth/library-path", false, extra.join(":"));
    Ok(())
}

/// The applets that the initrd needs: blkid, which Debian's busybox-static lacks, only for a root on
/// a card, whose file system has to be detected.
fn applets(roots: &[RootKind]) -> Vec<&'static str> {
    let all = APPLETS.iter().copied();
    all.filter(|applet| *applet != "blkid" || roots.contains(&RootKind::Card))
        .collect()
}

/// Refuses a busybox that lacks an applet: the names are in the executable, each terminated by a
/// NUL.
fn check_applets(image: &Image, busybox: &str, applets: &[&str]) -> Result<()> {
    let Some(found) = image.follow(busybox) else {
        return Ok(());
    };
    let data = image
        .read(found.number)
        .with_context(|| busybox.to_string())?;
    let names: BTreeSet<&[u8]> = data.split(|&byte| byte == 0).collect();
    let missing: Vec<&str> = applets
        .iter()
        .copied()
        .filter(|applet| !names.contains(applet.as_bytes()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the image's {busybox} was built without {}",
        missing.join(", ")
    ))
    .remedy("use Debian's package busybox, or the chroot builder")
    .into())
}

/// Adds the modules, and the indices that busybox's modprobe reads. Modules that busybox can
/// decompress are copied as they are: xz makes them a quarter smaller than the archive's own
/// compression would. They are not stripped either: most kernels sign their modules. They are only
/// decompressed to read the firmware that they name.
fn add_modules(
    tree: &mut InitrdTree,
    image: &Image,
    kernel: &Kernel,
    selection: &Selection,
) -> Result<()> {
    let mut paths: BTreeMap<&Name, String> = BTreeMap::new();
    let has_firmware = image.follow(FIRMWARE).is_some();
    for name in selection.modules.keys() {
        let Some(module) = kernel.module(name) else {
            continue;
        };
        let path = format!("{}/{}", kernel.directory, module.path);
        let Some(found) = image.follow(&path) else {
            return Err(Fault::input(format!(
                "the module {name} is listed in modules.dep, but /{path} is missing in {}",
                image.path().display()
            ))
            .remedy("install the kernel package again, or run depmod in the image")
            .into());
        };
        let about = || format!("the module /{path}");
        let data = image.read(found.number).with_context(about)?;
        let packed = matches!(path.rsplit('.').next(), Some("xz" | "gz"));
        let kept = if packed && !has_firmware {
            (module.path.clone(), data)
        } else {
            let elf = modinfo::decompress(&path, &data).with_context(about)?;
            add_firmware(tree, image, &Info::of(&elf).with_context(about)?)?;
            if packed {
                (module.path.clone(), data)
            } else {
                (modinfo::uncompressed_path(&module.path).to_string(), elf)
            }
        };
        let (place, data) = kept;
        tree.file(&format!("{}/{place}", kernel.directory), false, data);
        paths.insert(name, place);
    }
    let text = |file: &str| format!("{}/{file}", kernel.directory);
    tree.file(
        &text("modules.dep"),
        false,
        dependencies(kernel, selection, &paths),
    );
    let aliases = kernel.aliases_of(&selection.modules.keys().collect());
    let aliases = aliases
        .iter()
        .map(|(pattern, name)| format!("alias {pattern} {name}\n"));
    tree.file(&text("modules.alias"), false, aliases.collect::<String>());
    tree.file(&text(REASONS), false, selection.reasons());
    let start = selection
        .load_at_start
        .iter()
        .map(|name| format!("{name}\n"));
    tree.file("etc/hearth/modules", false, start.collect::<String>());
    Ok(())
}

/// The text of `modules.dep`. busybox does not support soft dependencies: `pre` dependencies on one
/// module become plain ones (those on an algorithm are requested by the kernel when needed).
fn dependencies(kernel: &Kernel, selection: &Selection, paths: &BTreeMap<&Name, String>) -> String {
    let mut text = String::new();
    for (name, path) in paths {
        text.push_str(path);
        text.push(':');
        let hard = kernel
            .module(name)
            .map_or(&[][..], |module| &module.dependencies);
        let soft = kernel.soft_dependencies(name);
        let soft = soft
            .into_iter()
            .flat_map(|soft| &soft.pre)
            .filter_map(|alias| {
                let (name, _) = selection.modules.get_key_value(&alias.replace('-', "_"))?;
                Some(name)
            });
        let mut seen = BTreeSet::new();
        for needed in hard.iter().chain(soft) {
            if let Some(path) = paths.get(needed)
                && seen.insert(needed)
            {
                text.push(' ');
                text.push_str(path);
            }
        }
        text.push('\n');
    }
    text
}

/// Adds the firmware that a module names, as far as the image has it: drivers name more than they
/// need.
fn add_firmware(tree: &mut InitrdTree, image: &Image, info: &Info) -> Result<()> {
    for wanted in &info.firmware {
        let (directory, pattern) = wanted.rsplit_once('/').unwrap_or(("", wanted));
        let directory = format!("{FIRMWARE}/{directory}");
        let directory = directory.trim_end_matches('/');
        let Some(found) = image.follow(directory) else {
            continue;
        };
        for entry in image.entries(found.number) {
            let name = String::from_utf8_lossy(&entry.name);
            let plain = [".xz", ".zst"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            if glob::matches(pattern, plain.unwrap_or(&name)) {
                tree.take(image, &format!("{directory}/{name}"))?;
            }
        }
    }
    Ok(())
}
