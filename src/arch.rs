//! Owns the architectures and their names in Debian, qemu and U-Boot.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Debian architecture that hearth builds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Armel,
    Armhf,
    Arm64,
    Riscv64,
}

impl Arch {
    pub const ALL: [Arch; 4] = [Arch::Armel, Arch::Armhf, Arch::Arm64, Arch::Riscv64];

    /// Debian's name, as in `Packages` files and `.deb` names.
    pub const fn debian(self) -> &'static str {
        match self {
            Arch::Armel => "armel",
            Arch::Armhf => "armhf",
            Arch::Arm64 => "arm64",
            Arch::Riscv64 => "riscv64",
        }
    }

    /// The suffix of qemu's programs for it: `qemu-arm`, `qemu-system-arm`.
    pub const fn qemu(self) -> &'static str {
        match self {
            Arch::Armel | Arch::Armhf => "arm",
            Arch::Arm64 => "aarch64",
            Arch::Riscv64 => "riscv64",
        }
    }

    /// The architecture's name in a legacy uImage header (`mkimage -A`).
    pub const fn uboot(self) -> &'static str {
        match self {
            Arch::Armel | Arch::Armhf => "arm",
            Arch::Arm64 => "arm64",
            Arch::Riscv64 => "riscv",
        }
    }

    /// The GNU triplet that names Debian's library directories.
    pub const fn triplet(self) -> &'static str {
        match self {
            Arch::Armel => "arm-linux-gnueabi",
            Arch::Armhf => "arm-linux-gnueabihf",
            Arch::Arm64 => "aarch64-linux-gnu",
            Arch::Riscv64 => "riscv64-linux-gnu",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}
