//! Owns which mixtures of two sets of packages can be installed: the order in which one set becomes the other by the
//! smallest steps whose dependencies hold.
//! Never chooses a version that is in neither set.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::Result;

use super::index::Package;
use super::local::describe;
use super::relation::{self, Relation};
use crate::recipe::LockedPackage;

/// A package that differs between the sets: its version of each, or none where that set lacks it.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    pub old: Option<Package>,
    pub new: Option<Package>,
}

/// What a locked package's own file says of it, as an index would.
///
/// # Errors
/// If the file is no package.
pub fn read_package(locked: &LockedPackage, deb: &Path) -> Result<Package> {
    describe(deb, &locked.path, locked.size, &locked.sha256)
}

/// The steps from the old set to the new one, each the numbers of the differences that it takes over. After every step all
/// dependencies hold that hold in both sets. A step has several differences only if none of its parts could be taken over
/// alone. Both sets have all of `common`.
pub fn steps(common: &[Package], differences: &[Difference]) -> Vec<Vec<usize>> {
    let mixer = Mixer::new(common, differences);
    let mut wanted: Vec<(usize, usize)> = (0..differences.len())
        .map(|number| (mixer.closed(BTreeSet::from([number])).len(), number))
        .collect();
    // What needs nothing else comes first, so that each step finds what it needs taken over already.
    wanted.sort_unstable();
    let mut taken = BTreeSet::new();
    let mut steps = Vec::new();
    for (_, number) in wanted {
        if taken.contains(&number) {
            continue;
        }
        let mut more = taken.clone();
        more.insert(number);
        let after = mixer.closed(more);
        steps.push(after.difference(&taken).copied().collect());
        taken = after;
    }
    steps
}

/// A version of a package, with its relations read.
struct Version<'a> {
    package: &'a Package,
    depends: Vec<Vec<Relation<'a>>>,
    conflicts: Vec<Relation<'a>>,
    /// The difference that it belongs to, and whether it is the new one; none for what both sets have.
    of: Option<(usize, bool)>,
}

/// By name: the numbers of the versions that have or provide it, and as which version.
type Providers<'a> = HashMap<&'a str, Vec<(usize, Option<&'a str>)>>;

struct Mixer<'a> {
    versions: Vec<Version<'a>>,
    /// Of all versions of both sets.
    providers: Providers<'a>,
}

impl<'a> Mixer<'a> {
    fn new(common: &'a [Package], differences: &'a [Difference]) -> Self {
        let mut versions: Vec<Version<'a>> = Vec::new();
        let mut add = |package: &'a Package, of| {
            versions.push(Version {
                package,
                depends: relation::parse(&package.depends).collect(),
                conflicts: relation::parse(&package.conflicts).flatten().collect(),
                of,
            });
        };
        for package in common {
            add(package, None);
        }
        for (number, difference) in differences.iter().enumerate() {
            for (package, is_new) in [(&difference.old, false), (&difference.new, true)] {
                if let Some(package) = package {
                    add(package, Some((number, is_new)));
                }
            }
        }
        let mut providers: Providers<'a> = HashMap::new();
        for (id, version) in versions.iter().enumerate() {
            let package = version.package;
            let own = (&*package.name, Some(&*package.version));
            for (name, provided) in std::iter::once(own).chain(package.provided()) {
                providers.entry(name).or_default().push((id, provided));
            }
        }
        Mixer {
            versions,
            providers,
        }
    }

    /// The smallest set of differences with these in it after which all dependencies hold.
    fn closed(&self, mut taken: BTreeSet<usize>) -> BTreeSet<usize> {
        loop {
            let needed: Vec<usize> = (0..self.versions.len())
                .filter(|id| self.is_in(*id, &taken))
                .flat_map(|id| self.repairs(id, &taken))
                .collect();
            let before = taken.len();
            taken.extend(needed);
            if taken.len() == before {
                return taken;
            }
        }
    }

    fn is_in(&self, id: usize, taken: &BTreeSet<usize>) -> bool {
        self.versions[id]
            .of
            .is_none_or(|(number, is_new)| taken.contains(&number) == is_new)
    }

    /// The differences that must be taken over too, so that the relations of a version hold. None for a relation that
    /// does not hold in the new set either.
    fn repairs(&self, id: usize, taken: &BTreeSet<usize>) -> Vec<usize> {
        let version = &self.versions[id];
        let mut needed = Vec::new();
        for group in &version.depends {
            let met = self.matching(group).any(|other| self.is_in(other, taken));
            if met {
                continue;
            }
            match version.of {
                // The old one is satisfied in the old set alone.
                Some((number, false)) => needed.push(number),
                _ => needed.extend(self.matching(group).find_map(|other| self.taking(other))),
            }
        }
        for other in self.matching(&version.conflicts) {
            if other == id || !self.is_in(other, taken) {
                continue;
            }
            // One of the two is old: they are together in neither set.
            let old = [self.versions[other].of, version.of];
            needed.extend(
                old.into_iter()
                    .flatten()
                    .find_map(|(number, is_new)| (!is_new).then_some(number)),
            );
        }
        needed
    }

    /// The difference by which a version that is not there yet comes.
    fn taking(&self, id: usize) -> Option<usize> {
        let (number, is_new) = self.versions[id].of?;
        is_new.then_some(number)
    }

    /// The versions that match one of the relations, those of the first relation first.
    fn matching<'r>(&'r self, relations: &'r [Relation<'a>]) -> impl Iterator<Item = usize> + 'r {
        relations.iter().flat_map(move |relation| {
            let known = self.providers.get(relation.name).into_iter().flatten();
            known
                .filter(|(id, version)| relation.admits(*version) && self.qualifies(relation, *id))
                .map(|(id, _)| *id)
        })
    }

    /// Whether an architecture qualifier allows this package (Debian's Multi-Arch specification).
    fn qualifies(&self, relation: &Relation<'_>, id: usize) -> bool {
        let package = self.versions[id].package;
        match relation.qualifier {
            None | Some("native") => true,
            Some("any") => package.any_arch,
            Some(arch) => *package.arch == *arch,
        }
    }
}

#[cfg(test)]
mod tests;
