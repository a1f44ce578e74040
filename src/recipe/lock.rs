//! Owns the lock: the exact packages that a recipe resolved to (`recipes/*.lock`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::model::Recipe;
use crate::arch::Arch;
use crate::clock::parse_date;
use crate::diagnostic::parse_toml;
use crate::error::Fault;
use crate::input;
use crate::output::write_atomically;

const HEADER: &str = "\
# Written by `hearth lock`. Keep it in version control beside the recipe; do not edit it by hand.
";

/// The packages that a recipe resolved to. Contains no mirror's address: paths are relative to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// Format of this file; 1.
    pub version: u32,
    /// SHA-256 of the parts of the recipe that determine the packages.
    pub recipe: String,
    pub arch: Arch,
    #[serde(default, rename = "release")]
    pub releases: Vec<LockedRelease>,
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}

/// A release file that the resolution used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedRelease {
    pub suite: String,
    /// From the release file, RFC 5322: `Sat, 12 Sep 2026 07:55:41 UTC`.
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
    /// Relative to the mirror, `pool/main/b/busybox/….deb`; for a local package, relative to the
    /// recipe.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// The suite of the release that lists it; empty for a local package.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suite: String,
    #[serde(default, skip_serializing_if = "Role::is_root")]
    pub role: Role,
    /// One of the recipe's own `debs`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
    /// Installed only as a dependency: APT's "automatically installed".
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
    /// [`Diagnostic`](crate::diagnostic::Diagnostic)s.
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

    /// Writes the lock atomically.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_toml().as_bytes())
    }

    /// The lock as text; deterministic.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("strings, integers and tables are always TOML");
        format!("{HEADER}{body}")
    }

    /// SHA-256 of the lock as text, in hex.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_toml()))
    }

    /// Whether the lock matches the recipe, that is, its digest is unchanged.
    pub fn is_of(&self, recipe: &Recipe) -> bool {
        self.arch == recipe.arch && self.recipe == recipe.selection_digest()
    }

    /// The date of the newest release, in seconds since 1970: the default of `SOURCE_DATE_EPOCH`.
    pub fn epoch(&self) -> Option<u64> {
        self.releases
            .iter()
            .filter_map(|release| parse_date(&release.date))
            .max()
    }

    /// The differences to another lock, by name and role.
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

/// The difference of one package between two locks. Both versions may be equal if only the files
/// differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub name: String,
    pub role: Role,
    /// The old version; `None` if the package was added.
    pub old: Option<String>,
    /// The new version; `None` if the package was removed.
    pub new: Option<String>,
}

impl LockedPackage {
    /// Whether the path stays below its base and the hash is valid: both become parts of file
    /// paths.
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

/// The purpose of a package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Installed in the master image.
    #[default]
    Root,
    /// Contains bootloader files of a board type; extracted, never installed.
    Bootloader,
    /// Contains programs of the building host's architecture that maintainer scripts run, or
    /// libraries of these; never installed.
    Tool,
}

/// The architecture of [`Role::Tool`]: that of hosts which have to emulate every image's.
pub const TOOL_ARCH: &str = "amd64";

/// Packages whose programs maintainer scripts run most. A native program does the same as the
/// image's own, but starts in a millisecond instead of twenty.
pub const TOOLS: [&str; 16] = [
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "kmod",
    // for kmod, which loads it when it starts
    "liblzma5",
    "mawk",
    "openssl",
    "perl",
    "perl-base",
    "sed",
    "systemd",
    "udev",
];

/// Whether a package has compiled modules of Perl, which a native Perl finds only if they are native as well: all that have
/// depend on Perl's binary interface (Debian Perl Policy 4.4.2). `depends` is its `Pre-Depends` and `Depends`.
///
/// libtext-charwidth-perl does not count: debconf loads it to wrap text for a terminal, of which a build has none, and does
/// without it.
pub fn loads_into_perl(name: &str, depends: &str) -> bool {
    let mut names = depends.split([',', '|']).map(str::trim);
    name != "libtext-charwidth-perl" && names.any(|other| other.starts_with("perlapi-"))
}

/// Whether a native program of [`TOOLS`] loads what this package of the image has, if it is there: modules of Perl, of
/// the name service switch (nsswitch.conf(5)), of iconv(3).
pub fn loads_into_tools(name: &str, depends: &str) -> bool {
    loads_into_perl(name, depends)
        || name.starts_with("libnss-")
        || name == "libc-gconv-modules-extra"
}

impl Role {
    fn is_root(&self) -> bool {
        *self == Role::Root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loads_into_native_programs_is_known_by_its_relations() {
        let perl = "perl-base (>= 5.40.1-1), perlapi-5.40.1, libc6 (>= 2.38)";
        assert!(loads_into_perl("libtext-iconv-perl", perl));
        assert!(loads_into_perl("irssi", "perlapi-5.40.1|x"));
        assert!(!loads_into_perl("libtext-charwidth-perl", perl));
        assert!(!loads_into_perl("ucf", "perl:any, debconf, libperlapi-x"));
        assert!(loads_into_tools("libtext-iconv-perl", perl));
        assert!(loads_into_tools("libnss-systemd", "libc6"));
        assert!(!loads_into_tools("libnss3", "libc6"));
    }

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
