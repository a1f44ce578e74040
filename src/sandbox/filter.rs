//! Owns the syscall filter that makes syncing cheap. Never hides anything else from a program.
//!
//! See seccomp(2). qemu-user turns its guest's system calls into the host's, so that one filter for the host's
//! architecture serves every guest.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// From now on, this thread and the programs it runs wait for no disk: an image under construction
/// that did not survive a power cut is built again.
///
/// Sets `no_new_privs` as well, as seccomp(2) asks for: setuid programs gain nothing.
pub fn ignore_syncs() -> Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .context("hearth knows no syscall filter for this processor")?;
    let syncs = [
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_sync_file_range,
        libc::SYS_msync,
    ];
    let rules: BTreeMap<i64, Vec<_>> = syncs.map(|call| (call, Vec::new())).into();
    // An error number of 0 is success.
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch)?;
    apply_filter(&BpfProgram::try_from(filter)?).context("the kernel took no syscall filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_would_fail_succeeds_without_being_tried() {
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(
            nix::unistd::fsync(&pipe).is_err(),
            "a pipe cannot be synced"
        );
        // A filter is its thread's.
        let filtered = std::thread::spawn(move || {
            ignore_syncs().unwrap();
            (nix::unistd::fsync(&pipe), nix::unistd::fdatasync(&pipe))
        });
        assert_eq!(filtered.join().unwrap(), (Ok(()), Ok(())));
    }
}
