//! `hearth lock` and the archive client: against dpkg, APT and GnuPG, and against archives and servers that misbehave.

mod bombs;
mod cache;
mod fetch;
mod lockfile;
mod mirrors;
mod release;
mod resolve;
mod signature;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth::archive::{Cache, Fetcher, Limits, Mirrors};
use hearth::recipe::Lock;
use sha2::{Digest, Sha256};

use common::archive::Archive;
use common::{hearth, succeed};

/// For what must happen soon, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Limits under which a stalled server is given up at once.
const IMPATIENT: Limits = Limits {
    connect: Duration::from_secs(5),
    stall: Duration::from_millis(300),
    attempts: 3,
    pause: Duration::from_millis(10),
    parallel: 4,
};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// `hearth lock` of a recipe, with a cache inside the archive's directory.
fn lock(archive: &Archive, recipe: &Path, mirror: &str) -> Command {
    let mut command = hearth();
    command
        .arg("lock")
        .arg(recipe)
        .args(["--mirror", mirror])
        .env("HEARTH_CACHE", archive.path("cache"));
    command
}

fn fetcher(archive: &Archive, mirror: &str, limits: Limits) -> Fetcher {
    Fetcher::new(
        Cache::at(archive.path("cache")),
        Mirrors::find(Some(mirror), None),
        limits,
    )
}

/// An archive with a few packages, its recipe and its lock.
fn locked(sizes: &[usize]) -> (Archive, Lock) {
    let mut archive = Archive::new();
    let names: Vec<String> = (0..sizes.len()).map(|i| format!("p{i}")).collect();
    for (name, size) in names.iter().zip(sizes) {
        archive.add(name, "1", "Depends: base", *size);
    }
    archive.publish();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let recipe = archive.recipe(&names);
    succeed(&mut lock(&archive, &recipe, &archive.address()));
    let lock = Lock::load(&recipe.with_extension("lock")).unwrap();
    (archive, lock)
}

fn contents(paths: &[PathBuf], lock: &Lock) {
    for (path, package) in paths.iter().zip(&lock.packages) {
        let data = fs::read(path).unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(&data)),
            package.sha256,
            "{}",
            package.name
        );
    }
}
