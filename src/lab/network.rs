//! Owns how a command of hearth gets into the private network of emulated boards: it runs itself again there.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Tells hearth, run again, that it is to enter the network.
const INSIDE: &str = "HEARTH_INSIDE";

/// Whether this process was started by [`run_again_inside`].
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs hearth again in place of this process, with the same arguments, so that it can enter the network while it
/// has but one thread. Returns only if that fails.
pub fn run_again_inside() -> anyhow::Error {
    let failed = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    anyhow::Error::new(failed).context("cannot run hearth again")
}
