//! Owns the description of a model of board (`recipes/boards/*.toml`).

use serde::{Deserialize, Serialize};

use super::{Arch, Compression};

/// A model of board: what it boots, from where, and how it can be emulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BoardType {
    /// One line for people.
    pub description: String,
    pub arch: Arch,
    /// The kernel's console argument, such as `ttyS0,115200`.
    pub console: String,
    /// Path of the device tree below the kernel's dtb directory, such as
    /// `sun8i-h3-nanopi-neo.dtb` or `broadcom/bcm2837-rpi-3-b.dtb`. Without one, the kernel gets
    /// the tree that U-Boot itself runs with (`fdtcontroladdr`).
    pub device_tree: Option<String>,
    /// What the kernel package's image is, and so which command boots it.
    pub image: ImageKind,
    /// The boot script that the card's script fetches: a template's name in `boot-scripts/`.
    #[serde(default = "nfs")]
    pub boot_script: String,
    /// Kernel arguments that this model needs beyond the usual ones.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Load addresses, for a U-Boot that does not set `kernel_addr_r` and its kin.
    pub addresses: Option<LoadAddresses>,
    pub bootloader: Option<Bootloader>,
    #[serde(default)]
    pub media: Media,
    #[serde(default)]
    pub initrd: InitrdNeeds,
    /// How QEMU emulates it; absent for hardware that QEMU cannot be.
    pub emulation: Option<Emulation>,
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

/// Addresses in the board's memory at which U-Boot puts what it loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LoadAddresses {
    pub kernel: u64,
    pub ramdisk: u64,
    pub fdt: u64,
    pub script: u64,
}

/// Where the bootloader comes from and where its parts go on the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bootloader {
    /// Debian packages of the board's architecture (or `all`) that hold the files named below.
    pub packages: Vec<String>,
    #[serde(default, rename = "blob")]
    pub blobs: Vec<Blob>,
}

/// One file of a bootloader package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Blob {
    /// Path inside the package, without a leading slash; a trailing `/*` takes a directory's files.
    /// Absent where `content` gives the bytes.
    pub file: Option<String>,
    /// Text of a small file that no package has, such as the Raspberry Pi's `config.txt`.
    pub content: Option<String>,
    pub place: Place,
}

/// Where a blob sits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Raw on the card, at this many bytes from its start.
    Offset(u64),
    /// In the FAT, under this name (a directory's name for a `/*` blob, empty for the root).
    Fat(String),
    /// Given to the emulator as its firmware (`-bios`); nothing on the card.
    Firmware,
}

/// What the card looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Media {
    pub table: Table,
    /// Where the FAT begins, in bytes.
    pub fat_offset: u64,
    /// How large the FAT is, in bytes.
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

/// What an initrd needs so that this model reaches its network and its root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct InitrdNeeds {
    /// Modules by name, with or without `.ko`; a trailing `/*` takes a directory below
    /// `kernel/`, such as `drivers/net/phy/*`.
    pub modules: Vec<String>,
    /// Whether to take the modules that the device tree's `compatible` strings name.
    pub from_device_tree: bool,
    /// Compressions that this model's kernel can unpack; empty for all.
    pub compression: Vec<Compression>,
}

/// How `qemu-system-*` is this board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Emulation {
    /// `-M`.
    pub machine: String,
    /// `-cpu`, where the machine does not say.
    pub cpu: Option<String>,
    /// `-m`, in MiB.
    pub memory: u32,
    #[serde(default = "one")]
    pub cpus: u32,
    /// The network device: `virtio-net-pci`, or `onboard` for the machine's own.
    pub network: String,
    /// How the card is attached: `sd`, or `virtio` for machines without a slot.
    pub card: String,
    /// The MAC that U-Boot of this emulated board has before a boot script sets another.
    pub mac: Option<String>,
}

fn one() -> u32 {
    1
}
