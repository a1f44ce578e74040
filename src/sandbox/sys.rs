//! Owns the system calls that neither nix nor rustix offers. Never decides when they are made.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;

/// linux/keyctl.h
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Gives this process, and those it starts, a new and empty session keyring: keys of the caller's session are not in reach
/// any more. See keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`.
///
/// # Errors
/// `ENOSYS` where the kernel has no keys, `EPERM` where a container refuses the call, `EDQUOT` if there are too many.
pub fn join_new_session_keyring() -> nix::Result<()> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: the kernel reads no memory where the name is null, and the call changes nothing but credentials.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) };
    Errno::result(serial).map(drop)
}

/// Marks all descriptors from 3 up to be closed by the next exec, whoever opened them. See close_range(2).
///
/// # Errors
/// `ENOSYS` before Linux 5.11.
pub fn close_beyond_standard_on_exec() -> nix::Result<()> {
    // SAFETY: no descriptor is closed before the exec, so that those that this process uses stay valid.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(done).map(drop)
}
