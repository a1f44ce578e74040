//! Owns the addresses of the mirrors: options, environment, the host's APT sources.
//! Never writes an address anywhere.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use deb822_fast::borrowed::parse_borrowed;

use crate::error::Fault;
use crate::input;

/// The base addresses by precedence: options, `HEARTH_MIRROR` and `HEARTH_MIRROR_SECURITY`, the
/// host's APT sources.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    main: Option<String>,
    security: Option<String>,
    sources: Vec<AptSource>,
}

/// One repository of the host's APT sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AptSource {
    address: String,
    suites: Vec<String>,
    /// Whether it is signed by Debian's own keyring.
    signed_by_debian: bool,
}

impl Mirrors {
    /// `main` and `security` are the user's options. Without them, reads the environment and the
    /// host's APT sources.
    pub fn find(main: Option<&str>, security: Option<&str>) -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Mirrors {
            main: main.map(Into::into).or_else(|| variable("HEARTH_MIRROR")),
            security: security
                .map(Into::into)
                .or_else(|| variable("HEARTH_MIRROR_SECURITY")),
            sources: read_sources(Path::new("/etc/apt")),
        }
    }

    /// The first of [`Mirrors::all_of_suite`].
    ///
    /// # Errors
    /// As there.
    pub fn of_suite(&self, suite: &str) -> Result<String> {
        Ok(self.all_of_suite(suite)?.swap_remove(0))
    }

    /// The base addresses for a suite, without a trailing slash; `dists/` and `pool/` are below them. The first is the best, the
    /// others are for when it does not deliver: all that the user gave, separated by spaces, or else those of the host's
    /// repositories that look like Debian's.
    ///
    /// # Errors
    /// If no source gives one; classed as the host's fault.
    pub fn all_of_suite(&self, suite: &str) -> Result<Vec<String>> {
        let security = suite.ends_with("-security");
        let (given, variable, option) = if security {
            (
                &self.security,
                "HEARTH_MIRROR_SECURITY",
                "--mirror-security",
            )
        } else {
            (&self.main, "HEARTH_MIRROR", "--mirror")
        };
        let addresses = match given {
            Some(given) => separate(given),
            None => self.of_host(suite, security),
        };
        if addresses.is_empty() {
            return Err(Fault::host(format!(
                "no mirror is known for the suite {suite}: this host's APT sources name none"
            ))
            .remedy(format!(
                "give its address with {option} URL or in {variable}"
            ))
            .into());
        }
        let mut seen = HashSet::new();
        Ok(addresses
            .into_iter()
            .map(|address| address.trim_end_matches('/').to_string())
            .filter(|address| seen.insert(address.clone()))
            .collect())
    }

    /// The likeliest of the host's repositories first: those that have the very suite, and Debian's by keyring or by their
    /// path. Of others only one, if there is none of these.
    fn of_host(&self, suite: &str, security: bool) -> Vec<&str> {
        let mut sources: Vec<(&AptSource, (bool, bool, bool))> = self
            .sources
            .iter()
            .filter(|source| {
                source
                    .suites
                    .iter()
                    .any(|suite| suite.ends_with("-security") == security)
            })
            .map(|source| {
                let last = source.address.trim_end_matches('/').rsplit('/').next();
                let likeness = (
                    last.is_some_and(|last| last.starts_with("debian")),
                    source.signed_by_debian,
                    source.suites.iter().any(|s| s == suite),
                );
                (source, likeness)
            })
            .collect();
        // Stable: of equals, the first counts, as for APT.
        sources.sort_by_key(|(_, likeness)| std::cmp::Reverse(*likeness));
        let is_debian = |(named, signed, _): (bool, bool, bool)| named || signed;
        sources
            .iter()
            .enumerate()
            .filter(|(number, (_, likeness))| *number == 0 || is_debian(*likeness))
            .map(|(_, (source, _))| source.address.as_str())
            .collect()
    }
}

/// Addresses that are separated by spaces; one that holds spaces is one.
fn separate(given: &str) -> Vec<&str> {
    let parts: Vec<&str> = given.split_whitespace().collect();
    match parts.iter().all(|part| part.contains("://")) {
        true => parts,
        false => vec![given],
    }
}

/// All repositories with binary packages of Debian itself, in the order in which APT reads them.
fn read_sources(etc: &Path) -> Vec<AptSource> {
    let mut files = vec![etc.join("sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    parts.sort();
    files.extend(parts);
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = input::read_text(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(stanzas(&text)),
            _ => {}
        }
    }
    sources
}

/// A line of a `.list` file (sources.list(5), "ONE-LINE-STYLE FORMAT").
fn one_line(line: &str) -> Option<AptSource> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let address = words.next()?;
    let suite = words.next()?;
    let components: Vec<&str> = words.collect();
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="))
        .unwrap_or("");
    source(&[address], &[suite], &components, signed_by)
        .into_iter()
        .next()
}

/// The stanzas of a `.sources` file (sources.list(5), "DEB822-STYLE FORMAT").
fn stanzas(text: &str) -> Vec<AptSource> {
    let without_comments: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    let Ok(paragraphs) = parse_borrowed(&without_comments) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for paragraph in &paragraphs {
        let text = |name: &str| {
            paragraph
                .iter()
                .find(|field| field.name().eq_ignore_ascii_case(name))
                .map(|field| field.join())
                .unwrap_or_default()
        };
        let (types, addresses, suites) = (text("Types"), text("URIs"), text("Suites"));
        let (components, signed_by) = (text("Components"), text("Signed-By"));
        if types.split_whitespace().any(|kind| kind == "deb")
            && !matches!(text("Enabled").trim(), "no" | "false" | "0" | "off")
        {
            found.extend(source(
                &addresses.split_whitespace().collect::<Vec<_>>(),
                &suites.split_whitespace().collect::<Vec<_>>(),
                &components.split_whitespace().collect::<Vec<_>>(),
                &signed_by,
            ));
        }
    }
    found
}

/// Whether an APT source is Debian's: it has Debian's suite names and the component `main`.
fn source(
    addresses: &[&str],
    suites: &[&str],
    components: &[&str],
    signed_by: &str,
) -> Vec<AptSource> {
    let suites: Vec<String> = suites
        .iter()
        .filter(|suite| is_debian_suite(suite))
        .map(ToString::to_string)
        .collect();
    if suites.is_empty() || !components.contains(&"main") {
        return Vec::new();
    }
    addresses
        .iter()
        .filter(|address| {
            ["http://", "https://", "file://"]
                .iter()
                .any(|scheme| address.starts_with(scheme))
        })
        .map(|address| AptSource {
            address: address.to_string(),
            suites: suites.clone(),
            signed_by_debian: signed_by.contains("debian-archive"),
        })
        .collect()
}

fn is_debian_suite(suite: &str) -> bool {
    const RELEASES: [&str; 14] = [
        "buster",
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
        "experimental",
        "rc-buggy",
    ];
    const POCKETS: [&str; 6] = [
        "-updates",
        "-security",
        "-backports",
        "-backports-sloppy",
        "-proposed-updates",
        "-debug",
    ];
    let release = POCKETS
        .iter()
        .find_map(|pocket| suite.strip_suffix(pocket))
        .unwrap_or(suite);
    RELEASES.contains(&release)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(list: &str, deb822: &str) -> Mirrors {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(etc.path().join("sources.list"), list).unwrap();
        fs::write(parts.join("debian.sources"), deb822).unwrap();
        fs::write(
            parts.join("old.save"),
            "deb http://wrong.example/debian trixie main",
        )
        .unwrap();
        Mirrors {
            sources: read_sources(etc.path()),
            ..Mirrors::default()
        }
    }

    #[test]
    fn both_forms_of_apt_sources_are_read() {
        let list = "# deb http://comment.example/debian trixie main\n\
            deb-src http://source.example/debian trixie main\n\
            deb https://other.example/tool trixie main # vendor\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://one.example/debian/ bookworm main contrib\n\
            deb http://sec.example/debian-security bookworm-security main\n";
        let from_list = mirrors(list, "");
        assert_eq!(
            from_list.of_suite("trixie").unwrap(),
            "http://one.example/debian"
        );
        assert_eq!(
            from_list.of_suite("trixie-security").unwrap(),
            "http://sec.example/debian-security"
        );
        let deb822 = "# a comment\nTypes: deb deb-src\n# another\nURIs: http://two.example/debian\nSuites: trixie\n trixie-updates\n\
            Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off.example/debian-security\nSuites: trixie-security\nComponents: main\n\n\
            Types: deb\nURIs: http://vendor.example/node\nSuites: nodistro\nComponents: main\n";
        let from_deb822 = mirrors("", deb822);
        assert_eq!(
            from_deb822.of_suite("bookworm").unwrap(),
            "http://two.example/debian"
        );
        let error = from_deb822.of_suite("trixie-security").unwrap_err();
        assert_eq!(crate::error::class_of(&error), crate::error::Class::Host);
        assert!(
            crate::error::help_of(&error)
                .unwrap()
                .contains("HEARTH_MIRROR_SECURITY")
        );
    }

    #[test]
    fn what_is_given_counts_before_the_hosts_sources() {
        let mut mirrors = mirrors("deb http://one.example/debian trixie main\n", "");
        mirrors.main = Some("file:///srv/mirror/".into());
        assert_eq!(mirrors.of_suite("trixie").unwrap(), "file:///srv/mirror");
        mirrors.main =
            Some("http://a.example/debian/  http://b.example/d http://a.example/debian".into());
        assert_eq!(
            mirrors.all_of_suite("trixie").unwrap(),
            ["http://a.example/debian", "http://b.example/d"]
        );
        assert!(mirrors.of_suite("trixie-security").is_err());
    }
}
