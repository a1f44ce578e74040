//! Owns package indices: which packages a suite has. Keeps of each only what choosing and fetching needs.
//! Never decompresses an index into memory as a whole.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use deb822_fast::borrowed::{BorrowedParagraph, parse_borrowed};
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::fetch::{FetchError, Fetcher, Wanted, explain};
use super::relation;
use super::release::Release;
use crate::error::Fault;

/// No stanza of an index comes near this, in bytes.
const LARGEST_STANZA: usize = 4 << 20;

/// Compressions of indices, the smallest first; the empty one is none.
const COMPRESSIONS: [&str; 3] = [".xz", ".gz", ""];

/// One version of one package.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: Box<str>,
    pub version: Box<str>,
    pub arch: Box<str>,
    /// Relative to the mirror.
    pub path: Box<str>,
    pub size: u64,
    pub sha256: [u8; 32],
    /// `Pre-Depends` and `Depends`, as one field.
    pub depends: Box<str>,
    pub recommends: Box<str>,
    /// `Conflicts` and `Breaks`, as one field.
    pub conflicts: Box<str>,
    pub provides: Box<str>,
    pub essential: bool,
    /// Whether APT is to keep it almost as if it were essential.
    pub important: bool,
    pub priority: Priority,
    /// Whether `name:any` means this package too (`Multi-Arch: allowed`).
    pub any_arch: bool,
    /// Which release lists it, as an index into [`Index::releases`]; none for a local package.
    pub release: Option<usize>,
}

/// The archive's idea of how much a system needs a package (Debian Policy 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Required,
    Important,
    Standard,
    Optional,
    Extra,
}

/// All packages of several releases.
#[derive(Debug, Default)]
pub struct Index {
    pub releases: Vec<Release>,
    pub packages: Vec<Package>,
    by_name: HashMap<Box<str>, Vec<usize>>,
}

impl Index {
    /// Adds the packages of a release: of these components, of this architecture and of `all`.
    ///
    /// # Errors
    /// If the release has no such index, or the mirror's is not what the release says.
    pub fn add(
        &mut self,
        fetcher: &Fetcher,
        release: Release,
        components: &[String],
        arch: &str,
    ) -> Result<()> {
        let number = self.releases.len();
        for component in components {
            release.require(component, arch)?;
            let path = fetch(fetcher, &release, &format!("{component}/binary-{arch}"))?;
            self.read(&path, number, &release.suite)?;
            let all = format!("{component}/binary-all");
            if release.separate_all && listed(&release, &all).is_some() {
                let path = fetch(fetcher, &release, &all)?;
                self.read(&path, number, &release.suite)?;
            }
        }
        self.releases.push(release);
        Ok(())
    }

    fn read(&mut self, path: &Compressed, release: usize, suite: &str) -> Result<()> {
        let mut reader = path.open().with_context(|| unreadable(suite))?;
        self.read_text(&mut reader, release, suite)
    }

    /// Reads an uncompressed index (Debian's repository format, "Packages indices"), which is the release `release`'s.
    ///
    /// # Errors
    /// If a paragraph is malformed, or lacks a field that every package has.
    pub fn read_text(
        &mut self,
        reader: &mut dyn BufRead,
        release: usize,
        suite: &str,
    ) -> Result<()> {
        let mut stanza = String::new();
        while read_stanza(reader, &mut stanza).with_context(|| unreadable(suite))? {
            let paragraphs = parse_borrowed(&stanza)
                .ok()
                .with_context(|| format!("the package index of {suite} is malformed"))?;
            for paragraph in &paragraphs {
                let package = Package::read(paragraph, Some(release)).with_context(|| {
                    format!("the package index of {suite} has a malformed entry: {stanza}")
                })?;
                self.insert(package);
            }
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, package: Package) {
        self.by_name
            .entry(package.name.clone())
            .or_default()
            .push(self.packages.len());
        self.packages.push(package);
    }

    /// All versions of a package, in the order of the releases.
    pub fn versions(&self, name: &str) -> &[usize] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }
}

impl Package {
    /// `None` if a field is missing that every package has.
    pub(super) fn read(fields: &BorrowedParagraph<'_>, release: Option<usize>) -> Option<Self> {
        let text = |name: &str| -> Cow<'_, str> {
            match fields.get_field(name) {
                None => Cow::Borrowed(""),
                Some(field) => match field.as_single_line() {
                    Some(line) => Cow::Borrowed(line),
                    None => Cow::Owned(field.lines().join(" ")),
                },
            }
        };
        let joined = |names: [&str; 2]| -> Box<str> {
            match names.map(text) {
                [one, two] if one.is_empty() => two.into(),
                [one, two] if two.is_empty() => one.into(),
                [one, two] => format!("{one}, {two}").into(),
            }
        };
        let mut sha256 = [0; 32];
        hex::decode_to_slice(fields.get_single("SHA256")?, &mut sha256).ok()?;
        Some(Package {
            name: fields.get_single("Package")?.into(),
            version: fields.get_single("Version")?.into(),
            arch: fields.get_single("Architecture")?.into(),
            path: fields
                .get_single("Filename")?
                .trim_start_matches("./")
                .into(),
            size: fields.get_single("Size")?.parse().ok()?,
            sha256,
            depends: joined(["Pre-Depends", "Depends"]),
            recommends: text("Recommends").into(),
            conflicts: joined(["Conflicts", "Breaks"]),
            provides: text("Provides").into(),
            essential: text("Essential") == "yes",
            important: text("Important") == "yes" || text("Protected") == "yes",
            priority: match &*text("Priority") {
                "required" => Priority::Required,
                "important" => Priority::Important,
                "standard" => Priority::Standard,
                "extra" => Priority::Extra,
                _ => Priority::Optional,
            },
            any_arch: text("Multi-Arch") == "allowed",
            release,
        })
    }

    /// What it provides: names, with versions where it says so.
    pub fn provided(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        relation::parse(&self.provides).flatten().map(|relation| {
            (
                relation.name,
                relation.constraint.map(|(_, version)| version),
            )
        })
    }
}

fn unreadable(suite: &str) -> String {
    format!("cannot read the package index of {suite}")
}

/// An index in the cache.
struct Compressed {
    path: PathBuf,
    compression: &'static str,
}

impl Compressed {
    fn open(&self) -> Result<Box<dyn BufRead>> {
        let file = open(&self.path)?;
        Ok(match self.compression {
            ".xz" => Box::new(buffered(XzDecoder::new_multi_decoder(file))),
            ".gz" => Box::new(buffered(MultiGzDecoder::new(file))),
            _ => Box::new(file),
        })
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path)
        .map(buffered)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(1 << 17, reader)
}

/// The best compression in which a release lists the index of a directory.
fn listed(release: &Release, directory: &str) -> Option<(&'static str, String)> {
    COMPRESSIONS
        .into_iter()
        .map(|compression| (compression, format!("{directory}/Packages{compression}")))
        .find(|(_, path)| release.file(path).is_some())
}

/// Fetches the index of a directory, by its hash and then by its name.
fn fetch(fetcher: &Fetcher, release: &Release, directory: &str) -> Result<Compressed> {
    let Some((compression, path)) = listed(release, directory) else {
        bail!(
            Fault::infrastructure(format!(
                "the release of {} lists no package index for {directory}",
                release.suite
            ))
            .remedy("try another mirror with --mirror")
        );
    };
    let file = release.file(&path).context("just listed")?;
    let base = format!("{}/dists/{}", release.mirror, release.suite);
    let mut addresses = Vec::new();
    if release.by_hash {
        addresses.push(format!("{base}/{directory}/by-hash/SHA256/{}", file.sha256));
    }
    addresses.push(format!("{base}/{path}"));
    let wanted = Wanted {
        size: file.size,
        sha256: &file.sha256,
    };
    match fetcher.file(&addresses, wanted, &|_| ()) {
        Ok(path) => Ok(Compressed { path, compression }),
        Err(error) if error.is_other_content() => Err(stale(&release.suite, &error)),
        Err(error) => Err(explain(
            error,
            &format!("cannot fetch the package index of {}", release.suite),
        )),
    }
}

fn stale(suite: &str, error: &FetchError) -> anyhow::Error {
    Fault::infrastructure(format!(
        "the mirror's suite {suite} does not fit together: {error}, as its release file says"
    ))
    .remedy(format!(
        "the mirror is being updated or is stale: try again in some minutes, use another mirror, or leave \
         {suite} out of the recipe's suites"
    ))
    .into()
}

/// Reads up to the next empty line. `false` at the end.
fn read_stanza(reader: &mut dyn BufRead, stanza: &mut String) -> Result<bool> {
    stanza.clear();
    loop {
        let start = stanza.len();
        if reader.read_line(stanza)? == 0 {
            return Ok(start > 0);
        }
        if stanza[start..].trim_end().is_empty() {
            if start > 0 {
                return Ok(true);
            }
            stanza.clear();
        }
        if stanza.len() > LARGEST_STANZA {
            bail!("a paragraph is over {LARGEST_STANZA} bytes long");
        }
    }
}
