//! Owns the choice of packages: the set that APT would install into an empty system without
//! recommendations.
//! Never fetches or orders anything.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::index::{Index, Package};
use super::relation::{self, Relation};
use super::version;

/// Limit on backtracking steps.
const MOST_WRONG_TURNS: usize = 100_000;

/// What to resolve.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Debian's name of the architecture.
    pub arch: String,
    /// Packages that must be in the set, in order: the dependencies of earlier ones are decided
    /// first.
    pub roots: Vec<String>,
    /// Packages that must not be in the set.
    pub exclude: HashSet<String>,
    pub recommends: bool,
    /// Preferred versions by name; where the archive lacks one, the newest is taken.
    pub prefer: HashMap<String, String>,
}

/// Why there is no solution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsatisfiable {
    /// No package has a root's name.
    Unknown {
        root: String,
        /// Packages that provide the name.
        providers: Vec<String>,
    },
    /// The chain of dependencies that cannot be satisfied, a sentence each.
    Chain(Vec<String>),
}

/// Chooses the packages, as indices into [`Index::packages`], roots first.
///
/// Each name has one candidate version: a local one, else the preferred one, else the newest of all
/// suites, where `NotAutomatic` suites count only if no other has the package. Dependencies are
/// followed depth first. Of alternatives, an already chosen one is taken, else the first that
/// works. Providers are tried after the package of that name, by priority.
pub fn resolve(index: &Index, request: &Request) -> Result<Vec<usize>, Unsatisfiable> {
    let mut solver = Solver::new(index, request);
    let roots = solver.roots()?;
    solver.rule_out(&roots);
    solver.search(&roots)?;
    Ok(solver.chosen)
}

/// The candidate version of each package.
pub fn candidates<'a>(index: &'a Index, request: &Request) -> HashMap<&'a str, usize> {
    index
        .names()
        .filter(|name| !request.exclude.contains(*name))
        .filter_map(|name| Some((name, candidate(index, request, name)?)))
        .collect()
}

fn candidate(index: &Index, request: &Request, name: &str) -> Option<usize> {
    let versions = index.versions(name);
    let package = |id: &usize| &index.packages[*id];
    if let Some(local) = versions.iter().find(|id| package(id).release.is_none()) {
        return Some(*local);
    }
    if let Some(preferred) = request.prefer.get(name)
        && let Some(id) = versions
            .iter()
            .find(|id| *package(id).version == **preferred)
    {
        return Some(*id);
    }
    // Of equal versions the first wins: that of the suite that the recipe names first.
    versions.iter().copied().reduce(|best, id| {
        let (old, new) = (package(&best), package(&id));
        let automatic = |p: &Package| !p.release.is_some_and(|r| index.releases[r].not_automatic);
        let order = automatic(new)
            .cmp(&automatic(old))
            .then_with(|| version::compare(&new.version, &old.version));
        if order.is_gt() { id } else { best }
    })
}

/// One dependency of a package: any of these candidates satisfies it.
#[derive(Debug)]
struct Group {
    alternatives: Vec<usize>,
    /// The text in the index, for messages.
    text: String,
    /// Whether it is a recommendation.
    soft: bool,
}

/// The dependencies not yet resolved, in order: a linked list shared between the branches of the
/// search.
type Pending = Option<Rc<Node>>;

struct Node {
    package: usize,
    group: usize,
    next: Pending,
}

/// A point to backtrack to.
struct Turn {
    chosen: usize,
    package: usize,
    group: usize,
    /// The index of the next alternative to try.
    alternative: usize,
    rest: Pending,
}

struct Solver<'a> {
    index: &'a Index,
    request: &'a Request,
    candidates: HashMap<&'a str, usize>,
    /// By name: the candidates that provide it, and the version provided.
    providers: HashMap<&'a str, Vec<(usize, Option<&'a str>)>>,
    groups: HashMap<usize, Rc<Vec<Group>>>,
    opponents: HashMap<usize, Rc<Vec<usize>>>,
    /// Candidates that can never be installed, numbered in the order in which they were ruled out.
    impossible: HashMap<usize, usize>,
    /// In the order in which they were chosen.
    chosen: Vec<usize>,
    /// The dependent and the dependency that each was chosen for; none for roots.
    reasons: HashMap<usize, Option<(usize, usize)>>,
    /// How many chosen packages conflict with each candidate.
    forbidden: HashMap<usize, usize>,
}

impl<'a> Solver<'a> {
    fn new(index: &'a Index, request: &'a Request) -> Self {
        let candidates = candidates(index, request);
        let mut ids: Vec<usize> = candidates.values().copied().collect();
        ids.sort_unstable();
        let mut providers: HashMap<&str, Vec<_>> = HashMap::new();
        for id in ids {
            for (name, version) in index.packages[id].provided() {
                providers.entry(name).or_default().push((id, version));
            }
        }
        Solver {
            index,
            request,
            candidates,
            providers,
            groups: HashMap::new(),
            opponents: HashMap::new(),
            impossible: HashMap::new(),
            chosen: Vec::new(),
            reasons: HashMap::new(),
            forbidden: HashMap::new(),
        }
    }

    fn package(&self, id: usize) -> &'a Package {
        &self.index.packages[id]
    }

    fn roots(&self) -> Result<Vec<usize>, Unsatisfiable> {
        let mut roots = Vec::new();
        for root in &self.request.roots {
            let Some(id) = self.candidates.get(root.as_str()) else {
                let providers = self.providers.get(root.as_str());
                return Err(Unsatisfiable::Unknown {
                    root: root.clone(),
                    providers: providers
                        .into_iter()
                        .flatten()
                        .map(|(id, _)| self.package(*id).name.to_string())
                        .collect(),
                });
            };
            if !roots.contains(id) {
                roots.push(*id);
            }
        }
        Ok(roots)
    }

    /// The candidates that satisfy a relation, in order of preference.
    fn satisfying(&self, relation: &Relation<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        if let Some(&id) = self.candidates.get(relation.name)
            && relation.admits(Some(&self.package(id).version))
            && self.qualifies(relation, id)
        {
            found.push(id);
        }
        let mut providers: Vec<usize> = self
            .providers
            .get(relation.name)
            .into_iter()
            .flatten()
            .filter(|(id, version)| relation.admits(*version) && self.qualifies(relation, *id))
            .map(|(id, _)| *id)
            .filter(|id| !found.contains(id))
            .collect();
        providers.sort_by_key(|id| {
            let package = self.package(*id);
            (!package.essential, !package.important, package.priority)
        });
        providers.dedup();
        found.extend(providers);
        found
    }

    /// Whether an architecture qualifier allows this package (Debian's Multi-Arch specification).
    fn qualifies(&self, relation: &Relation<'_>, id: usize) -> bool {
        match relation.qualifier {
            None | Some("native") => true,
            Some("any") => self.package(id).any_arch,
            Some(arch) => arch == self.request.arch,
        }
    }

    fn groups(&mut self, id: usize) -> Rc<Vec<Group>> {
        if let Some(groups) = self.groups.get(&id) {
            return groups.clone();
        }
        let package = self.package(id);
        let recommends = if self.request.recommends {
            &*package.recommends
        } else {
            ""
        };
        let mut groups = Vec::new();
        for (field, soft) in [(&*package.depends, false), (recommends, true)] {
            let texts = field
                .split(',')
                .map(str::trim)
                .filter(|text| !text.is_empty());
            for (relations, text) in relation::parse(field).zip(texts) {
                let mut alternatives = Vec::new();
                for relation in &relations {
                    for id in self.satisfying(relation) {
                        if !alternatives.contains(&id) {
                            alternatives.push(id);
                        }
                    }
                }
                groups.push(Group {
                    alternatives,
                    text: text.to_string(),
                    soft,
                });
            }
        }
        let groups = Rc::new(groups);
        self.groups.insert(id, groups.clone());
        groups
    }

    /// The candidates that a package conflicts with. A package does not conflict with itself.
    fn opponents(&mut self, id: usize) -> Rc<Vec<usize>> {
        if let Some(opponents) = self.opponents.get(&id) {
            return opponents.clone();
        }
        let opponents: Vec<usize> = relation::parse(&self.package(id).conflicts)
            .flatten()
            .flat_map(|relation| self.satisfying(&relation))
            .filter(|other| *other != id)
            .collect();
        let opponents = Rc::new(opponents);
        self.opponents.insert(id, opponents.clone());
        opponents
    }

    /// Rules out candidates that can never be installed, among all that are reachable from the
    /// roots: those that depend on a missing package, and transitively their dependents.
    fn rule_out(&mut self, roots: &[usize]) {
        let mut reachable: Vec<usize> = roots.to_vec();
        let mut seen: HashSet<usize> = roots.iter().copied().collect();
        let mut next = 0;
        while let Some(&id) = reachable.get(next) {
            next += 1;
            for group in self.groups(id).iter() {
                for &alternative in &group.alternatives {
                    if seen.insert(alternative) {
                        reachable.push(alternative);
                    }
                }
            }
        }
        loop {
            let before = self.impossible.len();
            for &id in &reachable {
                if !self.impossible.contains_key(&id) && self.is_dead_end(id) {
                    self.impossible.insert(id, self.impossible.len());
                }
            }
            if self.impossible.len() == before {
                return;
            }
        }
    }

    /// Whether a package has a dependency that no candidate can satisfy.
    fn is_dead_end(&mut self, id: usize) -> bool {
        self.groups(id).iter().any(|group| {
            !group.soft
                && group
                    .alternatives
                    .iter()
                    .all(|alternative| self.impossible.contains_key(alternative))
        })
    }

    fn search(&mut self, roots: &[usize]) -> Result<(), Unsatisfiable> {
        for &root in roots {
            if self.impossible.contains_key(&root) {
                return Err(Unsatisfiable::Chain(self.chain_of_dead_ends(root)));
            }
            if let Some(opponent) = self.opposing(root) {
                return Err(Unsatisfiable::Chain(self.conflict(root, opponent)));
            }
            self.choose(root, None);
        }
        let mut next: Pending = None;
        for &root in roots.iter().rev() {
            next = self.require(root, next);
        }
        let mut turns = Vec::new();
        let mut wrong_turns = 0;
        let mut first_failure = None;
        while let Some(node) = next {
            let rest = node.next.clone();
            let mut outcome = self.satisfy(node.package, node.group, 0, rest, &mut turns);
            next = loop {
                match outcome {
                    Ok(pending) => break pending,
                    Err(failure) => {
                        let first = first_failure.get_or_insert(failure);
                        wrong_turns += 1;
                        let Some(turn) = turns.pop().filter(|_| wrong_turns < MOST_WRONG_TURNS)
                        else {
                            return Err(Unsatisfiable::Chain(std::mem::take(first)));
                        };
                        while self.chosen.len() > turn.chosen {
                            self.undo();
                        }
                        let Turn {
                            package,
                            group,
                            alternative,
                            rest,
                            ..
                        } = turn;
                        outcome = self.satisfy(package, group, alternative, rest, &mut turns);
                    }
                }
            };
        }
        Ok(())
    }

    /// Chooses for a dependency the first admissible alternative from an index on, and returns the
    /// dependencies to resolve next. Fails with the reasons.
    fn satisfy(
        &mut self,
        package: usize,
        group: usize,
        from: usize,
        rest: Pending,
        turns: &mut Vec<Turn>,
    ) -> Result<Pending, Vec<String>> {
        let groups = self.groups(package);
        let Group {
            alternatives, soft, ..
        } = &groups[group];
        if from == 0 && alternatives.iter().any(|id| self.reasons.contains_key(id)) {
            return Ok(rest);
        }
        for (number, &alternative) in alternatives.iter().enumerate().skip(from) {
            if self.impossible.contains_key(&alternative) || self.opposing(alternative).is_some() {
                continue;
            }
            if *soft || number + 1 < alternatives.len() {
                turns.push(Turn {
                    chosen: self.chosen.len(),
                    package,
                    group,
                    alternative: number + 1,
                    rest: rest.clone(),
                });
            }
            self.choose(alternative, Some((package, group)));
            return Ok(self.require(alternative, rest));
        }
        if *soft {
            return Ok(rest);
        }
        Err(self.explain(package, group))
    }

    /// The dependencies of a package, followed by those still pending.
    fn require(&mut self, package: usize, rest: Pending) -> Pending {
        let count = self.groups(package).len();
        (0..count).rev().fold(rest, |next, group| {
            Some(Rc::new(Node {
                package,
                group,
                next,
            }))
        })
    }

    fn choose(&mut self, id: usize, reason: Option<(usize, usize)>) {
        self.chosen.push(id);
        self.reasons.insert(id, reason);
        for &opponent in self.opponents(id).iter() {
            *self.forbidden.entry(opponent).or_default() += 1;
        }
    }

    /// Undoes the last choice.
    fn undo(&mut self) {
        let Some(id) = self.chosen.pop() else { return };
        self.reasons.remove(&id);
        for opponent in self.opponents(id).iter() {
            if let Some(count) = self.forbidden.get_mut(opponent) {
                *count -= 1;
            }
        }
    }

    /// A chosen package that conflicts with a candidate, in either direction.
    fn opposing(&mut self, id: usize) -> Option<usize> {
        let opponents = self.opponents(id);
        let chosen = opponents
            .iter()
            .copied()
            .find(|o| self.reasons.contains_key(o));
        if chosen.is_some() || self.forbidden.get(&id).is_none_or(|count| *count == 0) {
            return chosen;
        }
        let all = self.chosen.clone();
        all.into_iter()
            .find(|other| self.opponents(*other).contains(&id))
    }

    /// Why a dependency cannot be satisfied given the packages already chosen.
    fn explain(&mut self, package: usize, group: usize) -> Vec<String> {
        let groups = self.groups(package);
        let mut chain = self.chain_to(package);
        chain.push(format!(
            "{} needs {}",
            self.package(package).name,
            groups[group].text
        ));
        for &alternative in &groups[group].alternatives {
            if self.impossible.contains_key(&alternative) {
                chain.extend(self.chain_of_dead_ends(alternative));
            } else if let Some(opponent) = self.opposing(alternative) {
                chain.extend(self.conflict(alternative, opponent));
            }
        }
        chain
    }

    fn conflict(&self, id: usize, opponent: usize) -> Vec<String> {
        let name = |id| &self.package(id).name;
        let mut lines = vec![format!("{} conflicts with {}", name(id), name(opponent))];
        let chain = self.chain_to(opponent);
        if chain.is_empty() {
            lines.push(format!("{} is asked for", name(opponent)));
        }
        lines.extend(chain);
        lines
    }

    /// The chain of dependencies from a root to a chosen package; empty for a root.
    fn chain_to(&self, mut id: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(Some((by, group))) = self.reasons.get(&id) {
            let text = &self.groups[by][*group].text;
            lines.push(format!("{} needs {text}", self.package(*by).name));
            id = *by;
        }
        lines.reverse();
        lines
    }

    /// The chain of dependencies from an uninstallable package to a missing one.
    fn chain_of_dead_ends(&mut self, mut id: usize) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let rank = self.impossible.get(&id).copied().unwrap_or(usize::MAX);
            let groups = self.groups(id);
            // Numbers decrease along the chain, so that it ends.
            let earlier = |other: &usize| self.impossible.get(other).is_some_and(|r| *r < rank);
            let dead = groups
                .iter()
                .find(|group| !group.soft && group.alternatives.iter().all(earlier));
            let Some(group) = dead else { return lines };
            let name = &self.package(id).name;
            let Some(&next) = group.alternatives.first() else {
                lines.push(format!(
                    "{name} needs {}, {}",
                    group.text,
                    self.lack(&group.text)
                ));
                return lines;
            };
            lines.push(format!("{name} needs {}", group.text));
            id = next;
        }
    }

    /// Why no candidate satisfies a dependency.
    fn lack(&self, text: &str) -> String {
        let relations = relation::parse(text).flatten();
        let mut reasons: Vec<String> = relations
            .map(|relation| {
                if let Some(id) = self.candidates.get(relation.name) {
                    return format!("but there is {}", self.package(*id).version);
                }
                if self.request.exclude.contains(relation.name) {
                    return "which is excluded".into();
                }
                "which no suite has".into()
            })
            .collect();
        reasons.dedup();
        reasons.join(", ")
    }
}

#[cfg(test)]
mod tests;
