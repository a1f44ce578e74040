//! Owns the metadata of packages to install: control files, and the order of installation.
//! Never reads the data member.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::archive::deb::{Control, Deb};
use crate::error::{Fault, InputContext};
use crate::recipe::{Arch, LockedPackage};
use crate::sandbox::Limits;

/// A package file, named as in the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFile {
    pub name: String,
    pub version: String,
    /// Debian architecture, or `all`.
    pub arch: String,
    pub deb: PathBuf,
    pub sha256: String,
}

impl PackageFile {
    /// A package of a lock and the path of its `.deb`.
    pub fn of(package: &LockedPackage, deb: &Path) -> Self {
        PackageFile {
            name: package.name.clone(),
            version: package.version.clone(),
            arch: package.arch.clone(),
            deb: deb.to_path_buf(),
            sha256: package.sha256.clone(),
        }
    }
}

/// Input of `unpack`, `tools` and `configure`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackagesInput {
    pub files: Vec<PackageFile>,
    pub arch: Arch,
    pub epoch: i64,
    /// The stage's directory.
    pub directory: PathBuf,
    /// Layers of earlier stages, topmost first.
    pub layers: Vec<PathBuf>,
    /// For `tools`: the packages of the image.
    pub image: Vec<PackageFile>,
    /// For `configure`: the directory of the native programs.
    pub tools: Option<PathBuf>,
    /// For `configure`: names of packages whose scripts run the image's own programs all the same.
    pub emulated: BTreeSet<String>,
    pub threads: usize,
    /// Of the scripts.
    pub limits: Limits,
}

/// A package with its control member read.
#[derive(Clone, Debug)]
pub struct Package {
    pub file: PackageFile,
    pub control: Control,
    fields: Vec<(String, String)>,
}

impl Package {
    /// Reads the control member.
    ///
    /// # Errors
    /// If the file is no package, or differs from the lock.
    pub fn read(file: PackageFile) -> Result<Self> {
        let control = Deb::open(&file.deb)?.control()?;
        let fields = fields(&control.paragraph)
            .input_context(|| format!("the control file in {} is damaged", file.deb.display()))?;
        let package = Package {
            file,
            control,
            fields,
        };
        for (field, expected) in [
            ("Package", &package.file.name),
            ("Version", &package.file.version),
            ("Architecture", &package.file.arch),
        ] {
            let found = package.field(field).unwrap_or_default();
            if found != expected {
                return Err(Fault::input(format!(
                    "{} has the {field} `{found}`, but the lock says `{expected}`",
                    package.file.deb.display()
                ))
                .remedy("make the lock again with `hearth lock`")
                .into());
            }
        }
        Ok(package)
    }

    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// A field of the control file, with its continuation lines; names are case-insensitive.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All fields in the package's order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn is_essential(&self) -> bool {
        self.field("Essential") == Some("yes")
    }

    /// dpkg's name of the package where several architectures are possible: `libc6:armhf` for
    /// packages that are `Multi-Arch: same`, else the plain name.
    pub fn qualified_name(&self) -> String {
        if self.field("Multi-Arch") == Some("same") {
            format!("{}:{}", self.file.name, self.file.arch)
        } else {
            self.file.name.clone()
        }
    }

    /// A script or other file of the control member.
    pub fn control_file(&self, name: &str) -> Option<&[u8]> {
        self.control
            .files
            .get(name)
            .map(|(data, _)| data.as_slice())
    }

    /// Whether `Replaces` of this package matches the other package and its version.
    pub fn replaces(&self, other: &str, version: &str) -> bool {
        let field = self.field("Replaces").unwrap_or_default();
        crate::archive::relation::parse(field)
            .flatten()
            .any(|relation| relation.name == other && relation.admits(Some(version)))
    }

    /// The package names in a relationship field, including all alternatives.
    fn related(&self, field: &str) -> Vec<String> {
        crate::archive::relation::parse(self.field(field).unwrap_or_default())
            .flatten()
            .map(|relation| relation.name.to_string())
            .collect()
    }
}

/// The fields of a paragraph (deb822(5)); continuation lines are kept verbatim.
fn fields(paragraph: &str) -> Result<Vec<(String, String)>> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in paragraph.trim_end().lines() {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields
                .last_mut()
                .context("it begins with a continuation line")?;
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("`{line}` is no field"))?;
            fields.push((name.to_string(), value.trim().to_string()));
        }
    }
    Ok(fields)
}

/// The order of installation; all numbers are indices into the list of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Unpacked before any script runs: packages that scripts need, and packages without a preinst.
    pub first: Vec<usize>,
    /// The part of `first` that all other scripts may rely on: configured before the rounds.
    pub essential: Vec<usize>,
    /// Packages with a preinst, which runs before they are unpacked. Their pre-dependencies are
    /// configured before the round.
    pub rounds: Vec<Round>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub configure: Vec<usize>,
    pub unpack: Vec<usize>,
}

/// Those at the indices, in the order that decides a shared directory's mode: base-files first.
pub fn pick<'a>(packages: &'a [Package], indices: &[usize]) -> Vec<&'a Package> {
    let mut picked: Vec<&Package> = indices.iter().map(|&index| &packages[index]).collect();
    picked.sort_by_key(|package| (package.name() != "base-files", package.name()));
    picked
}

/// Computes the order of installation (Debian Policy 6.5 and 7.2): a preinst may rely on the
/// essential packages and on its package's pre-dependencies. Essential packages themselves are
/// unpacked before their preinst, as in any bootstrap of a root file system.
///
/// # Errors
/// If pre-dependencies form a cycle.
pub fn order(packages: &[Package]) -> Result<Order> {
    let providers = providers(packages);
    let closure = |start: BTreeSet<usize>, names: &[&str]| {
        let mut all = start;
        let mut todo: Vec<usize> = all.iter().copied().collect();
        while let Some(index) = todo.pop() {
            for name in names
                .iter()
                .flat_map(|field| packages[index].related(field))
            {
                for &provider in providers.get(name.as_str()).into_iter().flatten() {
                    if all.insert(provider) {
                        todo.push(provider);
                    }
                }
            }
        }
        all
    };
    let essential = (0..packages.len())
        .filter(|&index| packages[index].is_essential())
        .collect();
    let essential = closure(essential, &["Pre-Depends", "Depends"]);
    let mut placed: BTreeSet<usize> = (0..packages.len())
        .filter(|index| {
            essential.contains(index) || packages[*index].control_file("preinst").is_none()
        })
        .collect();
    let first: Vec<usize> = placed.iter().copied().collect();
    let mut configured = essential.clone();
    let mut rounds = Vec::new();
    while placed.len() < packages.len() {
        let mut round = Round::default();
        let mut configure = BTreeSet::new();
        for index in (0..packages.len()).filter(|index| !placed.contains(index)) {
            let direct: BTreeSet<usize> = packages[index]
                .related("Pre-Depends")
                .iter()
                .flat_map(|name| providers.get(name.as_str()).into_iter().flatten().copied())
                .filter(|provider| *provider != index)
                .collect();
            let needed = closure(direct, &["Pre-Depends", "Depends"]);
            // A cycle of Depends may lead back; only packages not unpacked yet have to wait.
            if needed
                .iter()
                .all(|need| *need == index || placed.contains(need))
            {
                configure.extend(needed.into_iter().filter(|need| !configured.contains(need)));
                round.unpack.push(index);
            }
        }
        if round.unpack.is_empty() {
            // A cycle of Depends among packages with a preinst: dpkg has to break it as well.
            round.unpack = (0..packages.len())
                .filter(|index| !placed.contains(index))
                .collect();
        }
        configure.retain(|index| placed.contains(index));
        configured.extend(&configure);
        placed.extend(&round.unpack);
        round.configure = configure.into_iter().collect();
        rounds.push(round);
    }
    Ok(Order {
        first,
        essential: essential.into_iter().collect(),
        rounds,
    })
}

/// The packages that have or provide a name.
fn providers(packages: &[Package]) -> HashMap<String, Vec<usize>> {
    let mut providers: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, package) in packages.iter().enumerate() {
        providers
            .entry(package.name().to_string())
            .or_default()
            .push(index);
        for name in package.related("Provides") {
            providers.entry(name).or_default().push(index);
        }
    }
    providers
}

/// Control files of all packages together, in bytes: they are held in memory. Those of 800 packages take some 30 MiB.
const CONTROL_LIMIT: u64 = 192 << 20;

/// Reads all control members in parallel; the result is in the order of `files`.
///
/// # Errors
/// As [`Package::read`], and if they take unreasonably much memory.
pub fn read_all(files: &[PackageFile], threads: usize) -> Result<Vec<Package>> {
    let chunk = files.len().div_ceil(threads.max(1)).max(1);
    let taken = AtomicU64::new(0);
    let read = |file: &PackageFile| {
        let package = Package::read(file.clone())?;
        let size = package.control.size();
        if taken.fetch_add(size, Ordering::Relaxed) + size > CONTROL_LIMIT {
            return Err(Fault::input(format!(
                "the control files of the packages take more than {} MiB, with those of {}",
                CONTROL_LIMIT >> 20,
                package.name()
            ))
            .into());
        }
        Ok(package)
    };
    let parts: Vec<Result<Vec<Package>>> = std::thread::scope(|scope| {
        let readers: Vec<_> = files
            .chunks(chunk)
            .map(|part| scope.spawn(|| part.iter().map(&read).collect()))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("reading a package does not panic"))
            .collect()
    });
    let mut packages = Vec::new();
    for part in parts {
        packages.extend(part?);
    }
    Ok(packages)
}

/// If `path` is below one of the directories that merged /usr replaces by links, the path below
/// `usr`.
pub fn below_usr(path: &Path) -> PathBuf {
    let mut components = path.components();
    match components.next().map(|first| first.as_os_str()) {
        Some(first)
            if (first == "bin" || first == "sbin" || first == "lib")
                && components.as_path() != Path::new("") =>
        {
            Path::new("usr").join(path)
        }
        _ => path.to_path_buf(),
    }
}
