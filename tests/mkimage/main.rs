//! Oracle tests of `hearth mkimage` and `hearth image` against Debian's mkimage. Needs u-boot-tools and util-linux.

mod lines;
mod oracle;
mod properties;
mod refusals;
mod show;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// 2023-11-14 22:13:20 UTC.
const EPOCH: &str = "1700000000";

/// A directory in memory where there is one, since mkimage syncs each image twice.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn hearth_mkimage(dir: &Path) -> Command {
    let mut command = common::hearth();
    command.arg("mkimage");
    settle(&mut command, dir);
    command
}

/// The oracle, with its times in UTC.
fn debian_mkimage(dir: &Path) -> Command {
    let mut command = common::oracle("mkimage");
    settle(&mut command, dir);
    command
}

fn settle(command: &mut Command, dir: &Path) {
    command
        .current_dir(dir)
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .env("TZ", "UTC");
}

/// What both print of an image, without what only one does: hearth names the zone, and the oracle prints
/// addresses of its own memory.
fn comparable(listing: &[u8]) -> String {
    String::from_utf8_lossy(listing)
        .lines()
        .filter(|line| !line.trim_start().starts_with("Offset = "))
        .map(|line| line.strip_suffix(" UTC").unwrap_or(line).to_string() + "\n")
        .collect()
}
