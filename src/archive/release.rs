//! Owns release files: what a suite consists of, who signed that, and until when it counts.
//! Never reads what its signature does not cover.

use std::collections::HashMap;

use anyhow::Result;
use deb822_fast::borrowed::parse_borrowed;
use sha2::{Digest, Sha256};

use super::fetch::{Fetcher, explain};
use super::signature::{Keyring, SignatureError};
use crate::clock::parse_date;
use crate::error::Fault;

/// No InRelease file comes near this, in bytes.
const LARGEST: usize = 16 << 20;

/// How far a release may be ahead of this host's clock, in seconds.
const CLOCKS_DIFFER: u64 = 300;

/// How the age of a release is judged.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Seconds since 1970.
    pub now: u64,
    /// Take releases although they, their signatures or the keys have expired.
    pub allow_expired: bool,
}

/// A suite's release file (Debian's repository format, "Release files"), its signature checked.
#[derive(Clone, Debug)]
pub struct Release {
    /// As the recipe calls it, which is the directory below `dists/`.
    pub suite: String,
    /// The mirror's base address that it came from.
    pub mirror: String,
    /// As in the file.
    pub date: String,
    /// SHA-256 of the InRelease file, in hex.
    pub sha256: String,
    /// Whether indices are also found by their hash.
    pub by_hash: bool,
    /// Whether its packages are taken only where no other suite has the package, as for backports.
    pub not_automatic: bool,
    /// Whether packages of architecture `all` are listed apart from those of the architectures.
    pub separate_all: bool,
    /// `Suite` and `Codename`.
    names: Vec<String>,
    valid_until: Option<String>,
    components: Vec<String>,
    architectures: Vec<String>,
    files: HashMap<String, ListedFile>,
}

/// A file that a release lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    pub size: u64,
    pub sha256: String,
}

impl Release {
    /// Fetches a suite's release file and checks its signature, name and age.
    ///
    /// # Errors
    /// If any of these is wrong; the message names the suite, and the remedy says how to go on.
    pub fn fetch(
        fetcher: &Fetcher,
        suite: &str,
        keyring: &Keyring,
        policy: Policy,
    ) -> Result<Self> {
        let mirror = fetcher.mirrors.of_suite(suite)?;
        let address = format!("{mirror}/dists/{suite}/InRelease");
        let message = fetcher
            .small(&address, LARGEST)
            .map_err(|error| explain(error, &format!("cannot fetch the suite {suite}")))?;
        let signed = keyring
            .verify(&message, policy.now, policy.allow_expired)
            .map_err(|error| distrust(suite, &address, error))?;
        log::debug!("{address} is signed by {}", signed.signers.join(" and "));
        let release = Release::parse(suite, &mirror, &signed.text, &message)?;
        release.check(policy)?;
        Ok(release)
    }

    /// Reads the text that a signature covers; `message` is the whole InRelease file.
    ///
    /// # Errors
    /// If it is not one paragraph, or a hash or size in it is none.
    pub fn parse(suite: &str, mirror: &str, text: &str, message: &[u8]) -> Result<Self> {
        let wrong = |what: &str| malformed(suite, what);
        let paragraphs = parse_borrowed(text).map_err(|error| wrong(&error.to_string()))?;
        let [fields] = paragraphs.as_slice() else {
            return Err(wrong("it is not one paragraph"));
        };
        let words = |name: &str| -> Vec<String> {
            fields
                .get_single(name)
                .unwrap_or("")
                .split_whitespace()
                .map(ToString::to_string)
                .collect()
        };
        let yes = |name: &str| fields.get_single(name) == Some("yes");
        let architectures = words("Architectures");
        let mut files = HashMap::new();
        for line in fields
            .get("SHA256")
            .ok_or_else(|| wrong("it has no SHA256 field"))?
        {
            let mut parts = line.split_whitespace();
            let (Some(sha256), Some(size), Some(path)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if sha256.len() != 64 || !sha256.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(wrong(&format!("the hash of {path} is none")));
            }
            files.insert(
                path.to_string(),
                ListedFile {
                    size: size
                        .parse()
                        .map_err(|_| wrong(&format!("the size of {path} is none")))?,
                    sha256: sha256.to_ascii_lowercase(),
                },
            );
        }
        Ok(Release {
            suite: suite.into(),
            mirror: mirror.into(),
            date: fields.get_single("Date").unwrap_or_default().trim().into(),
            sha256: hex::encode(Sha256::digest(message)),
            by_hash: yes("Acquire-By-Hash"),
            not_automatic: yes("NotAutomatic"),
            separate_all: architectures.iter().any(|arch| arch == "all")
                && fields.get_single("No-Support-for-Architecture-all") != Some("Packages"),
            names: [words("Suite"), words("Codename")].concat(),
            valid_until: fields.get_single("Valid-Until").map(Into::into),
            // Security suites name theirs `updates/main`, though their indices are in `main/`; APT drops the
            // part before the slash too.
            components: words("Components")
                .iter()
                .map(|component| match component.rsplit_once('/') {
                    Some((_, last)) => last.to_string(),
                    None => component.clone(),
                })
                .collect(),
            architectures,
            files,
        })
    }

    /// Whether it is the suite that was asked for, and current.
    ///
    /// # Errors
    /// If it is another suite's, of the future, or has expired.
    pub fn check(&self, policy: Policy) -> Result<()> {
        if !self.names.contains(&self.suite) {
            return Err(Fault::infrastructure(format!(
                "the mirror has another suite in the place of {}: {}",
                self.suite,
                self.names.join(", ")
            ))
            .remedy("try another mirror with --mirror")
            .into());
        }
        let date =
            parse_date(&self.date).ok_or_else(|| malformed(&self.suite, "its date is none"))?;
        if date > policy.now + CLOCKS_DIFFER {
            return Err(Fault::infrastructure(format!(
                "the release of {} is of the future: {}",
                self.suite, self.date
            ))
            .remedy("this host's clock is wrong, or the mirror is not to be trusted: set the clock, or use another mirror with --mirror")
            .into());
        }
        let Some(until) = &self.valid_until else {
            return Ok(());
        };
        let over =
            parse_date(until).ok_or_else(|| malformed(&self.suite, "Valid-Until is no date"))?;
        if over < policy.now && !policy.allow_expired {
            return Err(expired(&self.suite, &format!("it was valid until {until}")));
        }
        Ok(())
    }

    /// The file at a path below the suite's directory, if the release lists it.
    pub fn file(&self, path: &str) -> Option<&ListedFile> {
        self.files.get(path)
    }

    /// # Errors
    /// If the suite lacks the component or the architecture; says what it has.
    pub fn require(&self, component: &str, arch: &str) -> Result<()> {
        let lacks = |what: &str, has: &[String]| {
            Fault::input(format!("the suite {} has no {what}", self.suite))
                .remedy(format!("it has {}", has.join(", ")))
                .into()
        };
        if !self.components.iter().any(|c| c == component) {
            return Err(lacks(&format!("component {component}"), &self.components));
        }
        if !self.architectures.iter().any(|a| a == arch) {
            return Err(lacks(&format!("packages for {arch}"), &self.architectures));
        }
        Ok(())
    }
}

fn malformed(suite: &str, what: &str) -> anyhow::Error {
    Fault::infrastructure(format!("the release file of {suite} is malformed: {what}"))
        .remedy("try another mirror with --mirror")
        .into()
}

fn expired(suite: &str, why: &str) -> anyhow::Error {
    Fault::infrastructure(format!("the release of {suite} has expired: {why}"))
        .remedy(format!(
            "the mirror is stale, or this host's clock is wrong; use another mirror, leave {suite} out \
             of the recipe's suites, or accept old releases with --allow-expired"
        ))
        .into()
}

fn distrust(suite: &str, address: &str, error: SignatureError) -> anyhow::Error {
    if let SignatureError::Expired { .. } = error {
        return expired(suite, &error.to_string());
    }
    let remedy = match error {
        SignatureError::UnknownKey(_) | SignatureError::Unfit { .. } => format!(
            "a newer debian-archive-keyring may have the key, or `archive.keyring` in the recipe names another \
             keyring; or leave {suite} out of the recipe's suites"
        ),
        _ => format!(
            "somebody between here and the archive changes files, or a proxy does; use another mirror, or \
             leave {suite} out of the recipe's suites"
        ),
    };
    Fault::infrastructure(format!(
        "the release file of {suite} is not to be trusted: {error} ({address})"
    ))
    .remedy(remedy)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_security_suite_has_its_components_under_the_last_part_of_their_names() {
        let text = "Suite: stable-security\nCodename: trixie-security\n\
                    Date: Sat, 12 Sep 2026 07:55:41 UTC\nArchitectures: all armhf\n\
                    Components: updates/main updates/contrib\nSHA256:\n";
        let release = Release::parse("trixie-security", "file:///mirror", text, b"").unwrap();
        release.require("main", "armhf").unwrap();
        assert!(release.require("updates/main", "armhf").is_err());
    }
}
