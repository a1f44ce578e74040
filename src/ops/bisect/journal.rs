//! Owns the file that a bisection's tries are kept in, so that it goes on after it was stopped in any way.
//! Never decides what to try.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::search::Finding;
use crate::error::Fault;
use crate::input;
use crate::job::Judgement;
use crate::output::write_atomically;

const FILE: &str = "bisect.json";
/// Locked by the process that is at it.
const LOCK: &str = "lock";
const VERSION: u32 = 1;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// The commit, or the number of the steps that were taken over.
    pub candidate: String,
    /// For people: what is new in it.
    pub what: String,
    pub finding: Finding,
    /// Why it is not good; empty otherwise.
    pub why: String,
    /// Of building and testing it.
    pub seconds: f64,
    /// Its report and logs.
    pub directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Format of this file; 1.
    version: u32,
    /// SHA-256 in hex of all that the bisection is about.
    subject: String,
    tries: Vec<Try>,
}

/// The tries of one bisection, in a directory that no other process has meanwhile.
#[derive(Debug)]
pub struct Journal {
    pub directory: PathBuf,
    content: Content,
    _ours: Flock<File>,
}

/// SHA-256 in hex of the parts, each of which counts by itself.
pub fn subject<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(Sha256::digest(part));
    }
    hex::encode(hash.finalize())
}

impl Journal {
    /// Opens the journal of a bisection, or begins one: in `given`, else in a directory of `out/bisect` that is named
    /// after its kind and subject. `restart` forgets what was tried.
    ///
    /// # Errors
    /// If the directory is another bisection's, or another process has it, or it cannot be written to.
    pub fn open(given: Option<&Path>, kind: &str, subject: &str, restart: bool) -> Result<Self> {
        let directory = given.map_or_else(
            || Path::new("out/bisect").join(format!("{kind}-{}", &subject[..12])),
            Path::to_path_buf,
        );
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        refuse_others(&directory)?;
        let ours = reserve(&directory)?;
        let path = directory.join(FILE);
        let content = match input::read_text(&path) {
            Ok(text) if !restart => parse(&path, &text)?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            _ => Content {
                version: VERSION,
                subject: subject.into(),
                tries: Vec::new(),
            },
        };
        if content.subject != subject {
            return Err(
                Fault::input(format!("{} holds another bisection", directory.display()))
                    .remedy(
                        "name another directory with -o, or begin anew in this one with --restart",
                    )
                    .into(),
            );
        }
        let journal = Journal {
            directory,
            content,
            _ours: ours,
        };
        journal.save()?;
        Ok(journal)
    }

    pub fn tries(&self) -> &[Try] {
        &self.content.tries
    }

    /// The latest finding about a candidate.
    pub fn finding(&self, candidate: &str) -> Option<Finding> {
        let mut tries = self.content.tries.iter().rev();
        tries
            .find(|tried| tried.candidate == candidate)
            .map(|tried| tried.finding)
    }

    /// The directory of the next try, empty.
    ///
    /// # Errors
    /// If it cannot be made, or what a try that was stopped has left cannot be removed.
    pub fn next_directory(&self) -> Result<PathBuf> {
        let name = format!("{:02}", self.content.tries.len() + 1);
        let directory = self.directory.join(name);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove {}", directory.display()));
            }
            _ => {}
        }
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    }

    /// Notes a try; it is on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, tried: Try) -> Result<()> {
        self.content.tries.push(tried);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.content)? + "\n";
        write_atomically(&self.directory.join(FILE), text.as_bytes())
    }
}

/// What tries leave is removed when they are made again: a directory with anything else in it is not taken.
fn refuse_others(directory: &Path) -> Result<()> {
    let failed = || format!("cannot read {}", directory.display());
    let mut entries = fs::read_dir(directory).with_context(failed)?;
    let is_empty = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK));
    if is_empty || directory.join(FILE).exists() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "{} is not empty, and no bisection is in it",
        directory.display()
    ))
    .remedy("name a directory that is not there yet with -o")
    .into())
}

fn reserve(directory: &Path) -> Result<Flock<File>> {
    let path = directory.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Fault::infrastructure(format!(
            "another process is at the bisection in {}",
            directory.display()
        ))
        .remedy("wait for it, or stop it; this command then goes on where it was")
        .into()
    })
}

fn parse(path: &Path, text: &str) -> Result<Content> {
    let remedy = "begin the bisection anew with --restart";
    let content: Content = serde_json::from_str(text).map_err(|error| {
        let place = path.display();
        Fault::input(format!("{place} is not a bisection's journal: {error}")).remedy(remedy)
    })?;
    if content.version != VERSION {
        return Err(Fault::input(format!(
            "{} is of version {}, and this hearth knows version {VERSION}",
            path.display(),
            content.version
        ))
        .remedy(remedy)
        .into());
    }
    Ok(content)
}

/// What a judgement is for a search, with its reason.
///
/// # Errors
/// If it says that a bisection has to stop.
pub(super) fn finding_of(judgement: Judgement) -> Result<(Finding, String)> {
    match judgement {
        Judgement::Good => Ok((Finding::Good, String::new())),
        Judgement::Bad(why) => Ok((Finding::Bad, why)),
        Judgement::Untestable(why) => Ok((Finding::Skip, why)),
        Judgement::Stop(why, reason) => Err(Fault::new(
            reason.class(),
            format!("the bisection stopped: {why}"),
        )
        .remedy("the same command goes on where this one was")
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::class_of;

    fn tried(candidate: &str, finding: Finding) -> Try {
        Try {
            candidate: candidate.into(),
            what: String::new(),
            finding,
            why: String::new(),
            seconds: 1.0,
            directory: PathBuf::new(),
        }
    }

    #[test]
    fn what_was_tried_is_there_after_the_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let open = |subject, restart| Journal::open(Some(dir.path()), "packages", subject, restart);
        let mut journal = open("a", false).unwrap();
        let locked = open("a", false).unwrap_err();
        assert_eq!(class_of(&locked), crate::error::Class::Infrastructure);
        journal.add(tried("1", Finding::Good)).unwrap();
        journal.add(tried("2", Finding::Skip)).unwrap();
        drop(journal);
        let journal = open("a", false).unwrap();
        assert_eq!(journal.finding("2"), Some(Finding::Skip));
        assert_eq!(journal.tries().len(), 2);
        // A try that was stopped has left something.
        let next = journal.next_directory().unwrap();
        fs::write(next.join("x"), "").unwrap();
        assert!(!journal.next_directory().unwrap().join("x").exists());
        drop(journal);
        let other = open("b", false).unwrap_err();
        assert!(other.to_string().contains("another bisection"), "{other}");
        let foreign = tempfile::tempdir().unwrap();
        fs::create_dir(foreign.path().join("01")).unwrap();
        let refused = Journal::open(Some(foreign.path()), "git", "a", true).unwrap_err();
        assert!(refused.to_string().contains("not empty"), "{refused}");
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(
            open("a", false)
                .unwrap_err()
                .to_string()
                .contains("journal")
        );
        assert!(open("b", true).unwrap().tries().is_empty());
    }

    #[test]
    fn a_subject_tells_its_parts_apart() {
        let of = |parts: &[&str]| subject(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
