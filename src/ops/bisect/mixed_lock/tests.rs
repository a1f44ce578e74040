//! Tests of mixed locks, over packages that dpkg-deb made.

use std::fs;

use sha2::{Digest, Sha256};

use super::*;
use crate::arch::Arch;
use crate::recipe::LockedRelease;

/// A lock of packages `NAME VERSION`, of these roles, each with its relations.
fn lock(directory: &std::path::Path, packages: &[(&str, Role, &str)]) -> (Lock, Vec<PathBuf>) {
    let mut lock = Lock {
        version: Lock::VERSION,
        recipe: "0".repeat(64),
        arch: Arch::Armhf,
        releases: vec![LockedRelease {
            suite: "trixie".into(),
            date: directory.display().to_string(),
            sha256: "1".repeat(64),
        }],
        packages: Vec::new(),
    };
    let mut debs = Vec::new();
    for (number, (package, role, relations)) in packages.iter().enumerate() {
        let (name, version) = package.split_once(' ').unwrap();
        let tree = directory.join(format!("tree{number}"));
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: armhf\nMaintainer: t <t@localhost>\n{relations}Description: t\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let deb = directory.join(format!("{number}.deb"));
        common::pack(&tree, &deb);
        lock.packages.push(LockedPackage {
            name: name.into(),
            version: version.into(),
            arch: "armhf".into(),
            path: format!("pool/{name}_{version}.deb"),
            size: fs::metadata(&deb).unwrap().len(),
            // The same package is the same file, whenever it was made.
            sha256: hex::encode(Sha256::digest(package)),
            suite: "trixie".into(),
            role: *role,
            local: false,
            auto: false,
        });
        debs.push(deb);
    }
    (lock, debs)
}

fn versions(lock: &Lock) -> Vec<String> {
    let packages = lock.packages.iter();
    packages
        .map(|package| format!("{} {} {:?}", package.name, package.version, package.role))
        .collect()
}

#[test]
fn each_step_takes_over_all_packages_of_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let good = lock(
        &old,
        &[
            ("gone 1", Role::Root, ""),
            ("perl 1", Role::Root, ""),
            ("same 1", Role::Root, "Depends: perl\n"),
            ("uboot 1", Role::Bootloader, ""),
            ("perl 1", Role::Tool, ""),
        ],
    );
    let bad = lock(
        &new,
        &[
            ("came 1", Role::Root, ""),
            ("perl 2", Role::Root, "Depends: came\n"),
            ("same 1", Role::Root, "Depends: perl\n"),
            ("uboot 2", Role::Bootloader, ""),
            ("perl 2", Role::Tool, ""),
        ],
    );
    let (first, last) = (good.0.clone(), bad.0.clone());
    let mixed = MixedLock::new(good, bad).unwrap();
    assert_eq!((mixed.last(), mixed.differing()), (4, 4));
    assert_eq!(mixed.after(0), first);
    assert_eq!(mixed.after(4), last);
    assert_eq!(
        mixed.changes(0, 4),
        ["came - → 1", "gone 1 → -", "uboot 1 → 2", "perl 1 → 2"]
    );
    let third = mixed.after(3);
    assert_eq!(
        versions(&third),
        [
            "came 1 Root",
            "perl 1 Root",
            "same 1 Root",
            "uboot 2 Bootloader",
            "perl 1 Tool"
        ]
    );
    assert_eq!(third.releases, last.releases);
}

#[test]
fn locks_that_cannot_be_compared_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let one = || lock(dir.path(), &[("a 1", Role::Root, "")]);
    let error = MixedLock::new(one(), one()).err().unwrap();
    assert!(error.to_string().contains("the same packages"), "{error}");
    let mut other = lock(dir.path(), &[("a 2", Role::Root, "")]);
    other.0.recipe = "1".repeat(64);
    let error = MixedLock::new(one(), other).err().unwrap();
    assert!(error.to_string().contains("different recipes"), "{error}");
}
