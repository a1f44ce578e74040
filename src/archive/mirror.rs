//! Owns where the mirrors are: options, environment, the host's APT sources. Never writes an address anywhere.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use deb822_fast::borrowed::parse_borrowed;

use crate::error::Fault;
use crate::input;

/// The addresses to fetch from, in the order in which they count: given by the user, `HEARTH_MIRROR` and
/// `HEARTH_MIRROR_SECURITY`, the host's APT sources.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    main: Option<String>,
    security: Option<String>,
    sources: Vec<AptSource>,
}

/// One repository of the host's APT.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AptSource {
    address: String,
    suites: Vec<String>,
    /// Whether Debian's own keyring signs for it.
    signed_by_debian: bool,
}

impl Mirrors {
    /// `main` and `security` are what the user gave as options. Reads the environment and the host's
    /// APT sources for what is not given.
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

    /// The base address for a suite, without a trailing slash; `dists/` and `pool/` are below it.
    ///
    /// # Errors
    /// If nothing says where it is; the host's fault.
    pub fn of_suite(&self, suite: &str) -> Result<String> {
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
        given
            .as_deref()
            .or_else(|| self.of_host(suite, security))
            .map(|address| address.trim_end_matches('/').to_string())
            .ok_or_else(|| {
                Fault::host(format!(
                    "no mirror is known for the suite {suite}: this host's APT sources name none"
                ))
                .remedy(format!(
                    "give its address with {option} URL or in {variable}"
                ))
                .into()
            })
    }

    /// The likeliest of the host's repositories: one that has the very suite, else one that Debian's
    /// keyring signs, else one whose path looks like Debian's.
    fn of_host(&self, suite: &str, security: bool) -> Option<&str> {
        self.sources
            .iter()
            .filter(|source| {
                source
                    .suites
                    .iter()
                    .any(|suite| suite.ends_with("-security") == security)
            })
            .rev()
            .max_by_key(|source| {
                let last = source.address.trim_end_matches('/').rsplit('/').next();
                (
                    last.is_some_and(|last| last.starts_with("debian")),
                    source.signed_by_debian,
                    source.suites.iter().any(|s| s == suite),
                )
            })
            .map(|source| source.address.as_str())
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

/// What of an APT source is Debian's: its suites are named so, and it has `main`.
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
        assert!(mirrors.of_suite("trixie-security").is_err());
    }
}
