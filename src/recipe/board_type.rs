//! Owns the description of a model of board (`recipes/boards/*.toml`).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lab::Login;
use super::model::Compression;
use crate::arch::Arch;
use crate::diagnostic::parse_toml;
use crate::diagnostic::{Diagnostic, Step, at};
use crate::mac::Mac;

/// A model of board: what it boots, from where, and how it is emulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BoardType {
    /// One line of text.
    pub description: String,
    pub arch: Arch,
    /// The kernel's console argument, such as `ttyS0,115200`.
    pub console: String,
    /// Path of the device tree below the kernel's dtb directory, such as
    /// `sun8i-h3-nanopi-neo.dtb` or `broadcom/bcm2837-rpi-3-b.dtb`. Without one, the kernel gets
    /// the tree that U-Boot itself runs with (`fdtcontroladdr`).
    pub device_tree: Option<String>,
    /// The format of the kernel package's image, which decides the boot command.
    pub image: ImageKind,
    /// The boot script that the card's script fetches: a template's name in `boot-scripts/`.
    #[serde(default = "nfs")]
    pub boot_script: String,
    /// Kernel arguments that this model needs in addition.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Whether the network interface is on USB, which U-Boot starts only on command.
    #[serde(default)]
    pub usb_network: bool,
    /// Load addresses, for a U-Boot whose `kernel_addr_r` and similar variables are unset or too
    /// close together.
    pub addresses: Option<LoadAddresses>,
    pub bootloader: Option<Bootloader>,
    #[serde(default)]
    pub media: Media,
    #[serde(default)]
    pub initrd: InitrdNeeds,
    /// How QEMU emulates it; absent for hardware that QEMU cannot emulate.
    pub emulation: Option<Emulation>,
    /// How tests get to a shell on its console where no agent can run them.
    pub login: Option<Login>,
}

fn nfs() -> String {
    "nfs".into()
}

/// The form of the kernel, which decides U-Boot's boot command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// 32-bit ARM's self-extracting image: `bootz`.
    #[serde(rename = "zImage")]
    ZImage,
    /// 64-bit ARM's and RISC-V's flat image: `booti`.
    Image,
    /// A legacy uImage: `bootm`.
    #[serde(rename = "uImage")]
    UImage,
}

impl ImageKind {
    pub const fn boot_command(self) -> &'static str {
        match self {
            ImageKind::ZImage => "bootz",
            ImageKind::Image => "booti",
            ImageKind::UImage => "bootm",
        }
    }
}

/// Memory addresses at which U-Boot loads files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LoadAddresses {
    pub kernel: u64,
    pub ramdisk: u64,
    pub fdt: u64,
    pub script: u64,
}

/// The bootloader's packages and the places of its parts on the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bootloader {
    /// Debian packages of the board's architecture (or `all`) that contain the files named below.
    pub packages: Vec<String>,
    #[serde(default, rename = "blob")]
    pub blobs: Vec<Blob>,
}

/// One file of the bootloader: exactly one of `file`, `content` and `device_tree` is its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Blob {
    /// Path inside the packages, without a leading slash; a trailing `/*` means a directory's
    /// files.
    pub file: Option<String>,
    /// Text of a small file that is in no package, such as the Raspberry Pi's `config.txt`.
    pub content: Option<String>,
    /// Path below the kernel's device trees (`dtb/` of the build output), for a firmware that
    /// passes one to U-Boot.
    pub device_tree: Option<String>,
    pub place: Place,
}

/// The place of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Raw on the card, at this many bytes from its start.
    Offset(u64),
    /// In the FAT, under this name (a directory's name for a `/*` blob, empty for the root).
    Fat(String),
    /// The emulator's firmware (`-bios`); nothing on the card.
    Firmware,
}

/// The layout of the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Media {
    pub table: Table,
    /// Start of the FAT, in bytes.
    pub fat_offset: u64,
    /// Size of the FAT, in bytes.
    pub fat_size: u64,
}

impl Default for Media {
    fn default() -> Self {
        Media {
            table: Table::Mbr,
            fat_offset: 4 << 20,
            fat_size: 4 << 20,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    Mbr,
    Gpt,
    /// The whole card is one FAT; no partition table.
    None,
}

/// What an initrd needs for this model's network and root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct InitrdNeeds {
    /// Modules by name, with or without `.ko`; a trailing `/*` means a directory below `kernel/`,
    /// such as `drivers/net/phy/*`.
    pub modules: Vec<String>,
    /// Whether to add the modules for the device tree's `compatible` strings.
    pub from_device_tree: bool,
    /// Compressions that this model's kernel supports; empty for all.
    pub compression: Vec<Compression>,
}

/// How `qemu-system-*` emulates this model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Emulation {
    /// `-M`.
    pub machine: String,
    /// `-cpu`, if the machine has no default.
    pub cpu: Option<String>,
    /// `-m`, in MiB.
    pub memory: u32,
    #[serde(default = "one")]
    pub cpus: u32,
    pub network: EmulatedNetwork,
    pub card: EmulatedCard,
    /// Further arguments of QEMU.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The MAC that U-Boot of every emulated board of this type has until a boot script sets
    /// another, if QEMU gives all of them the same one.
    pub mac: Option<Mac>,
}

/// The network device of an emulated board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmulatedNetwork {
    /// A virtio device on the PCI bus, with the MAC given to QEMU.
    VirtioNetPci,
    /// The machine's own device, whose MAC QEMU cannot set for the firmware.
    Onboard,
}

/// How the card is attached to an emulated board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmulatedCard {
    /// In the machine's SD slot; QEMU requires a power of two as its size.
    Sd,
    /// As a virtio disk, for machines without a slot.
    Virtio,
}

fn one() -> u32 {
    1
}

impl BoardType {
    /// Parses a board type and validates what the types of its fields do not; `file` is only for
    /// the diagnostic.
    ///
    /// # Errors
    /// The first mistake, with its place in `text`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Box<Diagnostic>> {
        let board_type: BoardType = parse_toml(file, text)?;
        match board_type.first_mistake() {
            None => Ok(board_type),
            Some((place, message)) => Err(at(file, text, &place, message)),
        }
    }

    fn first_mistake(&self) -> Option<(Vec<Step<'static>>, String)> {
        let key = |name| vec![Step::Key(name)];
        if !is_plain_word(&self.console) {
            return Some((
                key("console"),
                format!("`{}` is not a console such as ttyS0,115200", self.console),
            ));
        }
        if let Some(tree) = &self.device_tree
            && !is_relative_path(tree)
        {
            return Some((key("device-tree"), not_relative(tree)));
        }
        if self.image == ImageKind::ZImage && !matches!(self.arch, Arch::Armel | Arch::Armhf) {
            return Some((
                key("image"),
                format!("{} has no zImage: its kernel is an `Image`", self.arch),
            ));
        }
        if let Some(argument) = self.kernel_arguments.iter().position(|a| !is_plain_word(a)) {
            return Some((
                vec![Step::Key("kernel-arguments"), Step::Index(argument)],
                "a kernel argument is one word, without spaces, quotes or control characters"
                    .into(),
            ));
        }
        if let Some(Err((name, message))) = self.login.as_ref().map(Login::check) {
            return Some((vec![Step::Key("login"), Step::Key(name)], message));
        }
        self.media
            .first_mistake()
            .map(|(name, message)| (vec![Step::Key("media"), Step::Key(name)], message))
            .or_else(|| self.first_mistake_in_blobs())
    }

    fn first_mistake_in_blobs(&self) -> Option<(Vec<Step<'static>>, String)> {
        let blobs = &self.bootloader.as_ref()?.blobs;
        blobs.iter().enumerate().find_map(|(index, blob)| {
            let (name, message) = blob.first_mistake(&self.media)?;
            let place = vec![
                Step::Key("bootloader"),
                Step::Key("blob"),
                Step::Index(index),
            ];
            Some((
                place.into_iter().chain(name.map(Step::Key)).collect(),
                message,
            ))
        })
    }

    /// The initial MAC of the firmware of every emulated board of this type, if it is the same one.
    pub fn emulated_mac(&self) -> Option<Mac> {
        self.emulation.as_ref()?.mac
    }
}

impl Media {
    fn first_mistake(&self) -> Option<(&'static str, String)> {
        if !self.fat_offset.is_multiple_of(512) || !self.fat_size.is_multiple_of(512) {
            let name = if self.fat_offset.is_multiple_of(512) {
                "fat-size"
            } else {
                "fat-offset"
            };
            return Some((
                name,
                "a card has sectors of 512 bytes: use a multiple".into(),
            ));
        }
        if self.table == Table::None && self.fat_offset != 0 {
            return Some((
                "fat-offset",
                "without a partition table the FAT is the whole card and begins at 0".into(),
            ));
        }
        if self.table != Table::None && self.fat_offset < 512 {
            return Some((
                "fat-offset",
                "the first sector holds the partition table".into(),
            ));
        }
        if self.fat_size < 64 << 10 {
            return Some((
                "fat-size",
                "a FAT of less than 64 KiB holds no boot script".into(),
            ));
        }
        None
    }
}

impl Blob {
    /// The invalid key (none for the blob as a whole) and the reason.
    fn first_mistake(&self, media: &Media) -> Option<(Option<&'static str>, String)> {
        let sources = [&self.file, &self.content, &self.device_tree];
        if sources.iter().filter(|source| source.is_some()).count() != 1 {
            return Some((
                None,
                "a blob has exactly one of `file`, `content` and `device-tree`".into(),
            ));
        }
        for (name, path) in [("file", &self.file), ("device-tree", &self.device_tree)] {
            if let Some(path) = path
                && !is_relative_path(path)
            {
                return Some((Some(name), not_relative(path)));
            }
        }
        match &self.place {
            Place::Offset(offset) if media.table != Table::None && *offset < 512 => Some((
                Some("place"),
                "the first sector holds the partition table".into(),
            )),
            Place::Offset(offset)
                if (media.fat_offset..media.fat_offset + media.fat_size).contains(offset) =>
            {
                Some((Some("place"), format!("{offset} is inside the FAT")))
            }
            Place::Fat(name) if !name.is_empty() && !is_relative_path(name) => {
                Some((Some("place"), not_relative(name)))
            }
            _ => None,
        }
    }
}

fn is_plain_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\'))
}

/// Whether `path` stays below its base directory.
fn is_relative_path(path: &str) -> bool {
    !path.chars().any(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn not_relative(path: &str) -> String {
    format!("`{path}` is not a relative path without `.` and `..`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(text: &str) -> String {
        BoardType::parse(Path::new("x.toml"), text)
            .unwrap_err()
            .to_string()
    }

    const SOUND: &str = "description = 'x'\narch = 'armhf'\nconsole = 'ttyS0'\nimage = 'zImage'\n";

    #[test]
    fn a_mistake_is_told_with_its_place() {
        BoardType::parse(Path::new("x.toml"), SOUND).unwrap();
        for (more, expected) in [
            ("consol = 'x'", "x.toml:5:1: unknown key `consol`"),
            ("[media]\ntable = 'gtp'", "x.toml:6:9: unknown value `gtp`"),
            (
                "[media]\nfat-offset = 100",
                "x.toml:6:14: a card has sectors",
            ),
            (
                "[bootloader]\npackages = []\n[[bootloader.blob]]\nplace = 'firmware'",
                "x.toml:7:1: a blob has exactly one of",
            ),
            (
                "[bootloader]\npackages = []\nblob = [{ file = '/etc/x', place = { fat = 'x' } }]",
                "x.toml:7:18: `/etc/x` is not a relative path",
            ),
            (
                "kernel-arguments = ['a', 'b c']",
                "x.toml:5:26: a kernel argument is one word",
            ),
        ] {
            let told = mistake(&format!("{SOUND}{more}\n"));
            assert!(told.starts_with(expected), "{more:?}: {told}");
        }
        let told = mistake(&SOUND.replace("armhf", "arm64"));
        assert!(
            told.starts_with("x.toml:4:9: arm64 has no zImage"),
            "{told}"
        );
    }
}
