//! Owns unpacking packages into a tree, as dpkg does: in parallel if they share no file, in order
//! if they do. Never runs a script.
//!
//! Refuses what a hostile package may contain: names that are absolute or contain `..`, names below
//! a link that the same package made, device nodes, hard links to files of other packages, more
//! data than is sensible.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use md5::{Digest, Md5};
use tar::EntryType;

use super::diversions::Diversions;
use super::merged_usr::merged_usr;
use super::package::{Package, below_usr};
use super::tree::{Attributes, Kind, Tree};
use crate::archive::deb::Deb;
use crate::archive::limit::each_entry;
use crate::error::{Fault, InputContext};
use crate::progress::Stage;

/// What dpkg's database needs to know of an unpacked package.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    /// Every path of the package in the archive's order, as `/usr/bin/x`; the root is `/.`.
    pub list: Vec<String>,
    /// Conffiles and their MD5, in the order of the package's list; `newconffile` if the file was
    /// written beside an existing one for dpkg to decide.
    pub conffiles: Vec<(String, String)>,
    /// `hash  path` lines, for packages without an md5sums file.
    pub md5sums: Option<String>,
    /// Paths in other packages' lists that this package takes over.
    pub taken: Vec<(String, String)>,
    directories: Vec<(PathBuf, Attributes, bool)>,
}

/// Owners of paths: package names by path, below `usr` where /usr is merged.
#[derive(Debug, Default)]
pub struct Claims {
    files: HashMap<PathBuf, String>,
    directories: HashSet<PathBuf>,
}

impl Claims {
    /// Records the directories above a path, which a package need not list. Returns false if a
    /// package has a file where one of them would be.
    fn directories_above(&mut self, path: &Path) -> bool {
        for above in path.ancestors().skip(1) {
            if self.directories.contains(above) {
                break;
            }
            if self.files.contains_key(above) {
                return false;
            }
            self.directories.insert(above.to_path_buf());
        }
        true
    }

    /// Records the paths that dpkg's database lists for a package.
    pub fn add_list(&mut self, package: &str, list: &str) {
        for path in list.lines() {
            let path = below_usr(Path::new(path.trim_start_matches('/')));
            self.files.insert(path, package.to_string());
        }
    }

    /// Whether a package owns a file at `path`, which is below `usr` where /usr is merged.
    pub fn hold_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }
}

/// Ends [`Manner::Parallel`], whose result would depend on which thread came first.
#[derive(Debug, thiserror::Error)]
#[error("two packages have the same path")]
struct Contested;

/// How several packages are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// In parallel; fails if two packages share a path.
    Parallel,
    /// One after the other, with dpkg's rules for shared paths.
    Serial,
}

/// Unpacks the files of `packages` whose paths are `wanted` into the empty tree at `root`. The
/// result does not depend on the number of threads.
///
/// # Errors
/// If a package is damaged or hostile, or two packages have the same file and neither replaces the
/// other.
pub fn unpack_first(
    root: &Path,
    packages: &[&Package],
    wanted: fn(&Path) -> bool,
    threads: usize,
    stage: &dyn Stage,
) -> Result<Vec<Unpacked>> {
    let claims = Mutex::new(Claims::default());
    let job = Unpacking {
        root,
        packages,
        wanted,
        claims: &claims,
        diversions: &Diversions::default(),
        threads,
        manner: Manner::Parallel,
        stage,
    };
    let unpacked = match job.in_parallel(threads) {
        Err(error) if error.is::<Contested>() => {
            log::debug!("two packages have the same path: unpacking one after the other");
            let mut tree = Tree::open(root)?;
            tree.clear()?;
            merged_usr(&mut tree)?;
            *claims.lock().unwrap_or_else(PoisonError::into_inner) = Claims::default();
            Unpacking {
                manner: Manner::Serial,
                ..job
            }
            .one_by_one()
        }
        other => other,
    }?;
    set_directories(root, &unpacked, true)?;
    Ok(unpacked)
}

/// Unpacks `packages` into a tree that contains others, with their diversions.
///
/// # Errors
/// As [`unpack_first`].
pub fn unpack_more(
    root: &Path,
    packages: &[&Package],
    claims: Claims,
    diversions: &Diversions,
    threads: usize,
    stage: &dyn Stage,
) -> Result<Vec<Unpacked>> {
    let unpacked = Unpacking {
        root,
        packages,
        wanted: |_| true,
        claims: &Mutex::new(claims),
        diversions,
        threads,
        manner: Manner::Serial,
        stage,
    }
    .one_by_one()?;
    set_directories(root, &unpacked, false)?;
    Ok(unpacked)
}

/// Sets owner and mode of directories: the first package that contains one decides, as if they had
/// been unpacked in order. Directories that existed before are unchanged.
fn set_directories(root: &Path, unpacked: &[Unpacked], all: bool) -> Result<()> {
    let mut tree = Tree::open(root)?;
    let mut done = HashSet::new();
    for (path, attributes, made) in unpacked.iter().flat_map(|one| &one.directories) {
        if (all || *made)
            && done.insert(below_usr(path))
            && (path.as_os_str().is_empty() || tree.kind(path) == Some(Kind::Directory))
        {
            tree.set_attributes(path, *attributes)
                .with_context(|| format!("cannot set the owner of /{}", path.display()))?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Unpacking<'a> {
    root: &'a Path,
    packages: &'a [&'a Package],
    wanted: fn(&Path) -> bool,
    claims: &'a Mutex<Claims>,
    diversions: &'a Diversions,
    /// The number of threads that decompress a large package.
    threads: usize,
    manner: Manner,
    stage: &'a dyn Stage,
}

impl Unpacking<'_> {
    fn one_by_one(&self) -> Result<Vec<Unpacked>> {
        let mut tree = Tree::open(self.root)?;
        self.packages
            .iter()
            .map(|package| self.unpack(&mut tree, package))
            .collect()
    }

    /// The largest packages first, which balances the threads.
    fn in_parallel(&self, threads: usize) -> Result<Vec<Unpacked>> {
        let size = |index: &usize| {
            let deb = &self.packages[*index].file.deb;
            std::cmp::Reverse(std::fs::metadata(deb).map_or(0, |meta| meta.len()))
        };
        let mut queue: Vec<usize> = (0..self.packages.len()).collect();
        queue.sort_by_key(size);
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let worker = || -> Result<Vec<(usize, Unpacked)>> {
            let mut tree = Tree::open(self.root)?;
            let mut done = Vec::new();
            while let Some(&index) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                let unpacked = self.unpack(&mut tree, self.packages[index]);
                failed.fetch_or(unpacked.is_err(), Ordering::Relaxed);
                done.push((index, unpacked?));
            }
            Ok(done)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("unpacking does not panic"))
                .collect()
        });
        let mut all = BTreeMap::new();
        for result in results {
            all.extend(result?);
        }
        Ok(all.into_values().collect())
    }

    fn unpack(&self, tree: &mut Tree, package: &Package) -> Result<Unpacked> {
        self.stage.message(package.name());
        let mut one = One {
            job: self,
            tree,
            package,
            conffiles: conffiles(package),
            sums: package.control_file("md5sums").is_none().then(String::new),
            links: HashSet::new(),
            files: HashMap::new(),
            hashes: HashMap::new(),
            done: Unpacked::default(),
        };
        let deb = &package.file.deb;
        let mut archive = Deb::open(deb)?;
        // What was read first, for the order, is held against the file that is verified below.
        if archive.control()? != package.control {
            return Err(Fault::input(format!("{} was changed meanwhile", deb.display())).into());
        }
        one.data(archive.data(self.threads)?)
            .input_context(|| format!("cannot unpack {} ({})", package.name(), deb.display()))?;
        archive.verify(&package.file.sha256)?;
        let unpacked = one.finish();
        self.stage.advance(1);
        Ok(unpacked)
    }
}

/// The paths in a package's `conffiles` (deb-conffiles(5)) that the package contains.
fn conffiles(package: &Package) -> BTreeSet<String> {
    let text = package.control_file("conffiles").unwrap_or_default();
    String::from_utf8_lossy(text)
        .lines()
        .map(str::trim)
        // `remove-on-upgrade /path` names a file that the package no longer contains.
        .filter(|line| line.starts_with('/'))
        .map(str::to_string)
        .collect()
}

/// One package being unpacked.
struct One<'a> {
    job: &'a Unpacking<'a>,
    tree: &'a mut Tree,
    package: &'a Package,
    conffiles: BTreeSet<String>,
    /// Lines of an md5sums file, if the package has none.
    sums: Option<String>,
    /// Symbolic links that the package made, by name.
    links: HashSet<PathBuf>,
    /// Files that the package made: name, and path after diversion.
    files: HashMap<PathBuf, PathBuf>,
    hashes: HashMap<String, String>,
    done: Unpacked,
}

impl One<'_> {
    fn data(&mut self, data: impl Read) -> Result<()> {
        each_entry(data, |entry| {
            let name = Path::new(OsStr::from_bytes(&entry.path_bytes())).to_path_buf();
            let name = self.checked(&name)?;
            if !(self.job.wanted)(&name) {
                return Ok(());
            }
            let shown = format!("/{}", name.display());
            self.entry(entry, &name)
                .with_context(|| format!("`{shown}`"))
        })
    }

    /// The name without `./`, if it is valid for a package.
    fn checked(&self, name: &Path) -> Result<PathBuf> {
        let mut clean = PathBuf::new();
        for component in name.components() {
            if self.links.contains(&clean) {
                return Err(self.hostile(name, "lies behind a link of the same package"));
            }
            match component {
                Component::CurDir => {}
                Component::Normal(part) => clean.push(part),
                Component::RootDir => return Err(self.hostile(name, "is absolute")),
                _ => return Err(self.hostile(name, "leads out of the package by `..`")),
            }
        }
        if clean.to_str().is_none_or(|text| text.contains('\n')) {
            return Err(self.hostile(name, "is no UTF-8 text in one line"));
        }
        Ok(clean)
    }

    fn hostile(&self, name: &Path, what: &str) -> anyhow::Error {
        Fault::input(format!(
            "the package {} is not safe to unpack: `{}` {what}",
            self.package.name(),
            name.display()
        ))
        .remedy("do not use this package; tell where it came from to those who made it")
        .into()
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, name: &Path) -> Result<()> {
        let header = entry.header();
        let attributes = Attributes {
            uid: u32::try_from(header.uid()?)?,
            gid: u32::try_from(header.gid()?)?,
            mode: header.mode()? & 0o7777,
            mtime: i64::try_from(header.mtime()?)?,
        };
        match header.entry_type() {
            EntryType::Directory => self.directory(name, attributes),
            EntryType::Regular | EntryType::Continuous => self.file(name, attributes, entry),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.link(name, Path::new(OsStr::from_bytes(&target)), attributes)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.hard_link(name, Path::new(OsStr::from_bytes(&target)))
            }
            kind => Err(self.hostile(name, &format!("is a {kind:?}"))),
        }
    }

    fn directory(&mut self, name: &Path, attributes: Attributes) -> Result<()> {
        let listed = if name.as_os_str().is_empty() {
            "/.".to_string()
        } else {
            format!("/{}", name.display())
        };
        self.done.list.push(listed);
        if self.job.manner == Manner::Parallel {
            let key = below_usr(name);
            let mut claims = self
                .job
                .claims
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if claims.files.contains_key(&key) || !claims.directories_above(&key) {
                return Err(Contested.into());
            }
            claims.directories.insert(key);
        }
        let made = self.tree.make_directory(name)?;
        self.done
            .directories
            .push((name.to_path_buf(), attributes, made));
        Ok(())
    }

    fn file(&mut self, name: &Path, attributes: Attributes, data: &mut dyn Read) -> Result<()> {
        let Some(place) = self.claim(name)? else {
            return Ok(());
        };
        let path = format!("/{}", name.display());
        let is_conffile = self.conffiles.contains(&path);
        let mut hash = (is_conffile || self.sums.is_some()).then(Md5::new);
        let mut inspect = |data: &[u8]| {
            if let Some(hash) = &mut hash {
                hash.update(data);
            }
        };
        let mut aside = false;
        match self.tree.create(&place, attributes, data, &mut inspect) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.tree.kind(&place) == Some(Kind::Directory) {
                    return Err(self.hostile(name, "is a directory already"));
                }
                if is_conffile {
                    let beside = dpkg_new(&place);
                    self.tree.replace(&beside, attributes, data, &mut inspect)?;
                    aside = !self.same(&place, &beside)?;
                    if !aside {
                        self.tree.rename(&beside, &place)?;
                    }
                } else {
                    self.tree.replace(&place, attributes, data, &mut inspect)?;
                }
            }
            other => other?,
        }
        let hash = hash.map(|hash| hex::encode(hash.finalize()));
        if is_conffile {
            let hash = if aside { None } else { hash };
            self.hashes
                .insert(path, hash.unwrap_or_else(|| "newconffile".into()));
        } else if let (Some(sums), Some(hash)) = (&mut self.sums, hash) {
            sums.push_str(&format!("{hash}  {}\n", name.display()));
        }
        self.files.insert(name.to_path_buf(), place);
        Ok(())
    }

    fn same(&mut self, one: &Path, other: &Path) -> Result<bool> {
        Ok(self.tree.read(one).ok().flatten() == self.tree.read(other)?)
    }

    fn link(&mut self, name: &Path, target: &Path, attributes: Attributes) -> Result<()> {
        if target.as_os_str().is_empty() {
            return Err(self.hostile(name, "is a link to nothing"));
        }
        self.links.insert(name.to_path_buf());
        let Some(place) = self.claim(name)? else {
            return Ok(());
        };
        match self.tree.symlink(&place, target, attributes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match self.tree.kind(&place) {
                    // As dpkg: a directory is never replaced by a link.
                    Some(Kind::Directory) => {}
                    _ if self.tree.link_target(&place).as_deref() == Some(target) => {}
                    _ => self.tree.replace_with_symlink(&place, target, attributes)?,
                }
            }
            other => other?,
        }
        Ok(())
    }

    fn hard_link(&mut self, name: &Path, target: &Path) -> Result<()> {
        let target = self.checked(target)?;
        let Some(existing) = self.files.get(&target).cloned() else {
            return Err(self.hostile(name, "is a hard link to a file that is not its own"));
        };
        let Some(place) = self.claim(name)? else {
            return Ok(());
        };
        match self.tree.hard_link(&existing, &place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.tree.remove_file(&place)?;
                self.tree.hard_link(&existing, &place)?;
            }
            other => other?,
        }
        if self.sums.is_some()
            && let Some(data) = self.tree.read(&place)?
        {
            let line = format!("{}  {}\n", hex::encode(Md5::digest(data)), name.display());
            self.sums.get_or_insert_default().push_str(&line);
        }
        self.files.insert(name.to_path_buf(), place);
        Ok(())
    }

    /// Records that the package has this path, and returns the path to write to; `None` if another
    /// package keeps it.
    fn claim(&mut self, name: &Path) -> Result<Option<PathBuf>> {
        let path = format!("/{}", name.display());
        let place = self.job.diversions.place(&path, self.package.name());
        let diverted = place.is_some();
        let place = place.unwrap_or_else(|| name.to_path_buf());
        let key = below_usr(&place);
        let mut claims = self
            .job
            .claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.job.manner == Manner::Parallel {
            let taken = claims
                .files
                .insert(key.clone(), self.package.name().to_string());
            if taken.is_some()
                || claims.directories.contains(&key)
                || !claims.directories_above(&key)
            {
                return Err(Contested.into());
            }
            self.done.list.push(path);
            return Ok(Some(place));
        }
        let in_place = self.job.diversions.keeps(&path, self.package.name());
        match claims.files.get(&key).filter(|_| !diverted && !in_place) {
            Some(other) if other != self.package.name() && !self.is_directory(&place) => {
                let other = other.clone();
                let theirs = self
                    .job
                    .packages
                    .iter()
                    .find(|package| package.name() == other);
                let version = theirs.map_or("0", |package| package.file.version.as_str());
                if self.package.replaces(&other, version) {
                    self.done.taken.push((other, path.clone()));
                } else if theirs.is_some_and(|theirs| {
                    theirs.replaces(self.package.name(), &self.package.file.version)
                }) {
                    return Ok(None);
                } else {
                    return Err(Fault::input(format!(
                        "the packages {other} and {} both have {path}, and neither replaces the other",
                        self.package.name()
                    ))
                    .remedy("leave one of them out: `exclude` in the recipe")
                    .into());
                }
            }
            _ => {}
        }
        claims.files.insert(key, self.package.name().to_string());
        drop(claims);
        self.done.list.push(path);
        Ok(Some(place))
    }

    fn is_directory(&self, place: &Path) -> bool {
        // `Tree` caches open directories and so needs `&mut`; this is rare enough for a tree of its
        // own.
        Tree::open(self.job.root).is_ok_and(|mut tree| tree.kind(place) == Some(Kind::Directory))
    }

    fn finish(mut self) -> Unpacked {
        let text = self.package.control_file("conffiles").unwrap_or_default();
        for path in String::from_utf8_lossy(text).lines().map(str::trim) {
            if let Some(hash) = self.hashes.remove(path) {
                self.done.conffiles.push((path.to_string(), hash));
            }
        }
        self.done.md5sums = self.sums;
        self.done
    }
}

/// The name under which dpkg keeps a conffile that it has not decided about.
fn dpkg_new(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".dpkg-new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
