//! `hearth diff`: packages and files that differ between two images or locks.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::image::diff::{self, What};
use hearth::recipe::Lock;
use hearth::sanitise;

use super::changes;

/// Show packages and files that differ between images or locks
///
/// The exit code is 0 if there is no difference and 1 if there is one.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An output directory of `hearth build`, a tar, or a lock
    old: PathBuf,
    /// The same, to compare with
    new: PathBuf,
    /// Packages only
    #[arg(long)]
    packages: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let is_lock = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "lock")
    };
    if is_lock(&arguments.old) && is_lock(&arguments.new) {
        let found = Lock::load(&arguments.old)?.changes(&Lock::load(&arguments.new)?);
        changes::print(&found)?;
        return Ok(ExitCode::from(u8::from(!found.is_empty())));
    }
    let (old, new) = (diff::open(&arguments.old)?, diff::open(&arguments.new)?);
    let mut out = io::stdout().lock();
    let packages = diff::packages(&old, &new)?;
    for package in &packages {
        let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".into());
        let (before, after) = (version(&package.old), version(&package.new));
        writeln!(out, "package {}: {before} → {after}", package.name)?;
    }
    let mut different = !packages.is_empty();
    if !arguments.packages {
        for file in diff::files(&old, &new)? {
            different = true;
            match file.what {
                What::Added => writeln!(out, "+ {}", sanitise::line(&file.path))?,
                What::Removed => writeln!(out, "- {}", sanitise::line(&file.path))?,
                What::Changed(what) => writeln!(
                    out,
                    "! {} ({})",
                    sanitise::line(&file.path),
                    what.join(", ")
                )?,
            }
        }
    }
    Ok(ExitCode::from(u8::from(different)))
}
