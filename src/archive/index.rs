//! Owns package indices: which packages a suite has, with the fields that choosing and fetching
//! need.
//! Never holds a whole decompressed index in memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use deb822_fast::borrowed::{BorrowedParagraph, parse_borrowed};
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::fetch::{FetchError, Fetcher, Wanted, explain};
use super::limit::Limited;
use super::relation;
use super::release::Release;
use crate::error::{Class, Fault, class_of};
use crate::input;

/// Limit on one stanza of an index, in bytes.
const LARGEST_STANZA: usize = 4 << 20;

/// Bytes that an index may expand to if its release does not tell; Debian's releases tell, and its largest index has 60 MiB.
const LARGEST_UNLISTED: u64 = 256 << 20;

/// ...and if it does.
const LARGEST: u64 = 1 << 30;

/// No index has nearly as many packages; all are held in memory. Debian's largest has 70,000.
const MOST_PACKAGES: usize = 250_000;

/// How much memory an xz stream may want: `xz -9` takes 65 MiB.
const XZ_MEMORY: u64 = 160 << 20;

/// Suffixes of compressed indices, the smallest file first; empty for uncompressed.
const COMPRESSIONS: [&str; 3] = [".xz", ".gz", ""];

/// One version of one package.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: Box<str>,
    pub version: Box<str>,
    pub arch: Box<str>,
    /// Pool path, relative to the mirror's base address.
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
    /// Whether APT treats it almost as if it were essential (`Important`).
    pub important: bool,
    pub priority: Priority,
    /// Whether `name:any` matches this package too (`Multi-Arch: allowed`).
    pub any_arch: bool,
    /// The release that lists it, as an index into [`Index::releases`]; none for a local package.
    pub release: Option<usize>,
}

/// The field `Priority` (Debian Policy 2.5).
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
    /// Adds the packages of a release: of the given components, of this architecture and of `all`.
    ///
    /// # Errors
    /// If the release lists no such index, or the mirror's file does not match its hash.
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
        let read = path
            .open()
            .and_then(|mut reader| self.read_text(&mut reader, release));
        read.map_err(|error| {
            if class_of(&error) == Class::Host {
                return error.context(format!("cannot read the package index of {suite}"));
            }
            Fault::infrastructure(format!(
                "the package index of {suite} cannot be used: {error:#}"
            ))
            .remedy(format!(
                "those who signed it have to mend it; until then leave {suite} out of the recipe's suites"
            ))
            .into()
        })
    }

    /// Reads an uncompressed index (Debian's repository format, "Packages indices") of the release with
    /// number `release`.
    ///
    /// # Errors
    /// If a paragraph is malformed or too long, or lacks a field that every package has; if there are
    /// too many packages.
    pub fn read_text(&mut self, reader: &mut dyn BufRead, release: usize) -> Result<()> {
        let mut stanza = Vec::new();
        let most = self.packages.len() + MOST_PACKAGES;
        while read_stanza(reader, &mut stanza)? {
            let stanza = std::str::from_utf8(&stanza)?;
            let paragraphs = parse_borrowed(stanza).map_err(|error| anyhow!("{error}"))?;
            for paragraph in &paragraphs {
                let package = Package::read(paragraph, Some(release)).with_context(|| {
                    let beginning: String = stanza.chars().take(100).collect();
                    format!("it has a malformed entry: {beginning}")
                })?;
                self.insert(package);
            }
            if self.packages.len() > most {
                bail!("it has over {MOST_PACKAGES} packages");
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
    /// `None` if a mandatory field is missing.
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

    /// The field `Provides`: names, with versions where given.
    pub fn provided(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        relation::parse(&self.provides).flatten().map(|relation| {
            (
                relation.name,
                relation.constraint.map(|(_, version)| version),
            )
        })
    }
}

/// An index file in the cache.
struct Compressed {
    path: PathBuf,
    compression: &'static str,
    /// Bytes that it may expand to.
    limit: u64,
}

impl Compressed {
    fn open(&self) -> Result<Box<dyn BufRead>> {
        let file = open(&self.path)?;
        let what = format!("it expands to more than {} bytes", self.limit);
        Ok(match self.compression {
            ".xz" => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                let plain = XzDecoder::new_stream(file, stream);
                Box::new(buffered(Limited::new(plain, self.limit, what)))
            }
            ".gz" => {
                let plain = MultiGzDecoder::new(file);
                Box::new(buffered(Limited::new(plain, self.limit, what)))
            }
            _ => Box::new(file),
        })
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    input::open(path)
        .map(buffered)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(1 << 17, reader)
}

/// The smallest compression in which a release lists the index of a directory.
fn listed(release: &Release, directory: &str) -> Option<(&'static str, String)> {
    COMPRESSIONS
        .into_iter()
        .map(|compression| (compression, format!("{directory}/Packages{compression}")))
        .find(|(_, path)| release.file(path).is_some())
}

/// Fetches the index of a directory: by hash (`by-hash/`), else by name.
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
    let plain = release.file(&format!("{directory}/Packages"));
    let limit = plain.map_or(LARGEST_UNLISTED, |plain| plain.size.min(LARGEST));
    let compressed = |path| Compressed {
        path,
        compression,
        limit,
    };
    // Whatever was hashed before: there are few indices, and they decide what is fetched.
    if let Some(path) = fetcher.cache.get_hashed(&file.sha256, file.size)? {
        return Ok(compressed(path));
    }
    let mut addresses = Vec::new();
    for mirror in &release.mirrors {
        let base = format!("{mirror}/dists/{}", release.suite);
        if release.by_hash {
            addresses.push(format!("{base}/{directory}/by-hash/SHA256/{}", file.sha256));
        }
        addresses.push(format!("{base}/{path}"));
    }
    let wanted = Wanted {
        size: file.size,
        sha256: &file.sha256,
    };
    match fetcher.file(&addresses, wanted, &|_| ()) {
        Ok(path) => Ok(compressed(path)),
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

/// Reads up to the next empty line. Returns `false` at the end.
fn read_stanza(reader: &mut dyn BufRead, stanza: &mut Vec<u8>) -> Result<bool> {
    stanza.clear();
    skip_empty_lines(reader)?;
    loop {
        let start = stanza.len();
        let room = LARGEST_STANZA + 1 - start;
        if (&mut *reader).take(room as u64).read_until(b'\n', stanza)? == 0 {
            return Ok(start > 0);
        }
        if stanza.len() > LARGEST_STANZA {
            bail!("a paragraph is over {LARGEST_STANZA} bytes long");
        }
        if stanza[start..].trim_ascii().is_empty() {
            if start > 0 {
                return Ok(true);
            }
            stanza.clear();
        }
    }
}

/// One by one they would take a minute for each hundred megabytes.
fn skip_empty_lines(reader: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let empty = buffer.iter().take_while(|byte| **byte == b'\n').count();
        let is_all = empty > 0 && empty == buffer.len();
        reader.consume(empty);
        if !is_all {
            return Ok(());
        }
    }
}
