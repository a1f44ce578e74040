//! Owns the recipe: what goes into a master image (`recipes/*.toml`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::limits::Limits;
use crate::arch::Arch;

/// A recipe. Paths in it are relative to its own directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recipe {
    /// One line of text.
    pub description: String,
    pub arch: Arch,
    pub archive: ArchiveSource,
    /// The kernel's package, such as `linux-image-armmp`; none for an image that is not booted.
    pub kernel: Option<String>,
    /// Packages in addition to the essential and required ones.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Never installed, even if recommended or an alternative.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Local packages to install.
    #[serde(default)]
    pub debs: Vec<PathBuf>,
    /// Board types that the image supports; empty for all of its architecture.
    #[serde(default)]
    pub boards: Vec<String>,
    #[serde(default)]
    pub system: System,
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    #[serde(default, rename = "file")]
    pub files: Vec<FileEntry>,
    #[serde(default, rename = "command")]
    pub commands: Vec<Command>,
    #[serde(default)]
    pub strip: Strip,
    #[serde(default)]
    pub initrd: InitrdOptions,
    /// What programs of the image may take while it is built.
    #[serde(default)]
    pub limits: Limits,
    /// For templates of files.
    #[serde(default)]
    pub values: BTreeMap<String, toml::Value>,
}

impl Recipe {
    /// SHA-256, in hex, of the parts that determine the packages: architecture, archive, kernel,
    /// packages, exclusions and local packages.
    pub fn selection_digest(&self) -> String {
        // Other parts, such as the description, leave the lock valid.
        let selection = serde_json::json!({
            "arch": self.arch,
            "suites": self.archive.suites,
            "components": self.archive.components,
            "recommends": self.archive.recommends,
            "kernel": self.kernel,
            "packages": self.packages,
            "exclude": self.exclude,
            "debs": self.debs,
        });
        hex::encode(Sha256::digest(selection.to_string()))
    }
}

/// The source of packages. The mirror's address is never part of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ArchiveSource {
    /// Such as `trixie`, `trixie-updates`, `trixie-security`.
    pub suites: Vec<String>,
    #[serde(default = "main_component")]
    pub components: Vec<String>,
    /// OpenPGP keyring that must sign the releases; Debian's archive keyring by default.
    pub keyring: Option<PathBuf>,
    #[serde(default)]
    pub recommends: bool,
    /// A release that does not say until when it counts is warned of when it is older than this; 0 for never.
    #[serde(default = "half_a_year")]
    pub warn_after_days: u32,
}

fn half_a_year() -> u32 {
    180
}

fn main_component() -> Vec<String> {
    vec!["main".into()]
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct System {
    /// `LANG`; `C.UTF-8` by default.
    pub locale: Option<String>,
    /// A path below `/usr/share/zoneinfo`; `Etc/UTC` by default.
    pub timezone: Option<String>,
    pub units: Units,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Units {
    pub enable: Vec<String>,
    pub disable: Vec<String>,
    pub mask: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub uid: Option<u32>,
    #[serde(default)]
    pub groups: Vec<String>,
    pub shell: Option<String>,
    pub home: Option<String>,
    /// In the format of `/etc/shadow`; without one the account has no valid password. `""` means no
    /// password.
    pub password_hash: Option<String>,
    #[serde(default)]
    pub authorized_keys: Vec<String>,
}

/// A file or directory laid over the image: exactly one of `source`, `content`, `template`,
/// `link` and `directory`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileEntry {
    /// Absolute path in the image.
    pub path: String,
    /// A file, or a directory to copy recursively.
    pub source: Option<PathBuf>,
    pub content: Option<String>,
    /// A Handlebars template that gets the recipe's `values`.
    pub template: Option<PathBuf>,
    /// The target of a symbolic link.
    pub link: Option<String>,
    #[serde(default)]
    pub directory: bool,
    /// `user` or `user:group`, by name or number; `root:root` by default.
    pub owner: Option<String>,
    /// Octal, as `"0755"`; 0644 for files and 0755 for directories and executable sources by
    /// default.
    pub mode: Option<String>,
}

/// A shell command run inside the image, under qemu-user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Command {
    pub run: String,
    #[serde(default)]
    pub network: bool,
}

/// Files to leave out of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Strip {
    /// Documentation and manual pages; copyright files stay.
    pub docs: bool,
    /// All locales but those listed in `keep_locales`.
    pub locales: bool,
    pub keep_locales: Vec<String>,
    /// Paths to remove, with `*` and `**`.
    pub paths: Vec<String>,
    /// Paths to keep even if a rule above removes them.
    pub keep: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct InitrdOptions {
    pub builder: Builder,
    pub compression: Compression,
    /// Supported kinds of root; fewer make it smaller.
    pub roots: Vec<RootKind>,
    /// As in a board type's `[initrd]`.
    pub modules: Vec<String>,
    /// Programs of the image to add, as absolute paths.
    pub binaries: Vec<String>,
    /// For the chroot builder: directories of initramfs-tools hooks and scripts.
    pub hooks: Option<PathBuf>,
    pub scripts: Option<PathBuf>,
    /// For the chroot builder: modules in addition to those of board types and recipe.
    pub module_set: ModuleSet,
}

impl Default for InitrdOptions {
    fn default() -> Self {
        InitrdOptions {
            builder: Builder::default(),
            compression: Compression::default(),
            roots: RootKind::ALL.to_vec(),
            modules: Vec::new(),
            binaries: Vec::new(),
            hooks: None,
            scripts: None,
            module_set: ModuleSet::default(),
        }
    }
}

/// A kind of root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// NFS, version 3; hearth's own server speaks it.
    Nfs3,
    /// NFS, version 4.
    Nfs4,
    /// ext4 on a card or disk.
    Card,
}

impl RootKind {
    pub const ALL: [RootKind; 3] = [RootKind::Nfs3, RootKind::Nfs4, RootKind::Card];
}

/// `MODULES=` of initramfs.conf(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleSet {
    /// Most drivers that a root can depend on.
    #[default]
    Most,
    /// Network drivers.
    Netboot,
    /// None.
    List,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builder {
    #[default]
    Native,
    Chroot,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    Gzip,
    Zstd,
    None,
}
