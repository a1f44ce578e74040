//! Owns the check that a recipe is reproducible: two builds from scratch under different
//! conditions.
//! Never uses the stage cache.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};

use super::plan::Plan;
use crate::error::Fault;
use crate::image::Manifest;
use crate::image::diff::{self, FileChange};
use crate::progress::{Progress, Unit};
use crate::sandbox::remove;

/// One of the two builds.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Description for messages.
    pub description: String,
    umask: &'static str,
    timezone: &'static str,
    language: &'static str,
    threads: usize,
    /// Whether scripts run only the image's own programs.
    emulate: bool,
    /// The user who builds, if it is not the caller.
    user: Option<User>,
}

/// The result of the comparison.
#[derive(Debug)]
pub struct Verified {
    pub conditions: [Condition; 2],
    pub image: String,
    /// Paths of artifacts that differ; empty if the recipe is reproducible.
    pub artifacts: Vec<String>,
    /// Files of the image that differ.
    pub files: Vec<FileChange>,
    /// The path of diffoscope's report, if it is installed and something differs.
    pub report: Option<PathBuf>,
}

/// Builds the recipe twice with `executable` (hearth itself), and compares. `recipe` is the command
/// line's argument.
///
/// # Errors
/// If one of the builds fails. A difference is no error.
pub fn verify(
    executable: &Path,
    recipe: &str,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Verified> {
    let conditions = conditions(plan.threads)?;
    let place = tempfile::Builder::new()
        .prefix("hearth-verify-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("cannot make a temporary directory")?;
    let mut results = Vec::new();
    for (number, condition) in conditions.iter().enumerate() {
        let stage = progress.stage("verify", None, Unit::Items);
        stage.message(&condition.description);
        let directory = place.path().join(format!("{number}"));
        let outcome = build_once(executable, recipe, plan, condition, &directory);
        // The stages' files may belong to subordinate ids.
        let caches = vec![directory.join("cache")];
        remove(
            &caches.into_iter().filter(|cache| cache.exists()).collect(),
            progress,
        )?;
        results.push(outcome?);
        stage.finish(&condition.description);
    }
    compare(&results[0], &results[1], conditions, plan)
}

/// Two conditions that differ as far as this caller can make them.
fn conditions(threads: usize) -> Result<[Condition; 2]> {
    let own = User::from_uid(Uid::current()).ok().flatten();
    let own = own.map_or_else(|| Uid::current().to_string(), |user| user.name);
    let other = if Uid::effective().is_root() {
        other_user()?
    } else {
        None
    };
    let describe = |user: &str, umask: &str, timezone: &str, language: &str, threads: usize| {
        format!("as {user}, umask {umask}, TZ={timezone}, LANG={language}, threads: {threads}")
    };
    let second = other.as_ref().map_or(own.clone(), |user| user.name.clone());
    Ok([
        Condition {
            description: describe(&own, "022", "UTC", "C", threads),
            umask: "022",
            timezone: "UTC",
            language: "C",
            threads,
            emulate: false,
            user: None,
        },
        Condition {
            description: format!(
                "{}, all programs emulated",
                describe(&second, "077", "Asia/Tokyo", "tr_TR.UTF-8", 1)
            ),
            umask: "077",
            timezone: "Asia/Tokyo",
            language: "tr_TR.UTF-8",
            threads: 1,
            emulate: true,
            user: other,
        },
    ])
}

/// An ordinary user with subordinate ids, as whom root builds.
fn other_user() -> Result<Option<User>> {
    let table = fs::read_to_string("/etc/subuid").unwrap_or_default();
    for line in table.lines() {
        let name = line.split(':').next().unwrap_or_default();
        if let Some(user) = User::from_name(name)?.filter(|user| !user.uid.is_root()) {
            return Ok(Some(user));
        }
    }
    log::warn!("no ordinary user has subordinate ids: both builds are root's");
    Ok(None)
}

/// Builds with a cache of its own that contains only the downloads; returns the output directory.
fn build_once(
    executable: &Path,
    recipe: &str,
    plan: &Plan,
    condition: &Condition,
    directory: &Path,
) -> Result<PathBuf> {
    let cache = directory.join("cache");
    let out = directory.join("out");
    for (package, deb) in plan.packages.iter().filter(|(package, _)| !package.local) {
        let place = cache
            .join("blobs/sha256")
            .join(package.sha256.get(..2).unwrap_or_default())
            .join(&package.sha256);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::hard_link(deb, &place).is_err() {
            fs::copy(deb, &place).with_context(|| format!("cannot copy {}", deb.display()))?;
        }
    }
    let copy = directory.join("hearth");
    fs::copy(executable, &copy).context("cannot copy hearth itself")?;
    // A shell, because setting the umask of a child needs unsafe code otherwise.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "umask \"$0\"; exec \"$@\"", condition.umask])
        .arg(&copy)
        .args(["--quiet", "build", "--locked", "--offline", "--threads"])
        .arg(condition.threads.to_string())
        .args(condition.emulate.then_some("--emulate"))
        .arg("-o")
        .arg(&out)
        .arg(recipe)
        .env("HEARTH_CACHE", &cache)
        // The key of the other user's cache is not kept.
        .env("XDG_STATE_HOME", directory.join("state"))
        .env("TZ", condition.timezone)
        .env("LANG", condition.language)
        .env("LC_ALL", condition.language)
        .env("SOURCE_DATE_EPOCH", plan.epoch.to_string())
        .stdin(Stdio::null());
    if let Some(user) = &condition.user {
        give(directory, user)?;
        command
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .env("HOME", &user.dir);
    }
    let output = command.output().context("cannot run hearth again")?;
    if output.status.success() {
        return Ok(out);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(Fault::input(format!(
        "the build {} failed: {said}",
        condition.description
    ))
    .into())
}

/// Makes the directory and its content owned by the user, except for the downloads.
fn give(directory: &Path, user: &User) -> Result<()> {
    let owner = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    chown(directory, owner.0, owner.1)?;
    let cache = directory.join("cache");
    chown(&cache, owner.0, owner.1)
        .with_context(|| format!("cannot give {} to {}", cache.display(), user.name))
}

fn compare(one: &Path, other: &Path, conditions: [Condition; 2], plan: &Plan) -> Result<Verified> {
    let (a, b) = (Manifest::load(one)?, Manifest::load(other)?);
    let names = a.artifacts.keys().chain(b.artifacts.keys());
    let artifacts: std::collections::BTreeSet<String> = names
        .filter(|name| a.artifacts.get(*name) != b.artifacts.get(*name))
        .cloned()
        .collect();
    let mut files = Vec::new();
    let mut report = None;
    if !artifacts.is_empty() {
        files = diff::files(&diff::open(one)?, &diff::open(other)?)?;
        report = diffoscope(one, other, plan);
    }
    Ok(Verified {
        conditions,
        image: a.image,
        artifacts: artifacts.into_iter().collect(),
        files,
        report,
    })
}

/// Runs diffoscope on the differences, if it is installed.
fn diffoscope(one: &Path, other: &Path, plan: &Plan) -> Option<PathBuf> {
    let report = PathBuf::from(format!("{}-diffoscope.txt", plan.name));
    let ran = Command::new("diffoscope")
        .arg("--text")
        .arg(&report)
        .args([one, other])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match ran {
        Ok(_) if report.exists() => Some(report),
        _ => None,
    }
}
