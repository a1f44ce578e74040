//! Owns downloads: several at a time, resumed, verified, into the cache.
//! Never uses a byte that is not what its hash says.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::cache::{Cache, Part};
use super::mirror::Mirrors;
use super::transport::{Client, Limits, TransferError, percent_encode};
use crate::error::Fault;
use crate::input;
use crate::progress::{Progress, Stage, Unit};
use crate::recipe::{Lock, LockedPackage};

/// Fetches files of the archive.
#[derive(Clone, Debug)]
pub struct Fetcher {
    pub cache: Cache,
    pub mirrors: Mirrors,
    /// Use nothing but the cache.
    pub offline: bool,
    client: Client,
}

/// A file whose content is known before it is fetched.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Bytes.
    pub size: u64,
    /// 64 lower-case hex digits.
    pub sha256: &'a str,
}

/// Why a file was not got from an address.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("{url} is {got}, but {wanted} is expected")]
    Mismatch {
        url: String,
        got: String,
        wanted: String,
    },
    #[error("it is not in the cache, and the network is not to be used")]
    Offline,
    #[error(transparent)]
    Cache(#[from] Error),
}

impl FetchError {
    /// Whether the mirror has no such file, or another one under its name.
    pub fn is_other_content(&self) -> bool {
        matches!(
            self,
            FetchError::Mismatch { .. } | FetchError::Transfer(TransferError::Missing(_))
        )
    }
}

impl Fetcher {
    pub fn new(cache: Cache, mirrors: Mirrors, limits: Limits) -> Self {
        Fetcher {
            cache,
            mirrors,
            offline: false,
            client: Client::new(limits),
        }
    }

    /// All package files of a lock, in the lock's order, as paths in the cache; local packages are
    /// looked for below `directory`, the recipe's own, and verified there.
    ///
    /// # Errors
    /// If a package vanished from the mirror, is not what the lock says, or cannot be fetched; names it.
    pub fn packages(
        &self,
        lock: &Lock,
        directory: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>> {
        let missing: Vec<&LockedPackage> = {
            let mut seen = std::collections::HashSet::new();
            lock.packages
                .iter()
                .filter(|package| !package.local && seen.insert(package.sha256.as_str()))
                .filter(|package| self.cache.get(&package.sha256, package.size).is_none())
                .collect()
        };
        if !missing.is_empty() {
            self.fetch_missing(&missing, progress)?;
        }
        lock.packages
            .iter()
            .map(|package| {
                if package.local {
                    verified_local(package, directory)
                } else {
                    Ok(self.cache.path(&package.sha256))
                }
            })
            .collect()
    }

    fn fetch_missing(&self, missing: &[&LockedPackage], progress: &dyn Progress) -> Result<()> {
        if self.offline {
            return Err(Fault::input(format!(
                "{} of the lock's packages are not in the cache, {} among them, and the network is not to be used",
                missing.len(),
                missing[0].name
            ))
            .remedy("run once without --offline")
            .into());
        }
        let total = missing.iter().map(|package| package.size).sum();
        let stage = progress.stage("fetch", Some(total), Unit::Bytes);
        self.each(missing, |package| {
            stage.message(&package.name);
            self.package(package, &*stage)
        })?;
        stage.finish(&format!(
            "{} packages, {:.1} MiB",
            missing.len(),
            total as f64 / f64::from(1 << 20)
        ));
        Ok(())
    }

    fn package(&self, package: &LockedPackage, stage: &dyn Stage) -> Result<PathBuf> {
        let address = format!(
            "{}/{}",
            self.mirrors.of_suite(&package.suite)?,
            percent_encode(&package.path)
        );
        let wanted = Wanted {
            size: package.size,
            sha256: &package.sha256,
        };
        let name = format!("{} {}", package.name, package.version);
        self.file(&[address], wanted, &|bytes| stage.advance(bytes))
            .map_err(|error| match error {
                FetchError::Transfer(TransferError::Missing(url)) => Fault::infrastructure(
                    format!("the mirror no longer has the package {name}: {url} does not exist"),
                )
                .remedy(format!(
                    "take the version that it has now: hearth lock RECIPE --update {}",
                    package.name
                ))
                .into(),
                FetchError::Mismatch { .. } => {
                    Fault::infrastructure(format!("the package {name} is not what the lock says: {error}"))
                        .remedy("try another mirror with --mirror; if all agree, somebody has replaced the package")
                        .into()
                }
                error => explain(error, &format!("cannot fetch the package {name}")),
            })
    }

    /// Runs `work` on all items, several at a time; the first failure ends the rest.
    pub(super) fn each<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<PathBuf> + Sync,
    ) -> Result<()> {
        let queue: Mutex<VecDeque<&T>> = Mutex::new(items.iter().collect());
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let worker = || {
            loop {
                let Some(item) = lock(&queue).pop_front() else {
                    return;
                };
                if let Err(error) = work(item) {
                    lock(&queue).clear();
                    lock(&failure).get_or_insert(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.client.limits().parallel.clamp(1, items.len().max(1)) {
                scope.spawn(worker);
            }
        });
        match failure
            .into_inner()
            .unwrap_or_else(|error| error.into_inner())
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// A file of known content, from the first of several addresses that has it. `advance` is told of
    /// bytes as they arrive.
    pub fn file(
        &self,
        addresses: &[String],
        wanted: Wanted<'_>,
        advance: &dyn Fn(u64),
    ) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.cache.get(wanted.sha256, wanted.size) {
            return Ok(path);
        }
        if self.offline {
            return Err(FetchError::Offline);
        }
        let Some(mut part) = self.cache.begin(wanted.sha256, wanted.size)? else {
            return Ok(self.cache.path(wanted.sha256));
        };
        let mut last = FetchError::Offline;
        for address in addresses {
            match self.complete(address, wanted, &mut part, advance) {
                Ok(()) => return Ok(part.commit()?),
                Err(error) if error.is_other_content() => last = error,
                Err(error) => return Err(error),
            }
        }
        part.discard();
        Err(last)
    }

    /// Completes what was begun, by whomever; if that turns out to be something else, once more from nothing.
    fn complete(
        &self,
        address: &str,
        wanted: Wanted<'_>,
        part: &mut Part,
        advance: &dyn Fn(u64),
    ) -> Result<(), FetchError> {
        match self.transfer(address, wanted, part, advance)? {
            Outcome::Right => Ok(()),
            Outcome::Wrong { resumed: true, .. } => {
                match self.transfer(address, wanted, part, &|_| ())? {
                    Outcome::Right => Ok(()),
                    Outcome::Wrong { got, .. } => Err(mismatch(address, got, wanted)),
                }
            }
            Outcome::Wrong { got, .. } => Err(mismatch(address, got, wanted)),
        }
    }

    fn transfer(
        &self,
        address: &str,
        wanted: Wanted<'_>,
        part: &mut Part,
        advance: &dyn Fn(u64),
    ) -> Result<Outcome, FetchError> {
        let cannot_write = |part: &Part| format!("cannot write {}", part.path().display());
        let (mut hasher, mut have) =
            hash_beginning(&mut part.file, wanted.size).with_context(|| cannot_write(part))?;
        let mut resumed = have > 0;
        advance(have);
        let mut barren = 0;
        while have < wanted.size {
            let before = have;
            match self.append(address, part, &mut hasher, &mut have, wanted.size, advance) {
                Ok(appended) => {
                    resumed &= matches!(appended, Appended::Continued);
                    break;
                }
                Err(FetchError::Transfer(error)) if error.is_transient() => {
                    barren = if have > before { 0 } else { barren + 1 };
                    if barren >= self.client.limits().attempts {
                        return Err(error.into());
                    }
                    log::info!("{error}; trying again");
                    thread::sleep(self.pause(barren));
                }
                Err(error) => return Err(error),
            }
        }
        let got = hex::encode(hasher.finalize());
        if have == wanted.size && got == wanted.sha256 {
            return Ok(Outcome::Right);
        }
        part.file.set_len(0).with_context(|| cannot_write(part))?;
        Ok(Outcome::Wrong {
            got: if have == wanted.size {
                format!("the file with SHA-256 {got}")
            } else if have < wanted.size {
                format!("{have} bytes long")
            } else {
                format!("{have} bytes or more long")
            },
            resumed,
        })
    }

    /// Appends what the address has from `have` on, up to one byte more than `size`.
    fn append(
        &self,
        address: &str,
        part: &mut Part,
        hasher: &mut Sha256,
        have: &mut u64,
        size: u64,
        advance: &dyn Fn(u64),
    ) -> Result<Appended, FetchError> {
        let mut answer = self.client.get(address, *have)?;
        let mut appended = Appended::Continued;
        let failed = format!("cannot write {}", part.path().display());
        if answer.offset != *have {
            part.file
                .set_len(0)
                .and_then(|()| part.file.rewind())
                .with_context(|| failed.clone())?;
            *hasher = Sha256::new();
            *have = 0;
            appended = Appended::Restarted;
        }
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = answer.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            *have += n as u64;
            if *have > size {
                return Ok(appended);
            }
            part.file
                .write_all(&buffer[..n])
                .with_context(|| failed.clone())?;
            hasher.update(&buffer[..n]);
            advance(n as u64);
        }
        // All that the mirror has, and yet too short: another file, which no further attempt completes.
        let whole = answer.length.map(|length| answer.offset + length) == Some(*have);
        if *have < size && !whole && !address.starts_with("file:") {
            return Err(TransferError::Cut {
                url: address.into(),
            }
            .into());
        }
        Ok(appended)
    }

    /// A small file whose content is not known before, such as a release file.
    pub(super) fn small(&self, address: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        if self.offline {
            return Err(FetchError::Offline);
        }
        let mut attempt = 0;
        loop {
            match self.try_small(address, limit) {
                Err(FetchError::Transfer(error)) if error.is_transient() => {
                    attempt += 1;
                    if attempt >= self.client.limits().attempts {
                        return Err(error.into());
                    }
                    log::info!("{error}; trying again");
                    thread::sleep(self.pause(attempt));
                }
                other => return other,
            }
        }
    }

    fn try_small(&self, address: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.client.get(address, 0)?;
        let mut data = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = answer.read(&mut buffer)?;
            if n == 0 {
                return Ok(data);
            }
            data.extend_from_slice(&buffer[..n]);
            if data.len() > limit {
                return Err(mismatch_text(
                    address,
                    format!("over {limit} bytes long"),
                    "a smaller file".into(),
                ));
            }
        }
    }

    fn pause(&self, attempt: u32) -> Duration {
        self.client.limits().pause * 2u32.pow(attempt.saturating_sub(1).min(5))
    }
}

enum Outcome {
    Right,
    Wrong { got: String, resumed: bool },
}

enum Appended {
    Continued,
    /// The mirror sent the file from its beginning.
    Restarted,
}

/// Adds what is known of the cause and of the way out; a transfer's failure is infrastructure's.
pub(super) fn explain(error: FetchError, what: &str) -> Error {
    match error {
        FetchError::Transfer(TransferError::Local { url, source }) => {
            anyhow!(source).context(format!("{what}: cannot read {url}"))
        }
        FetchError::Transfer(error @ TransferError::Address { .. }) => {
            Fault::input(format!("{what}: {error}"))
                .remedy("check the mirror's address")
                .into()
        }
        FetchError::Transfer(error) => Fault::infrastructure(format!("{what}: {error}"))
            .remedy(
                "what has arrived is kept: run the same command again, or give another mirror \
                 with --mirror",
            )
            .into(),
        FetchError::Mismatch { .. } => Fault::infrastructure(format!("{what}: {error}")).into(),
        FetchError::Offline => Fault::input(format!("{what}: {error}"))
            .remedy("run once without --offline")
            .into(),
        FetchError::Cache(error) => error.context(what.to_string()),
    }
}

fn mismatch(address: &str, got: String, wanted: Wanted<'_>) -> FetchError {
    mismatch_text(
        address,
        got,
        format!("{} bytes with SHA-256 {}", wanted.size, wanted.sha256),
    )
}

fn mismatch_text(address: &str, got: String, wanted: String) -> FetchError {
    FetchError::Mismatch {
        url: address.into(),
        got,
        wanted,
    }
}

/// The hash and length of what an earlier attempt left; nothing if that is too long to be right.
/// The file is then positioned at its end.
fn hash_beginning(file: &mut File, size: u64) -> io::Result<(Sha256, u64)> {
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.rewind()?;
    hash_rest(file)
}

/// The hash and length of what is left to read.
pub(super) fn hash_rest(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hasher, size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

fn verified_local(package: &LockedPackage, directory: &Path) -> Result<PathBuf> {
    let path = directory.join(&package.path);
    let (hasher, size) = input::open(&path)
        .and_then(|mut file| hash_rest(&mut file))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if size != package.size || hex::encode(hasher.finalize()) != package.sha256 {
        return Err(Fault::input(format!(
            "{} has changed since the recipe was locked",
            path.display()
        ))
        .remedy("run hearth lock RECIPE")
        .into());
    }
    Ok(path)
}

/// A poisoned lock holds a queue or an error, whose state is whole in any case.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|error| error.into_inner())
}
