//! Owns downloads: parallel, resumed, verified, into the cache.
//! Never returns data that does not match its hash.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::cache::{Cache, Part};
use super::hash::hash_rest;
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
    /// Use only the cache.
    pub offline: bool,
    client: Client,
    /// Hosts that did not deliver, which are asked last from then on. Clones share them.
    shunned: Arc<Mutex<HashSet<String>>>,
}

/// A file whose hash and size are known before it is fetched.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Bytes.
    pub size: u64,
    /// 64 lower-case hex digits.
    pub sha256: &'a str,
}

/// Why a file could not be fetched from an address.
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
    /// Whether the mirror lacks the file or has another one under its name.
    pub fn is_other_content(&self) -> bool {
        matches!(
            self,
            FetchError::Mismatch { .. } | FetchError::Transfer(TransferError::Missing(_))
        )
    }

    /// Whether another host may deliver what this one did not.
    pub(super) fn is_of_host(&self) -> bool {
        matches!(self, FetchError::Transfer(error) if !matches!(
            error,
            TransferError::Missing(_) | TransferError::Address { .. }
        ))
    }
}

impl Fetcher {
    pub fn new(cache: Cache, mirrors: Mirrors, limits: Limits) -> Self {
        Fetcher {
            cache,
            mirrors,
            offline: false,
            client: Client::new(limits),
            shunned: Arc::default(),
        }
    }

    /// Paths in the cache of all package files of a lock, in the lock's order. Local packages are
    /// looked for below `directory`, the recipe's own, and verified there.
    ///
    /// # Errors
    /// If a package vanished from the mirror, differs from the lock, or cannot be fetched; names
    /// the package.
    pub fn packages(
        &self,
        lock: &Lock,
        directory: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>> {
        let missing: Vec<&LockedPackage> = {
            let mut seen = HashSet::new();
            let mut missing = Vec::new();
            for package in &lock.packages {
                if !package.local
                    && seen.insert(package.sha256.as_str())
                    && self.cache.get(&package.sha256, package.size)?.is_none()
                {
                    missing.push(package);
                }
            }
            missing
        };
        if !missing.is_empty() {
            self.fetch_missing(&missing, progress)?;
        }
        self.cache.remember();
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
        let path = percent_encode(&package.path);
        let mirrors = self.mirrors.all_of_suite(&package.suite)?;
        let addresses: Vec<String> = mirrors
            .iter()
            .map(|mirror| format!("{mirror}/{path}"))
            .collect();
        let wanted = Wanted {
            size: package.size,
            sha256: &package.sha256,
        };
        let name = format!("{} {}", package.name, package.version);
        self.file(&addresses, wanted, &|bytes| stage.advance(bytes))
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

    /// Fetches a file of known hash from the first of several addresses that has it. Calls
    /// `advance` with the number of bytes as they arrive.
    pub fn file(
        &self,
        addresses: &[String],
        wanted: Wanted<'_>,
        advance: &dyn Fn(u64),
    ) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.cache.get(wanted.sha256, wanted.size)? {
            return Ok(path);
        }
        if self.offline {
            return Err(FetchError::Offline);
        }
        let Some(mut part) = self.cache.begin(wanted.sha256, wanted.size)? else {
            return Ok(self.cache.path(wanted.sha256));
        };
        let mut failure = None;
        let mut other = None;
        let mut silent = HashSet::new();
        for address in self.in_order(addresses) {
            if silent.contains(origin(address)) {
                continue;
            }
            match self.complete(address, wanted, &mut part, advance) {
                Ok(()) => return Ok(part.commit()?),
                Err(error) if error.is_other_content() => other = Some(error),
                Err(error) if error.is_of_host() => {
                    self.shun(address, &error);
                    silent.insert(origin(address));
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            // What has arrived is kept for the next attempt.
            Some(failure) => Err(failure),
            None => {
                part.discard();
                Err(other.unwrap_or(FetchError::Offline))
            }
        }
    }

    /// Addresses of hosts that have not delivered come last.
    pub(super) fn in_order<'a>(&self, addresses: &'a [String]) -> Vec<&'a str> {
        let shunned = lock(&self.shunned);
        let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        addresses.sort_by_key(|address| shunned.contains(origin(address)));
        addresses
    }

    pub(super) fn shun(&self, address: &str, error: &FetchError) {
        log::info!("{error}; another mirror is asked, if there is one");
        lock(&self.shunned).insert(origin(address).to_string());
    }

    /// Resumes a partial download, whichever process began it; if the result does not match its
    /// hash, fetches the file once more from byte 0.
    fn complete(
        &self,
        address: &str,
        wanted: Wanted<'_>,
        part: &mut Part,
        advance: &dyn Fn(u64),
    ) -> Result<(), FetchError> {
        match self.transfer(address, wanted, part, advance)? {
            FetchOutcome::Right => Ok(()),
            FetchOutcome::Wrong { resumed: true, .. } => {
                match self.transfer(address, wanted, part, &|_| ())? {
                    FetchOutcome::Right => Ok(()),
                    FetchOutcome::Wrong { got, .. } => Err(mismatch(address, got, wanted)),
                }
            }
            FetchOutcome::Wrong { got, .. } => Err(mismatch(address, got, wanted)),
        }
    }

    fn transfer(
        &self,
        address: &str,
        wanted: Wanted<'_>,
        part: &mut Part,
        advance: &dyn Fn(u64),
    ) -> Result<FetchOutcome, FetchError> {
        let cannot_write = |part: &Part| format!("cannot write {}", part.path().display());
        let (mut hasher, mut have) =
            hash_beginning(&mut part.file, wanted.size).with_context(|| cannot_write(part))?;
        let mut resumed = have > 0;
        advance(have);
        let mut barren = 0;
        let deadline = Deadline::new(self.client.limits().patience(wanted.size));
        while have < wanted.size {
            let before = have;
            let mut arrived = |bytes| {
                advance(bytes);
                deadline.keep(address)
            };
            match self.append(
                address,
                part,
                &mut hasher,
                &mut have,
                wanted.size,
                &mut arrived,
            ) {
                Ok(appended) => {
                    resumed &= matches!(appended, Appended::Continued);
                    break;
                }
                Err(FetchError::Transfer(error)) if error.is_transient() => {
                    barren = if have > before { 0 } else { barren + 1 };
                    if barren >= self.client.limits().attempts {
                        return Err(error.into());
                    }
                    deadline.keep(address)?;
                    log::info!("{error}; trying again");
                    thread::sleep(self.pause(barren));
                }
                Err(error) => return Err(error),
            }
        }
        let got = hex::encode(hasher.finalize());
        if have == wanted.size && got == wanted.sha256 {
            return Ok(FetchOutcome::Right);
        }
        part.file.set_len(0).with_context(|| cannot_write(part))?;
        Ok(FetchOutcome::Wrong {
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

    /// Appends the bytes from `have` on, up to one more than `size`.
    fn append(
        &self,
        address: &str,
        part: &mut Part,
        hasher: &mut Sha256,
        have: &mut u64,
        size: u64,
        arrived: &mut dyn FnMut(u64) -> Result<(), TransferError>,
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
            arrived(n as u64)?;
        }
        // The whole file of the mirror, and yet too short: another file, which no further attempt
        // completes.
        let whole = answer.length.map(|length| answer.offset + length) == Some(*have);
        if *have < size && !whole && !address.starts_with("file:") {
            return Err(TransferError::Cut {
                url: address.into(),
            }
            .into());
        }
        Ok(appended)
    }

    /// Fetches a small file whose content is not known before, such as a release file.
    pub(super) fn small(&self, address: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        if self.offline {
            return Err(FetchError::Offline);
        }
        let mut attempt = 0;
        let deadline = Deadline::new(self.client.limits().patience(0));
        loop {
            match self.try_small(address, limit, &deadline) {
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

    fn try_small(
        &self,
        address: &str,
        limit: usize,
        deadline: &Deadline,
    ) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.client.get(address, 0)?;
        let mut data = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = answer.read(&mut buffer)?;
            if n == 0 {
                return Ok(data);
            }
            deadline.keep(address)?;
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

/// Until when a file has to be complete.
struct Deadline {
    begun: Instant,
    after: Duration,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        let begun = Instant::now();
        Deadline { begun, after }
    }

    fn keep(&self, address: &str) -> Result<(), TransferError> {
        if self.begun.elapsed() <= self.after {
            return Ok(());
        }
        Err(TransferError::Late {
            url: address.into(),
            seconds: self.after,
        })
    }
}

/// Scheme and host of an address; all of one that has none.
fn origin(address: &str) -> &str {
    let host = address.find("://").map_or(0, |at| at + 3);
    let path = address[host..].find('/').unwrap_or(address.len() - host);
    // Directories are no hosts: each is a mirror of its own.
    match address.starts_with("file:") {
        true => address,
        false => &address[..host + path],
    }
}

enum FetchOutcome {
    Right,
    Wrong { got: String, resumed: bool },
}

enum Appended {
    Continued,
    /// The mirror ignored the byte range and sent the file from its beginning.
    Restarted,
}

/// Adds cause and remedy; a failed transfer is classed as infrastructure.
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

/// The hash and length of a partial download; empty if it is longer than the file can be. Leaves
/// the file positioned at its end.
fn hash_beginning(file: &mut File, size: u64) -> io::Result<(Sha256, u64)> {
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.rewind()?;
    hash_rest(file)
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

/// Takes a lock even if poisoned: it guards a queue or an error, which a panic cannot leave half
/// changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|error| error.into_inner())
}
