//! Owns the lock: the exact packages that a recipe resolved to (`recipes/*.lock`).

use serde::{Deserialize, Serialize};

use super::Arch;

/// What a recipe resolved to. Holds no address of a mirror: paths are relative to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// Format of this file; 1.
    pub version: u32,
    /// SHA-256 of the parts of the recipe that decide which packages are chosen.
    pub recipe: String,
    pub arch: Arch,
    #[serde(default, rename = "release")]
    pub releases: Vec<LockedRelease>,
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}

/// A release file that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedRelease {
    pub suite: String,
    /// As in the release file, RFC 5322: `Sat, 12 Sep 2026 07:55:41 UTC`.
    pub date: String,
    /// SHA-256 of the InRelease file.
    pub sha256: String,
}

/// One package file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedPackage {
    pub name: String,
    pub version: String,
    /// Debian architecture, or `all`.
    pub arch: String,
    /// Relative to the mirror: `pool/main/b/busybox/….deb`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Which of the lock's releases lists it.
    pub suite: String,
    #[serde(default, skip_serializing_if = "Role::is_root")]
    pub role: Role,
}

/// What a package is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Installed in the master image.
    #[default]
    Root,
    /// Holds bootloader files of a board type; unpacked for them, never installed.
    Bootloader,
}

impl Role {
    fn is_root(&self) -> bool {
        *self == Role::Root
    }
}
