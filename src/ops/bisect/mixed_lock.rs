//! Owns locks that are partly one lock and partly another: what differs between the two, in which steps one becomes the
//! other, and the lock after each step.
//! Never builds one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;

use crate::archive::mixture::{self, Difference};
use crate::error::Fault;
use crate::recipe::{Lock, LockedPackage, Role};

/// Two locks of one recipe, and the steps from the good one to the bad one.
pub struct MixedLock {
    good: Lock,
    bad: Lock,
    /// Names of packages, by step. One name stands for its packages of all roles: the image's, the bootloader's, tools.
    steps: Vec<Vec<String>>,
}

/// The packages of a name in one lock.
type ByName<'a> = BTreeMap<&'a str, Vec<(&'a LockedPackage, &'a PathBuf)>>;

impl MixedLock {
    /// `debs` are the files of each lock's packages, in its order.
    ///
    /// # Errors
    /// If the locks are of different recipes, or have the same packages; if a file is no package.
    pub fn new(good: (Lock, Vec<PathBuf>), bad: (Lock, Vec<PathBuf>)) -> Result<Self> {
        if good.0.recipe != bad.0.recipe || good.0.arch != bad.0.arch {
            return Err(Fault::input("the two locks are of different recipes")
                .remedy(
                    "lock the recipe as it is now with the older archive, or bisect the repository that the recipe is in",
                )
                .into());
        }
        let (old, new) = (by_name(&good.0, &good.1), by_name(&bad.0, &bad.1));
        let all: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        let (same, differing): (Vec<&str>, Vec<&str>) = all
            .into_iter()
            .partition(|name| is_same(old.get(name), new.get(name)));
        if differing.is_empty() {
            return Err(Fault::input("the two locks have the same packages")
                .remedy("`hearth diff GOOD.lock BAD.lock` shows what differs between locks")
                .into());
        }
        let mut common = Vec::new();
        for name in same {
            common.extend(of_image(new.get(name))?);
        }
        let mut differences = Vec::new();
        for name in &differing {
            differences.push(Difference {
                old: of_image(old.get(name))?,
                new: of_image(new.get(name))?,
            });
        }
        let named = |step: Vec<usize>| {
            let names = step.into_iter().map(|number| differing[number].to_string());
            names.collect()
        };
        let steps = mixture::steps(&common, &differences);
        let steps = steps.into_iter().map(named).collect();
        Ok(MixedLock {
            good: good.0,
            bad: bad.0,
            steps,
        })
    }

    /// How many steps there are: at least 1.
    pub fn last(&self) -> usize {
        self.steps.len()
    }

    /// How many packages differ.
    pub fn differing(&self) -> usize {
        self.steps.iter().map(Vec::len).sum()
    }

    /// The packages that come over with the steps after `good` up to `bad`: name, version before, version after.
    pub fn changes(&self, good: usize, bad: usize) -> Vec<String> {
        let version = |lock: &Lock, name: &str| {
            let named = lock.packages.iter().filter(|package| package.name == name);
            // The image's own, where the name has several roles.
            let first = named.min_by_key(|package| package.role);
            first.map_or("-".to_string(), |package| package.version.clone())
        };
        let names = self.steps[good..bad].iter().flatten();
        names
            .map(|name| {
                let versions = (version(&self.good, name), version(&self.bad, name));
                format!("{name} {} → {}", versions.0, versions.1)
            })
            .collect()
    }

    /// The lock after this many steps: the good one itself after none, the bad one itself after all. Those between have the
    /// bad one's releases, so that no file is newer than the image.
    pub fn after(&self, steps: usize) -> Lock {
        if steps == 0 {
            return self.good.clone();
        }
        if steps == self.last() {
            return self.bad.clone();
        }
        let later: BTreeSet<&String> = self.steps[steps..].iter().flatten().collect();
        let of = |lock: &Lock, is_later: bool| -> Vec<LockedPackage> {
            let packages = lock.packages.iter();
            packages
                .filter(|package| later.contains(&package.name) == is_later)
                .cloned()
                .collect()
        };
        let mut packages = of(&self.good, true);
        packages.extend(of(&self.bad, false));
        packages.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        Lock {
            packages,
            ..self.bad.clone()
        }
    }
}

fn by_name<'a>(lock: &'a Lock, debs: &'a [PathBuf]) -> ByName<'a> {
    let mut found = ByName::new();
    for (package, deb) in lock.packages.iter().zip(debs) {
        found.entry(&package.name).or_default().push((package, deb));
    }
    found
}

/// Whether the packages of a name are the same; where they are fetched from does not count.
fn is_same(
    old: Option<&Vec<(&LockedPackage, &PathBuf)>>,
    new: Option<&Vec<(&LockedPackage, &PathBuf)>>,
) -> bool {
    let content = |packages: Option<&Vec<(&LockedPackage, &PathBuf)>>| {
        let packages = packages.into_iter().flatten();
        let mut content: Vec<_> = packages
            .map(|(package, _)| (package.role, package.sha256.clone(), package.auto))
            .collect();
        content.sort();
        content
    };
    content(old) == content(new)
}

/// What the package of that name in the image says of itself. Relations of bootloaders and tools bind nothing.
fn of_image(
    packages: Option<&Vec<(&LockedPackage, &PathBuf)>>,
) -> Result<Option<crate::archive::Package>> {
    let mut packages = packages.into_iter().flatten();
    packages
        .find(|(package, _)| package.role == Role::Root)
        .map(|(package, deb)| mixture::read_package(package, deb))
        .transpose()
}

#[cfg(test)]
mod tests;
