//! Owns the recipe: what goes into a master image (`recipes/*.toml`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::check::check;
use super::{Arch, Limits, RecipeFile, parse_toml};

/// A recipe, as its author wrote it. Paths in it are relative to its own directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recipe {
    /// One line for people.
    pub description: String,
    pub arch: Arch,
    pub archive: ArchiveSource,
    /// The kernel's package, such as `linux-image-armmp`; none for an image that is not booted.
    pub kernel: Option<String>,
    /// Beyond what is essential or required.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Never to be installed, even where something recommends them or offers them as an alternative.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Local packages to install as well.
    #[serde(default)]
    pub debs: Vec<PathBuf>,
    /// Board types that the image is for; empty for all of its architecture.
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
    /// Reads a recipe by path or name; [`RecipeFile::open`] also says where it was found.
    pub fn load(argument: &str) -> Result<Self> {
        RecipeFile::open(argument).map(|file| file.recipe)
    }

    /// Reads a recipe's text; `path` is only for messages.
    ///
    /// # Errors
    /// The first mistake, as a [`Diagnostic`](super::Diagnostic).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let recipe: Recipe = parse_toml(path, text)?;
        check(&recipe, path, text)?;
        Ok(recipe)
    }

    /// SHA-256, in hex, of the parts that decide which packages are chosen: architecture, archive, kernel,
    /// packages, exclusions and local packages.
    pub fn selection_digest(&self) -> String {
        // Only what is listed here counts: a change of the description leaves the lock valid.
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

/// Where packages come from. The mirror's address is never part of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ArchiveSource {
    /// Such as `trixie`, `trixie-updates`, `trixie-security`.
    pub suites: Vec<String>,
    #[serde(default = "main_component")]
    pub components: Vec<String>,
    /// OpenPGP keyring that the releases must be signed with; Debian's archive keyring by default.
    pub keyring: Option<PathBuf>,
    #[serde(default)]
    pub recommends: bool,
}

fn main_component() -> Vec<String> {
    vec!["main".into()]
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct System {
    /// `LANG`; `C.UTF-8` by default.
    pub locale: Option<String>,
    /// As below `/usr/share/zoneinfo`; `Etc/UTC` by default.
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
    /// As in `/etc/shadow`; without one the account is locked for passwords. `""` lets anybody in.
    pub password_hash: Option<String>,
    #[serde(default)]
    pub authorized_keys: Vec<String>,
}

/// A file or directory laid over the image: exactly one of `source`, `content`, `template`,
/// `link` and `directory`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileEntry {
    /// Where it goes in the image, absolute.
    pub path: String,
    /// A file, or a directory with all that is in it.
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
    /// Octal, as `"0755"`; 0644 for files and 0755 for directories and executable sources by default.
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

/// What to leave out of the image.
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
    /// Paths to keep although something above would remove them.
    pub keep: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct InitrdOptions {
    pub builder: Builder,
    pub compression: Compression,
    /// The roots that it can mount; fewer make it smaller.
    pub roots: Vec<RootKind>,
    /// As in a board type's `[initrd]`.
    pub modules: Vec<String>,
    /// Programs of the image to take along, absolute.
    pub binaries: Vec<String>,
    /// For the chroot builder: directories of initramfs-tools hooks and scripts.
    pub hooks: Option<PathBuf>,
    pub scripts: Option<PathBuf>,
    /// For the chroot builder: what it takes besides the modules of board types and recipe.
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
    /// Those for a network.
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
