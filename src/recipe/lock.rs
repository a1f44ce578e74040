//! Owns the lock: the exact packages that a recipe resolved to (`recipes/*.lock`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Arch, Recipe, parse_toml};
use crate::clock::parse_date;
use crate::error::Fault;
use crate::input;
use crate::output::write_atomically;

const HEADER: &str = "\
# Written by `hearth lock`. Keep it in version control beside the recipe; do not edit it by hand.
";

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
    /// Relative to the mirror, `pool/main/b/busybox/….deb`; of a local package, relative to the recipe.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Which of the lock's releases lists it; empty for a local package.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suite: String,
    #[serde(default, skip_serializing_if = "Role::is_root")]
    pub role: Role,
    /// One of the recipe's own `debs`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
    /// Here only because another package needs it, which is what APT calls automatically installed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Lock {
    pub const VERSION: u32 = 1;

    /// Reads a lock.
    ///
    /// # Errors
    /// If it cannot be read, is no lock, or one of another version; those of wrong TOML are
    /// [`Diagnostic`](super::Diagnostic)s.
    pub fn load(path: &Path) -> Result<Self> {
        let text = input::read_text(path)
            .with_context(|| format!("cannot read the lock {}", path.display()))?;
        Lock::parse(path, &text)
    }

    /// `path` is only for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let lock: Lock = parse_toml(path, text)?;
        if lock.version != Lock::VERSION {
            return Err(Fault::input(format!(
                "{} is a lock of version {}; this hearth knows version {}",
                path.display(),
                lock.version,
                Lock::VERSION
            ))
            .remedy("lock the recipe again with this hearth, or use a newer one")
            .into());
        }
        if let Some(wrong) = lock.packages.iter().find(|package| !package.is_sane()) {
            return Err(Fault::input(format!(
                "{}: the package {} has an impossible path or SHA-256",
                path.display(),
                wrong.name
            ))
            .remedy("lock the recipe again: hearth lock RECIPE")
            .into());
        }
        Ok(lock)
    }

    /// Writes the lock, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_toml().as_bytes())
    }

    /// The lock as text; the same for the same lock.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("strings, integers and tables are always TOML");
        format!("{HEADER}{body}")
    }

    /// SHA-256 of the lock as text, in hex.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_toml()))
    }

    /// Whether the recipe still asks for what it asked for when this lock was made.
    pub fn is_of(&self, recipe: &Recipe) -> bool {
        self.arch == recipe.arch && self.recipe == recipe.selection_digest()
    }

    /// The date of the newest release that was used, in seconds since 1970: the default of
    /// `SOURCE_DATE_EPOCH`.
    pub fn epoch(&self) -> Option<u64> {
        self.releases
            .iter()
            .filter_map(|release| parse_date(&release.date))
            .max()
    }

    /// What differs in the other lock, by name and role.
    pub fn changes(&self, new: &Lock) -> Vec<Change> {
        let key = |package: &LockedPackage| (package.role, package.name.clone());
        let old: BTreeMap<_, _> = self.packages.iter().map(|p| (key(p), p)).collect();
        let new: BTreeMap<_, _> = new.packages.iter().map(|p| (key(p), p)).collect();
        let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        keys.into_iter()
            .filter_map(|key| {
                let (before, after) = (old.get(key), new.get(key));
                let same = before.map(|p| (&p.version, &p.arch, &p.sha256))
                    == after.map(|p| (&p.version, &p.arch, &p.sha256));
                (!same).then(|| Change {
                    name: key.1.clone(),
                    role: key.0,
                    old: before.map(|p| p.version.clone()),
                    new: after.map(|p| p.version.clone()),
                })
            })
            .collect()
    }
}

/// How one package differs between two locks. Both versions may be equal where the files are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub role: Role,
    /// The version before; none if it was added.
    pub old: Option<String>,
    /// The version after; none if it was removed.
    pub new: Option<String>,
}

impl LockedPackage {
    /// Whether the path stays below its base, and the hash is one: both become parts of paths.
    fn is_sane(&self) -> bool {
        self.sha256.len() == 64
            && self
                .sha256
                .bytes()
                .all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
            && (self.local
                || self
                    .path
                    .split('/')
                    .all(|part| !matches!(part, "" | "." | "..")))
    }
}

/// What a package is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Installed in the master image.
    #[default]
    Root,
    /// Holds bootloader files of a board type; unpacked for them, never installed.
    Bootloader,
    /// Holds programs of the building host's architecture that maintainer scripts run, or a library of theirs; never
    /// installed.
    Tool,
}

/// The architecture of [`Role::Tool`]: that of hosts which have to emulate every image's.
pub const TOOL_ARCH: &str = "amd64";

/// Packages whose programs maintainer scripts spend their time in. A native one does what the image's own does, which is
/// the same program, but takes a millisecond to start where an emulated one takes twenty.
pub const TOOLS: [&str; 16] = [
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "kmod",
    // for kmod, which only looks for it when it starts
    "liblzma5",
    "mawk",
    "openssl",
    "perl",
    "perl-base",
    "sed",
    "systemd",
    "udev",
];

impl Role {
    fn is_root(&self) -> bool {
        *self == Role::Root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, role: Role) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            arch: "armhf".into(),
            path: format!("pool/main/{name}_{version}_armhf.deb"),
            size: 1,
            sha256: hex::encode(Sha256::digest(version)),
            suite: "trixie".into(),
            role,
            local: false,
            auto: false,
        }
    }

    fn lock(packages: Vec<LockedPackage>) -> Lock {
        Lock {
            version: Lock::VERSION,
            recipe: "0".repeat(64),
            arch: Arch::Armhf,
            releases: vec![LockedRelease {
                suite: "trixie".into(),
                date: "Sat, 12 Sep 2026 07:55:41 UTC".into(),
                sha256: "1".repeat(64),
            }],
            packages,
        }
    }

    #[test]
    fn a_lock_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = lock(vec![
            package("a", "1", Role::Root),
            package("b", "1", Role::Bootloader),
        ]);
        lock.save(&path).unwrap();
        assert_eq!(Lock::load(&path).unwrap(), lock);
        assert_eq!(lock.epoch(), Some(1_789_199_741));
    }

    #[test]
    fn a_path_out_of_the_mirror_is_refused() {
        let mut wrong = package("a", "1", Role::Root);
        wrong.path = "../../etc/passwd".into();
        let text = lock(vec![wrong]).to_toml();
        let error = Lock::parse(Path::new("a.lock"), &text).unwrap_err();
        assert!(error.to_string().contains("impossible path"), "{error}");
    }

    #[test]
    fn changes_name_what_came_went_and_moved() {
        let old = lock(vec![
            package("a", "1", Role::Root),
            package("b", "1", Role::Root),
        ]);
        let new = lock(vec![
            package("a", "2", Role::Root),
            package("c", "1", Role::Bootloader),
        ]);
        let told: Vec<_> = old
            .changes(&new)
            .into_iter()
            .map(|c| (c.name, c.old, c.new))
            .collect();
        let version = |v: &str| Some(v.to_string());
        assert_eq!(
            told,
            [
                ("a".to_string(), version("1"), version("2")),
                ("b".to_string(), version("1"), None),
                ("c".to_string(), None, version("1")),
            ]
        );
        assert!(old.changes(&old).is_empty());
    }
}
