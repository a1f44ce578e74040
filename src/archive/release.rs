//! Owns release files: what a suite consists of, who signed it, and until when it is valid.
//! Never reads what its signature does not cover.

use std::collections::HashMap;

use anyhow::Result;
use deb822_fast::borrowed::parse_borrowed;
use sha2::{Digest, Sha256};

use super::fetch::{FetchError, Fetcher, explain};
use super::signature::{Keyring, SignatureError};
use crate::clock::parse_date;
use crate::error::Fault;
use crate::recipe::LockedRelease;

/// Limit on an InRelease file, in bytes.
const LARGEST: usize = 16 << 20;

/// How far a release's date may be ahead of this host's clock, in seconds.
const CLOCKS_DIFFER: u64 = 300;

const DAY: u64 = 24 * 3600;

/// How the age of a release is checked.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Seconds since 1970.
    pub now: u64,
    /// Accept releases, signatures and keys that have expired.
    pub allow_expired: bool,
}

/// A suite's release file (Debian's repository format, "Release files"), its signature checked.
#[derive(Clone, Debug)]
pub struct Release {
    /// The recipe's name of the suite, which is the directory below `dists/`.
    pub suite: String,
    /// Base addresses of the suite's mirrors; it came from the first.
    pub mirrors: Vec<String>,
    /// The file's own text of the field.
    pub date: String,
    /// SHA-256 of the InRelease file, in hex.
    pub sha256: String,
    /// Whether indices can be fetched by hash (`Acquire-By-Hash`).
    pub by_hash: bool,
    /// Whether its packages are candidates only if no other suite has the package, as for backports
    /// (`NotAutomatic`).
    pub not_automatic: bool,
    /// Whether packages of architecture `all` have indices of their own
    /// (`No-Support-for-Architecture-all`).
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
    /// If any of these is wrong; the message names the suite, and there is a remedy.
    pub fn fetch(
        fetcher: &Fetcher,
        suite: &str,
        keyring: &Keyring,
        policy: Policy,
    ) -> Result<Self> {
        let (mirrors, message) = fetch_message(fetcher, suite)?;
        let address = format!("{}/dists/{suite}/InRelease", mirrors[0]);
        let signed = keyring
            .verify(&message, policy.now, policy.allow_expired)
            .map_err(|error| distrust(suite, &address, error))?;
        log::debug!("{address} is signed by {}", signed.signers.join(" and "));
        let release = Release::parse(suite, mirrors, &signed.text, &message)?;
        release.check(policy)?;
        Ok(release)
    }

    /// Reads the text that a signature covers; `message` is the whole InRelease file.
    ///
    /// # Errors
    /// If it is not one paragraph, or a hash or size in it is none.
    pub fn parse(suite: &str, mirrors: Vec<String>, text: &str, message: &[u8]) -> Result<Self> {
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
            mirrors,
            date: fields.get_single("Date").unwrap_or_default().trim().into(),
            sha256: hex::encode(Sha256::digest(message)),
            by_hash: yes("Acquire-By-Hash"),
            not_automatic: yes("NotAutomatic"),
            separate_all: architectures.iter().any(|arch| arch == "all")
                && fields.get_single("No-Support-for-Architecture-all") != Some("Packages"),
            names: [words("Suite"), words("Codename")].concat(),
            valid_until: fields.get_single("Valid-Until").map(Into::into),
            // Security suites list `updates/main`, though the directory is `main/`; like APT, drop
            // the part before the slash.
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

    /// Checks that it is the requested suite and has not expired.
    ///
    /// # Errors
    /// If it is of another suite or of the future, or has expired.
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

    /// Refuses a release that is older than the one that a lock was made from: its signature is good, but it brings
    /// back packages with known holes. A lock without a date refuses nothing. `allowed` only warns.
    pub fn refuse_rollback(&self, seen: &[LockedRelease], allowed: bool) -> Result<()> {
        let Some(before) = seen.iter().find(|before| before.suite == self.suite) else {
            return Ok(());
        };
        if parse_date(&self.date) >= parse_date(&before.date) {
            return Ok(());
        }
        let sentence = format!(
            "the mirror's release of {} is of {}, older than that of {} which the lock was made from",
            self.suite, self.date, before.date
        );
        if allowed {
            log::warn!("{sentence}");
            return Ok(());
        }
        Err(Fault::infrastructure(sentence)
            .remedy(
                "the mirror is stale, or hides updates: use another mirror with --mirror, or go back to the older \
                 release with `hearth lock RECIPE --allow-rollback`",
            )
            .into())
    }

    /// Why a release may be older than it should be without saying so: it is over `days` old, and says nowhere
    /// until when it counts. 0 days stand for any age.
    pub fn staleness(&self, days: u32, policy: Policy) -> Option<String> {
        let age = policy.now.saturating_sub(parse_date(&self.date)?) / DAY;
        let is_stale = self.valid_until.is_none() && days > 0 && age > u64::from(days);
        is_stale.then(|| {
            format!(
                "the mirror's release of {} is {age} days old and does not say until when it counts: either nothing was \
                 published since, or the mirror is stale (`archive.warn-after-days` in the recipe is {days})",
                self.suite
            )
        })
    }

    /// The file at a path below the suite's directory, if the release lists it.
    pub fn file(&self, path: &str) -> Option<&ListedFile> {
        self.files.get(path)
    }

    /// # Errors
    /// If the suite lacks the component or the architecture; the message lists those it has.
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

/// The InRelease file from the first mirror that delivers, and the mirrors with that one first.
fn fetch_message(fetcher: &Fetcher, suite: &str) -> Result<(Vec<String>, Vec<u8>)> {
    let mirrors = fetcher.mirrors.all_of_suite(suite)?;
    let mut failure = FetchError::Offline;
    for mirror in fetcher.in_order(&mirrors) {
        let address = format!("{mirror}/dists/{suite}/InRelease");
        match fetcher.small(&address, LARGEST) {
            Ok(message) => {
                let others = mirrors.iter().filter(|other| *other != mirror);
                let mirrors = std::iter::once(mirror.to_string())
                    .chain(others.cloned())
                    .collect();
                return Ok((mirrors, message));
            }
            Err(error) if error.is_of_host() => {
                fetcher.shun(&address, &error);
                failure = error;
            }
            Err(error) => {
                failure = error;
                break;
            }
        }
    }
    Err(explain(failure, &format!("cannot fetch the suite {suite}")))
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
        let release = Release::parse("trixie-security", Vec::new(), text, b"").unwrap();
        release.require("main", "armhf").unwrap();
        assert!(release.require("updates/main", "armhf").is_err());
    }

    #[test]
    fn a_release_is_stale_if_it_is_old_and_does_not_say_until_when_it_counts() {
        let text =
            "Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n";
        let release = Release::parse("trixie", Vec::new(), text, b"").unwrap();
        let after = |days: u64| Policy {
            now: 1_789_199_741 + days * DAY,
            allow_expired: false,
        };
        assert_eq!(release.staleness(180, after(180)), None);
        assert_eq!(release.staleness(0, after(9999)), None);
        let told = release.staleness(180, after(181)).unwrap();
        assert!(told.contains("trixie is 181 days old"), "{told}");
        let limited = format!("Valid-Until: Sat, 12 Sep 2099 07:55:41 UTC\n{text}");
        let release = Release::parse("trixie", Vec::new(), &limited, b"").unwrap();
        assert_eq!(release.staleness(180, after(181)), None);
    }
}
