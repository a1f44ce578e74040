//! Owns how a recipe becomes a lock: releases, indices, choice, and the bootloaders of its boards.
//! Never writes the lock.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::fetch::Fetcher;
use super::index::{Index, Package, Priority};
use super::local::add_local;
use super::release::{Policy, Release};
use super::resolve::{Request, Unsatisfiable, candidates, resolve};
use super::signature::Keyring;
use crate::error::Fault;
use crate::progress::{Progress, Unit};
use crate::recipe::{
    BoardType, Lock, LockedPackage, LockedRelease, Recipe, RecipeFile, Role, Step, TOOL_ARCH,
    TOOLS, at, board_types, loads_into_tools, nearest, suggestion,
};

/// The keyring of Debian's package debian-archive-keyring.
const DEBIAN_KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Which packages of an old lock may change their version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Update {
    /// Only those whose locked version the archive no longer has.
    #[default]
    Vanished,
    /// Also these.
    Only(Vec<String>),
    All,
}

/// How to make a lock.
#[derive(Clone, Debug)]
pub struct Options {
    pub update: Update,
    pub policy: Policy,
    /// Take releases although the lock was made from newer ones.
    pub allow_rollback: bool,
}

/// Resolves a recipe against the archive. Versions of the old lock are kept according to the
/// options.
///
/// # Errors
/// If a release, index or mirror is at fault, or the recipe cannot be satisfied; the latter with
/// the place in the recipe or the failing chain of dependencies.
pub fn make_lock(
    fetcher: &Fetcher,
    file: &RecipeFile,
    old: Option<&Lock>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Lock> {
    let recipe = &file.recipe;
    let prefer = preferred(old, &options.update)?;
    let seen = old.map_or(&[][..], |lock| &lock.releases);
    let mut index = load_index(fetcher, file, options.policy, progress)?;
    for release in &index.releases {
        release.refuse_rollback(seen, options.allow_rollback)?;
    }
    let local = add_local(&mut index, file)?;

    let request = Request {
        arch: recipe.arch.debian().into(),
        exclude: recipe.exclude.iter().cloned().collect(),
        recommends: recipe.archive.recommends,
        prefer,
        roots: Vec::new(),
    };
    let mut roots = base_set(&index, &request);
    roots.extend(recipe.kernel.iter().chain(&recipe.packages).cloned());
    roots.extend(local);
    let mut request = Request { roots, ..request };
    let chosen = match resolve(&index, &request) {
        Err(Unsatisfiable::Chain(_)) if !request.prefer.is_empty() => {
            log::warn!(
                "the lock's versions do not fit together with the rest any more: taking the newest of everything"
            );
            request.prefer.clear();
            resolve(&index, &request)
        }
        other => other,
    };
    let chosen = chosen.map_err(|error| unsatisfiable(file, error))?;

    let manual: std::collections::HashSet<&str> =
        request.roots.iter().map(String::as_str).collect();
    let mut packages: Vec<LockedPackage> = chosen
        .iter()
        .map(|id| {
            let package = &index.packages[*id];
            LockedPackage {
                auto: !manual.contains(&*package.name),
                ..locked(&index, package, Role::Root)
            }
        })
        .collect();
    packages.extend(bootloaders(&index, &request, file)?);
    let loaded = chosen.iter().map(|id| &index.packages[*id]);
    let loaded: Vec<String> = loaded
        .filter(|package| &*package.arch != "all")
        .filter(|package| loads_into_tools(&package.name, &package.depends))
        .map(|package| package.name.to_string())
        .collect();
    packages.extend(tools(fetcher, &index, file, &packages, &loaded, old));
    packages.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    Ok(Lock {
        version: Lock::VERSION,
        recipe: recipe.selection_digest(),
        arch: recipe.arch,
        releases: index.releases.iter().map(locked_release).collect(),
        packages,
    })
}

/// The packages of all suites of a recipe.
///
/// # Errors
/// As [`make_lock`], for releases and indices.
pub fn load_index(
    fetcher: &Fetcher,
    file: &RecipeFile,
    policy: Policy,
    progress: &dyn Progress,
) -> Result<Index> {
    let source = &file.recipe.archive;
    let keyring = Keyring::load(&keyring_path(file)?)?;
    let stage = progress.stage("index", Some(source.suites.len() as u64), Unit::Items);
    let mut index = Index::default();
    for suite in &source.suites {
        stage.message(suite);
        let release = Release::fetch(fetcher, suite, &keyring, policy)?;
        if let Some(warning) = release.staleness(source.warn_after_days, policy) {
            log::warn!("{warning}");
        }
        index.add(
            fetcher,
            release,
            &source.components,
            file.recipe.arch.debian(),
        )?;
        stage.advance(1);
    }
    fetcher.cache.remember();
    stage.finish(&format!(
        "{} packages in {}",
        index.packages.len(),
        source.suites.join(", ")
    ));
    Ok(index)
}

/// The packages of the host's architecture whose programs maintainer scripts may run, with their libraries: those of
/// [`TOOLS`] that the image has itself, and of its packages `loaded`, which these programs load, those that go together;
/// in its version where the archive has that. None where the archive cannot tell: then everything is emulated.
fn tools(
    fetcher: &Fetcher,
    index: &Index,
    file: &RecipeFile,
    image: &[LockedPackage],
    loaded: &[String],
    old: Option<&Lock>,
) -> Vec<LockedPackage> {
    let found = tool_index(fetcher, index, file).and_then(|native| {
        let versions = |package: &LockedPackage| (package.name.clone(), package.version.clone());
        let before = old.into_iter().flat_map(|lock| &lock.packages);
        let mut prefer: HashMap<String, String> = before
            .filter(|package| package.role == Role::Tool)
            .map(versions)
            .collect();
        prefer.extend(image.iter().map(versions));
        let in_image = |name: &str| image.iter().any(|p| p.role == Role::Root && p.name == name);
        let mut request = Request {
            arch: TOOL_ARCH.into(),
            roots: TOOLS
                .iter()
                .filter(|name| in_image(name))
                .map(ToString::to_string)
                .collect(),
            prefer,
            ..Request::default()
        };
        let mut chosen = resolve(&native, &request)
            .map_err(|error| anyhow!("they cannot be installed together: {error:?}"))?;
        for name in loaded {
            request.roots.push(name.clone());
            match resolve(&native, &request) {
                Ok(more) => chosen = more,
                Err(error) => {
                    log::info!("no native {name} in the lock: {error:?}");
                    request.roots.pop();
                }
            }
        }
        Ok(chosen
            .iter()
            .map(|id| locked(&native, &native.packages[*id], Role::Tool))
            // A tool's packages of architecture `all` are in the image already.
            .filter(|package| package.arch == TOOL_ARCH)
            .collect())
    });
    found.unwrap_or_else(|error| {
        log::warn!("no native tools in the lock: {error:#}; builds will emulate all programs, which takes longer");
        Vec::new()
    })
}

/// The index of [`TOOL_ARCH`] in the same releases.
fn tool_index(fetcher: &Fetcher, index: &Index, file: &RecipeFile) -> Result<Index> {
    let mut native = Index::default();
    for release in &index.releases {
        let components = &file.recipe.archive.components;
        native.add(fetcher, release.clone(), components, TOOL_ARCH)?;
    }
    Ok(native)
}

/// Names of the packages that every image has: all that are essential or of priority `required`, as
/// mmdebstrap's variant `required`.
pub fn base_set(index: &Index, request: &Request) -> Vec<String> {
    let mut names: Vec<String> = candidates(index, request)
        .into_values()
        .map(|id| &index.packages[id])
        .filter(|package| package.essential || package.priority == Priority::Required)
        .map(|package| package.name.to_string())
        .collect();
    names.sort();
    names
}

fn keyring_path(file: &RecipeFile) -> Result<PathBuf> {
    if let Some(path) = &file.recipe.archive.keyring {
        return Ok(file.directory().join(path));
    }
    DEBIAN_KEYRINGS
        .iter()
        .map(PathBuf::from)
        .find(|path| Path::exists(path))
        .ok_or_else(|| {
            Fault::host(format!(
                "Debian's archive keyring is missing: {}",
                DEBIAN_KEYRINGS[0]
            ))
            .remedy(
                "install debian-archive-keyring, or name another keyring in the recipe's \
                 `archive.keyring`",
            )
            .into()
        })
}

/// The versions of the old lock to keep, by package name.
fn preferred(old: Option<&Lock>, update: &Update) -> Result<HashMap<String, String>> {
    let mut prefer: HashMap<String, String> = old
        .into_iter()
        .flat_map(|lock| &lock.packages)
        .filter(|package| package.role != Role::Tool)
        .map(|package| (package.name.clone(), package.version.clone()))
        .collect();
    match update {
        Update::Vanished => {}
        Update::All => prefer.clear(),
        Update::Only(names) => {
            for name in names {
                if prefer.remove(name).is_none() {
                    let known: Vec<&str> = prefer.keys().map(String::as_str).collect();
                    let fault = Fault::input(format!("the lock has no package {name} to update"));
                    return Err(match nearest(name, known.iter().copied()) {
                        Some(_) => fault.remedy(suggestion(name, &known)),
                        None => fault.remedy("add it to the recipe's packages to have it"),
                    }
                    .into());
                }
            }
        }
    }
    Ok(prefer)
}

fn locked(index: &Index, package: &Package, role: Role) -> LockedPackage {
    LockedPackage {
        name: package.name.to_string(),
        version: package.version.to_string(),
        arch: package.arch.to_string(),
        path: package.path.to_string(),
        size: package.size,
        sha256: hex::encode(package.sha256),
        suite: package
            .release
            .map(|release| index.releases[release].suite.clone())
            .unwrap_or_default(),
        role,
        local: package.release.is_none(),
        auto: false,
    }
}

fn locked_release(release: &Release) -> LockedRelease {
    LockedRelease {
        suite: release.suite.clone(),
        date: release.date.clone(),
        sha256: release.sha256.clone(),
    }
}

/// The packages that hold the bootloaders of the recipe's boards, without their dependencies.
fn bootloaders(index: &Index, request: &Request, file: &RecipeFile) -> Result<Vec<LockedPackage>> {
    let recipe = &file.recipe;
    // Exclusions apply to the image, and bootloaders are not in it.
    let everything = Request {
        exclude: Default::default(),
        ..request.clone()
    };
    let candidates = candidates(index, &everything);
    let mut found = BTreeMap::new();
    for (name, board_type) in boards(recipe, file)? {
        let bootloader = board_type.bootloader.as_ref();
        for package in bootloader.into_iter().flat_map(|b| &b.packages) {
            if let Some(id) = candidates.get(package.as_str()) {
                let package = &index.packages[*id];
                found.insert(&package.name, locked(index, package, Role::Bootloader));
            } else if recipe.boards.contains(&name) {
                return Err(Fault::input(format!(
                    "the board type {name} needs the package {package}, which no suite of the recipe has"
                ))
                .remedy("add the suite or component that has it, or leave the board type out")
                .into());
            } else {
                log::warn!(
                    "no suite has the package {package}: no boot media for the board type {name}"
                );
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The board types of the recipe: those it names, else all of its architecture.
fn boards(recipe: &Recipe, file: &RecipeFile) -> Result<BTreeMap<String, BoardType>> {
    let mut types = board_types()?;
    if recipe.boards.is_empty() {
        types.retain(|_, board_type| board_type.arch == recipe.arch);
        return Ok(types);
    }
    let mut named = BTreeMap::new();
    for (number, name) in recipe.boards.iter().enumerate() {
        let path = [Step::Key("boards"), Step::Index(number)];
        let wrong = |message: String| at(&file.path, &file.text, &path, message);
        match types.get(name) {
            Some(board_type) if board_type.arch == recipe.arch => {
                named.insert(name.clone(), board_type.clone());
            }
            Some(board_type) => {
                return Err(wrong(format!(
                    "the board type {name} is {}, the recipe {}",
                    board_type.arch, recipe.arch
                ))
                .into());
            }
            None => {
                let known: Vec<&str> = types.keys().map(String::as_str).collect();
                return Err(wrong(format!("there is no board type {name}"))
                    .help(suggestion(name, &known))
                    .into());
            }
        }
    }
    Ok(named)
}

fn unsatisfiable(file: &RecipeFile, error: Unsatisfiable) -> anyhow::Error {
    let recipe = &file.recipe;
    match error {
        Unsatisfiable::Unknown { root, providers } => {
            let path = match recipe.packages.iter().position(|name| *name == root) {
                Some(number) => vec![Step::Key("packages"), Step::Index(number)],
                None => vec![Step::Key("kernel")],
            };
            let message = if recipe.exclude.contains(&root) {
                format!("the package {root} is asked for and excluded")
            } else {
                format!(
                    "no suite of the recipe has a package {root} for {}",
                    recipe.arch
                )
            };
            let mut diagnostic = at(&file.path, &file.text, &path, message);
            if !providers.is_empty() {
                diagnostic =
                    diagnostic.help(format!("it is provided by {}", providers.join(", ")));
            }
            diagnostic.into()
        }
        Unsatisfiable::Chain(lines) => Fault::input(format!(
            "the recipe {} cannot be satisfied:\n  {}",
            file.name,
            lines.join("\n  ")
        ))
        .remedy("leave one of these packages out of the recipe, or add a suite that has what is missing")
        .into(),
    }
}
