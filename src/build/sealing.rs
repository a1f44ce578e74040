//! Owns the seals of stages: what a stage's tree was when it was made, kept beside it and marked with the user's key, and
//! whether it still is that. Never decides what is done with a stage that is not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::inventory::{Inventory, difference};
use crate::output::write_atomically;
use crate::progress::{NoProgress, Progress};
use crate::sandbox::{Namespaces, hand_over, steps};
use crate::seal::Key;

steps! {
    TAKE_SEALS = "seal": take, Vec<TakeInput> => Vec<Taken>;
    CHECK = "check": check, Vec<(PathBuf, Seal)> => Vec<Finding>;
    STAMP = "stamp": stamp, Vec<PathBuf> => Vec<String>;
}

/// The seal in a stage's directory. It is locked until it is written.
pub const SEAL: &str = "seal";
/// The list that the seal is of.
const LIST: &str = "seal.list";
/// What of a stage's directory is not of its tree. The other one is the store's.
const NOT_SEALED: [&str; 3] = [SEAL, LIST, UNSYNCED];
/// The file in a stage's directory with the boot id of the host that made it, until the stage is
/// known to be synced.
pub const UNSYNCED: &str = "unsynced";

/// What a stage was when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// See [`Inventory::stamp`].
    stamp: String,
    /// SHA-256 of [`Inventory::list`], in hex.
    list: String,
    /// By the user's key, of the stage's digest and the above.
    mark: String,
}

impl Seal {
    fn new(taken: Taken, digest: &str, key: &Key) -> Self {
        let mark = key.mark(&[digest, &taken.stamp, &taken.list]);
        Seal {
            stamp: taken.stamp,
            list: taken.list,
            mark,
        }
    }

    /// The seal of a finished stage; waits for a process that is sealing it. `None` if it has none that this user
    /// has made for it.
    pub fn of(stage: &Path, digest: &str, key: &Key) -> Option<Self> {
        let file = File::open(stage.join(SEAL)).ok()?;
        let mut file = Flock::lock(file, FlockArg::LockShared).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let seal: Seal = serde_json::from_str(&text).ok()?;
        key.has_marked(&[digest, &seal.stamp, &seal.list], &seal.mark)
            .then_some(seal)
    }

    /// The same with another stamp, written into the stage.
    fn stamped(self, stage: &Path, digest: &str, key: &Key, stamp: String) -> Result<Self> {
        let list = self.list;
        let seal = Seal::new(Taken { stamp, list }, digest, key);
        write_atomically(&stage.join(SEAL), &serde_json::to_vec(&seal)?)?;
        Ok(seal)
    }
}

/// The right and the duty to seal a stage, which others wait for.
#[derive(Debug)]
pub struct Unsealed(Flock<File>);

impl Unsealed {
    /// For a stage that is being made in this directory.
    ///
    /// # Errors
    /// If its seal cannot be written there.
    pub fn begin(stage: &Path) -> Result<Self> {
        let path = stage.join(SEAL);
        let failed = || format!("cannot write {}", path.display());
        let file = File::create(&path).with_context(failed)?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Unsealed)
            .map_err(|(_, errno)| std::io::Error::from(errno))
            .with_context(failed)
    }
}

/// What is found of a stage that has a seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    Intact,
    /// It was copied or linked, and is the same; the new stamp.
    Touched(String),
    /// In what it differs.
    Changed(String),
}

/// The seals that one build makes, and those that it looks at. Dropping it makes those that are missing.
pub struct Seals {
    key: Key,
    pending: Vec<Pending>,
    running: Vec<JoinHandle<Result<()>>>,
}

/// A stage that is to be sealed.
struct Pending {
    unsealed: Unsealed,
    digest: String,
    input: TakeInput,
}

impl Seals {
    /// None yet.
    pub fn new() -> Self {
        Seals {
            key: Key::of_user(),
            pending: Vec::new(),
            running: Vec::new(),
        }
    }

    /// What is wrong with each of these finished stages, by directory and digest, that is not what it was made as. All are
    /// looked at together: that is quicker than one after the other.
    ///
    /// # Errors
    /// If the namespaces cannot be had.
    pub fn faults(&self, stages: &[(PathBuf, String)]) -> Result<Vec<Option<String>>> {
        let seals: Vec<Option<Seal>> = stages
            .iter()
            .map(|(stage, digest)| Seal::of(stage, digest, &self.key))
            .collect();
        let suspects = stages
            .iter()
            .zip(&seals)
            .filter_map(|((stage, _), seal)| Some((stage.clone(), seal.clone()?)))
            .collect();
        let mut findings = find(&suspects)?.into_iter();
        let mut fault = |((stage, digest), seal): (&(PathBuf, String), Option<Seal>)| {
            let Some(seal) = seal else {
                let fault = "what the cache has of it was not sealed by this user's hearth, or its making was interrupted";
                return Ok(Some(fault.into()));
            };
            match findings.next() {
                Some(Finding::Intact) => Ok(None),
                Some(Finding::Touched(stamp)) => {
                    seal.stamped(stage, digest, &self.key, stamp)?;
                    Ok(None)
                }
                Some(Finding::Changed(what)) => Ok(Some(format!(
                    "what the cache had of it was changed by somebody: {what}"
                ))),
                None => Ok(Some("what the cache has of it was not checked".into())),
            }
        };
        stages.iter().zip(seals).map(&mut fault).collect()
    }

    /// Takes on a stage that is in its place now. `known` are contents, by path, whose SHA-256 need not be found again.
    pub fn add(
        &mut self,
        unsealed: Unsealed,
        stage: &Path,
        digest: &str,
        known: BTreeMap<PathBuf, String>,
    ) {
        self.pending.push(Pending {
            unsealed,
            digest: digest.to_string(),
            input: TakeInput {
                directory: stage.to_path_buf(),
                known,
            },
        });
    }

    /// Seals what was taken on, beside whatever comes next.
    pub fn begin(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        let key = self.key.clone();
        self.running.push(thread::spawn(move || {
            let (inputs, rest): (Vec<TakeInput>, Vec<_>) = pending
                .into_iter()
                .map(|one| (one.input, (one.unsealed, one.digest)))
                .unzip();
            let taken = Namespaces::new().step(&TAKE_SEALS, &inputs, &NoProgress)?;
            for ((mut unsealed, digest), taken) in rest.into_iter().zip(taken) {
                let seal = Seal::new(taken, &digest, &key);
                unsealed
                    .0
                    .write_all(&serde_json::to_vec(&seal)?)
                    .context("cannot write the seal of a stage")?;
            }
            Ok(())
        }));
    }

    /// Seals what was taken on, and gives other stages, by directory and digest, new stamps: they were checked by this build,
    /// and their files have been linked since.
    ///
    /// # Errors
    /// If the namespaces cannot be had.
    pub fn finish(&mut self, linked: &[(PathBuf, String)]) -> Result<()> {
        let is_pending = |digest: &String| self.pending.iter().any(|one| one.digest == *digest);
        let checked: Vec<_> = linked
            .iter()
            .filter(|(_, digest)| !is_pending(digest))
            .collect();
        self.begin();
        if !checked.is_empty() {
            let directories = checked.iter().map(|(stage, _)| stage.clone()).collect();
            let stamps = Namespaces::new().step(&STAMP, &directories, &NoProgress)?;
            for ((stage, digest), stamp) in checked.into_iter().zip(stamps) {
                if let Some(seal) = Seal::of(stage, digest, &self.key) {
                    seal.stamped(stage, digest, &self.key, stamp)?;
                }
            }
        }
        self.wait();
        Ok(())
    }

    /// Waits until what was made is sealed. What could not be is made again by the next build.
    fn wait(&mut self) {
        for thread in self.running.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                log::info!("a stage was not sealed: {error:#}");
            }
        }
    }
}

impl Drop for Seals {
    fn drop(&mut self) {
        self.begin();
        self.wait();
    }
}

fn find(suspects: &Vec<(PathBuf, Seal)>) -> Result<Vec<Finding>> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    Namespaces::new().step(&CHECK, suspects, &NoProgress)
}

/// What the step `seal` needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeInput {
    directory: PathBuf,
    known: BTreeMap<PathBuf, String>,
}

/// What the step `seal` has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Taken {
    stamp: String,
    list: String,
}

/// Lists the trees of stages and writes the lists beside them. Runs inside.
fn take(inputs: Vec<TakeInput>, _progress: &dyn Progress) -> Result<Vec<Taken>> {
    inputs.iter().map(take_one).collect()
}

fn take_one(input: &TakeInput) -> Result<Taken> {
    let tree = Inventory::read(&input.directory, &NOT_SEALED)?;
    let list = tree.list(&input.known)?;
    let path = input.directory.join(LIST);
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::create(&path).with_context(failed)?;
    file.write_all(list.as_bytes()).with_context(failed)?;
    hand_over(&file)?;
    Ok(Taken {
        stamp: tree.stamp(),
        list: hash(&list),
    })
}

/// Compares stages with their seals: by the stamp, and where that differs by content. Runs inside.
fn check(stages: Vec<(PathBuf, Seal)>, _progress: &dyn Progress) -> Result<Vec<Finding>> {
    let findings = thread::scope(|scope| {
        let threads: Vec<_> = stages
            .iter()
            .map(|(stage, seal)| scope.spawn(|| compare(stage, seal)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Finding>| {
            thread.join().expect("looking at files does not panic")
        };
        threads.into_iter().map(join).collect()
    });
    Ok(findings)
}

/// The stamps of stages. Runs inside.
fn stamp(stages: Vec<PathBuf>, _progress: &dyn Progress) -> Result<Vec<String>> {
    stages
        .iter()
        .map(|stage| Ok(Inventory::read(stage, &NOT_SEALED)?.stamp()))
        .collect()
}

fn compare(stage: &Path, seal: &Seal) -> Finding {
    let compare = || -> Result<Finding> {
        let tree = Inventory::read(stage, &NOT_SEALED)?;
        let stamp = tree.stamp();
        if stamp == seal.stamp {
            return Ok(Finding::Intact);
        }
        let now = tree.list(&BTreeMap::new())?;
        if hash(&now) == seal.list {
            return Ok(Finding::Touched(stamp));
        }
        let before = fs::read_to_string(stage.join(LIST)).unwrap_or_default();
        let what = match hash(&before) == seal.list {
            true => difference(&before, &now),
            false => None,
        };
        Ok(Finding::Changed(what.unwrap_or_else(|| {
            "its content is not that of its seal".into()
        })))
    };
    compare().unwrap_or_else(|error| Finding::Changed(format!("{error:#}")))
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
