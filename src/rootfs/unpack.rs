//! Owns putting packages' files into a tree, as dpkg would: parallel where packages share no file, in order where
//! they do. Never runs a script.
//!
//! What a hostile package may try is refused: names that are absolute or hold `..`, names below a link that the
//! same package made, device nodes, hard links to files of others, more data than is sensible.

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

use super::dpkg::Diversions;
use super::package::{Package, below_usr};
use super::tree::{Attributes, Kind, Tree};
use crate::archive::deb::Deb;
use crate::error::{Fault, InputContext};
use crate::progress::Stage;

/// What unpacking one package left for dpkg's database.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    /// Every path of the package in the archive's order, as `/usr/bin/x`; the root is `/.`.
    pub list: Vec<String>,
    /// Conffiles and their MD5, in the order of the package's list; `newconffile` where the file
    /// was left beside another one for dpkg to decide.
    pub conffiles: Vec<(String, String)>,
    /// `hash  path` lines, for packages that bring none.
    pub md5sums: Option<String>,
    /// Paths of other packages' lists that are this package's now.
    pub taken: Vec<(String, String)>,
    directories: Vec<(PathBuf, Attributes, bool)>,
}

/// Who has which path already: package names by path, below `usr` where /usr is merged.
#[derive(Debug, Default)]
pub struct Claims {
    files: HashMap<PathBuf, String>,
    directories: HashSet<PathBuf>,
}

impl Claims {
    /// Notes the directories above a path, which a package need not list; says whether all may be directories.
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

    /// Notes the paths that dpkg's database lists for a package.
    pub fn add_list(&mut self, package: &str, list: &str) {
        for path in list.lines() {
            let path = below_usr(Path::new(path.trim_start_matches('/')));
            self.files.insert(path, package.to_string());
        }
    }

    /// Whether a package has a file at `path`, which is below `usr` where /usr is merged.
    pub fn hold_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }
}

/// How packages are unpacked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Several at once; a path that two packages have ends the attempt.
    Parallel,
    /// One after the other, with dpkg's rules for paths that two packages have.
    Serial,
}

/// Unpacks those files of `packages` whose paths are `wanted` into the empty tree at `root`. The result is the same for any
/// number of threads.
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
    let contested = AtomicBool::new(false);
    let job = Job {
        root,
        packages,
        wanted,
        claims: &claims,
        contested: &contested,
        diversions: &Diversions::default(),
        threads,
        manner: Manner::Parallel,
        stage,
    };
    let unpacked = match job.in_parallel(threads) {
        Err(_) if contested.load(Ordering::Relaxed) => {
            log::debug!("two packages have the same path: unpacking one after the other");
            let mut tree = Tree::open(root)?;
            tree.clear()?;
            super::merged_usr(&mut tree)?;
            *claims.lock().unwrap_or_else(PoisonError::into_inner) = Claims::default();
            Job {
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

/// Unpacks `packages` into a tree that has others already, with their diversions.
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
    let unpacked = Job {
        root,
        packages,
        wanted: |_| true,
        claims: &Mutex::new(claims),
        contested: &AtomicBool::new(false),
        diversions,
        threads,
        manner: Manner::Serial,
        stage,
    }
    .one_by_one()?;
    set_directories(root, &unpacked, false)?;
    Ok(unpacked)
}

/// Gives directories their owner and mode: the first package that has one decides, as if they
/// had been unpacked in order. A directory that was there before stays as it is.
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
struct Job<'a> {
    root: &'a Path,
    packages: &'a [&'a Package],
    wanted: fn(&Path) -> bool,
    claims: &'a Mutex<Claims>,
    contested: &'a AtomicBool,
    diversions: &'a Diversions,
    /// With how many a large package is decompressed.
    threads: usize,
    manner: Manner,
    stage: &'a dyn Stage,
}

impl Job<'_> {
    fn one_by_one(&self) -> Result<Vec<Unpacked>> {
        let mut tree = Tree::open(self.root)?;
        self.packages
            .iter()
            .map(|package| self.unpack(&mut tree, package))
            .collect()
    }

    /// The largest packages first, so that no thread is left with one at the end.
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
        archive.control()?;
        one.data(archive.data(self.threads)?)
            .input_context(|| format!("cannot unpack {} ({})", package.name(), deb.display()))?;
        archive.verify(&package.file.sha256)?;
        let unpacked = one.finish();
        self.stage.advance(1);
        Ok(unpacked)
    }
}

/// The paths of a package's `conffiles` (deb-conffiles(5)) that it brings.
fn conffiles(package: &Package) -> BTreeSet<String> {
    let text = package.control_file("conffiles").unwrap_or_default();
    String::from_utf8_lossy(text)
        .lines()
        .map(str::trim)
        // `remove-on-upgrade /path` names a file that is not in the package any more.
        .filter(|line| line.starts_with('/'))
        .map(str::to_string)
        .collect()
}

/// One package being unpacked.
struct One<'a> {
    job: &'a Job<'a>,
    tree: &'a mut Tree,
    package: &'a Package,
    conffiles: BTreeSet<String>,
    /// Lines of an md5sums file, where the package has none.
    sums: Option<String>,
    /// Symbolic links that the package made, by name.
    links: HashSet<PathBuf>,
    /// Files that the package made: name, and where it was put.
    files: HashMap<PathBuf, PathBuf>,
    hashes: HashMap<String, String>,
    done: Unpacked,
}

impl One<'_> {
    fn data(&mut self, data: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(data);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = Path::new(OsStr::from_bytes(&entry.path_bytes())).to_path_buf();
            let name = self.checked(&name)?;
            if !(self.job.wanted)(&name) {
                continue;
            }
            let shown = format!("/{}", name.display());
            self.entry(&mut entry, &name)
                .with_context(|| format!("`{shown}`"))?;
        }
        Ok(())
    }

    /// The name without `./`, if it is one that a package may have.
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
                return Err(self.contest());
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

    /// Notes that the package has this path, and says where its file goes; `None` if another
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
                return Err(self.contest());
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
        // `Tree` keeps directories open and so wants `&mut`; this is rare enough for a tree of its own.
        Tree::open(self.job.root).is_ok_and(|mut tree| tree.kind(place) == Some(Kind::Directory))
    }

    fn contest(&self) -> anyhow::Error {
        self.job.contested.store(true, Ordering::Relaxed);
        anyhow::anyhow!("two packages have the same path")
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

/// Where dpkg leaves a conffile that it has not decided about.
fn dpkg_new(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".dpkg-new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use crate::rootfs::package::PackageFile;
    use common::tarball;
    use sha2::Sha256;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Entries of a data member: name, kind, target of a link or content of a file, mode.
    type Entries<'a> = &'a [(&'a str, EntryType, &'a str, u32)];
    const FILE: EntryType = EntryType::Regular;
    const DIR: EntryType = EntryType::Directory;

    fn tar_of(entries: Entries<'_>) -> Vec<u8> {
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, kind, text, mode)| {
                tarball::entry(name, *kind, *mode, text)
                    .owner(uid.as_raw().into(), gid.as_raw().into())
                    .mtime(1_000_000)
            })
            .collect();
        tarball::tar(&entries)
    }

    /// Makes a package in `directory`; `more` are further lines of its control file.
    fn package(directory: &Path, name: &str, more: &str, entries: Entries<'_>) -> Package {
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\n{more}");
        let control = tar_of(&[("./control", FILE, &control, 0o644)]);
        let mut deb = ar::Builder::new(Vec::new());
        for (member, data) in [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", control),
            ("data.tar", tar_of(entries)),
        ] {
            let header = ar::Header::new(member.into(), data.len() as u64);
            deb.append(&header, &data[..]).unwrap();
        }
        let bytes = deb.into_inner().unwrap();
        let path = directory.join(format!("{name}.deb"));
        fs::write(&path, &bytes).unwrap();
        Package::read(PackageFile {
            name: name.into(),
            version: "1".into(),
            arch: "all".into(),
            deb: path,
            sha256: hex::encode(Sha256::digest(&bytes)),
        })
        .unwrap()
    }

    fn unpack(root: &Path, packages: &[Package]) -> Result<Vec<Unpacked>> {
        fs::create_dir_all(root).unwrap();
        super::super::merged_usr(&mut Tree::open(root).unwrap()).unwrap();
        let all: Vec<&Package> = packages.iter().collect();
        let stage = crate::progress::Progress::stage(
            &NoProgress,
            "unpack",
            None,
            crate::progress::Unit::Items,
        );
        unpack_first(root, &all, |_| true, 2, &*stage)
    }

    #[test]
    fn links_modes_and_merged_usr_come_out_as_packed() {
        let dir = tempfile::tempdir().unwrap();
        let entries: Entries<'_> = &[
            ("./", DIR, "", 0o755),
            ("./bin/", DIR, "", 0o755),
            ("./bin/su", FILE, "su", 0o4755),
            ("./bin/su2", EntryType::Link, "./bin/su", 0o4755),
            ("./usr/share/x", EntryType::Symlink, "/etc/passwd", 0o777),
            ("./var/mail/", DIR, "", 0o2775),
        ];
        let root = dir.path().join("root");
        let unpacked = unpack(&root, &[package(dir.path(), "a", "", entries)]).unwrap();
        let su = fs::metadata(root.join("usr/bin/su")).unwrap();
        assert_eq!(
            (su.mode() & 0o7777, su.nlink(), su.mtime()),
            (0o4755, 2, 1_000_000)
        );
        let mail = fs::metadata(root.join("var/mail")).unwrap();
        assert_eq!(mail.permissions().mode() & 0o7777, 0o2775);
        assert_eq!(
            fs::read_link(root.join("usr/share/x")).unwrap(),
            Path::new("/etc/passwd")
        );
        let expected = [
            "/.",
            "/bin",
            "/bin/su",
            "/bin/su2",
            "/usr/share/x",
            "/var/mail",
        ];
        assert_eq!(unpacked[0].list, expected);
        let sums = unpacked[0].md5sums.as_ref().unwrap();
        assert!(sums.contains(&format!("{}  bin/su\n", hex::encode(Md5::digest("su")))));
    }

    #[test]
    fn hostile_packages_are_refused_and_write_nothing_outside() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "mine").unwrap();
        let absolute = format!("{}/evil", outside.path().display());
        let here = outside.path().to_str().unwrap();
        let hostile: &[(Entries<'_>, &str)] = &[
            (&[(&absolute, FILE, "x", 0o644)], "is absolute"),
            (&[("./../evil", FILE, "x", 0o644)], "by `..`"),
            (&[("./a/../../evil", FILE, "x", 0o644)], "by `..`"),
            (
                &[
                    ("./l", EntryType::Symlink, here, 0o777),
                    ("./l/evil", FILE, "x", 0o644),
                ],
                "behind a link",
            ),
            (&[("./dev/sda", EntryType::Block, "", 0o666)], "Block"),
            (&[("./dev/null", EntryType::Char, "", 0o666)], "Char"),
            (&[("./h", EntryType::Link, "../secret", 0o644)], "by `..`"),
            (
                &[("./h", EntryType::Link, "./etc/shadow", 0o644)],
                "not its own",
            ),
        ];
        for (number, (entries, says)) in hostile.iter().enumerate() {
            let work = outside.path().join(format!("work-{number}"));
            fs::create_dir(&work).unwrap();
            let root = work.join("root");
            let evil = package(&work, "evil", "", entries);
            let error = format!("{:#}", unpack(&root, &[evil]).unwrap_err());
            assert!(
                error.contains("not safe") && error.contains(says),
                "{number}: {error}"
            );
            assert!(!outside.path().join("evil").exists() && !work.join("evil").exists());
        }
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    }

    #[test]
    fn a_link_of_another_package_leads_nowhere_but_into_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().to_str().unwrap();
        let link = package(
            dir.path(),
            "a",
            "",
            &[("./opt", EntryType::Symlink, here, 0o777)],
        );
        let file = package(dir.path(), "b", "", &[("./opt/evil", FILE, "x", 0o644)]);
        // The order decides, not which thread is first: both name `opt`, one of them as a directory, unlisted.
        let mut both = [link, file];
        for _ in 0..50 {
            let root = dir.path().join("link-first");
            unpack(&root, &both).unwrap_err();
            fs::remove_dir_all(&root).unwrap();
            both.reverse();
            let root = dir.path().join("file-first");
            unpack(&root, &both).unwrap();
            both.reverse();
            // As dpkg has it, a directory is not replaced by a link.
            assert_eq!(fs::read(root.join("opt/evil")).unwrap(), b"x");
            fs::remove_dir_all(&root).unwrap();
        }
        assert!(!dir.path().join("evil").exists());
    }

    #[test]
    fn of_two_packages_with_one_file_the_one_that_replaces_wins_whatever_its_place() {
        for (first, second) in [("a", "b"), ("b", "a")] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            let old = package(
                dir.path(),
                first,
                "",
                &[("./f", FILE, "old", 0o644), ("./o", FILE, "", 0o644)],
            );
            let more = format!("Replaces: {first}\n");
            let new = package(dir.path(), second, &more, &[("./f", FILE, "new", 0o644)]);
            let mut packages = vec![old, new];
            packages.sort_by(|one, other| one.name().cmp(other.name()));
            let unpacked = unpack(&root, &packages).unwrap();
            assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "new");
            let losers = packages
                .iter()
                .position(|package| package.name() == first)
                .unwrap();
            let winners = &unpacked[1 - losers];
            assert!(winners.list.contains(&"/f".to_string()));
            let elided = winners
                .taken
                .contains(&(first.to_string(), "/f".to_string()));
            assert!(elided || !unpacked[losers].list.contains(&"/f".to_string()));
        }
    }

    #[test]
    fn a_file_of_two_packages_is_told_with_both_names() {
        let dir = tempfile::tempdir().unwrap();
        let one = package(dir.path(), "one", "", &[("./lib/f", FILE, "1", 0o644)]);
        let two = package(dir.path(), "two", "", &[("./usr/lib/f", FILE, "2", 0o644)]);
        let error = unpack(&dir.path().join("root"), &[one, two]).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("one and two both have /usr/lib/f"), "{said}");
    }

    #[test]
    fn another_file_under_the_same_name_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = package(dir.path(), "one", "", &[("./f", FILE, "1", 0o644)]);
        one.file.sha256 = "0".repeat(64);
        let said = format!(
            "{:#}",
            unpack(&dir.path().join("root"), &[one]).unwrap_err()
        );
        assert!(said.contains("SHA-256"), "{said}");
    }

    #[test]
    fn what_was_there_is_not_followed_when_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("target"), "old").unwrap();
        symlink(dir.path().join("target"), root.join("f")).unwrap();
        unpack(
            &root,
            &[package(
                dir.path(),
                "one",
                "",
                &[("./f", FILE, "new", 0o644)],
            )],
        )
        .unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("target")).unwrap(),
            "old"
        );
        assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "new");
    }
}
