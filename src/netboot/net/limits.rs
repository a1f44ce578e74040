//! Owns how many files and sockets the servers may have open at a time: what the system grants, and each one's share.
//! Never opens one.

use std::fs;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are opened for a moment, whoever the clients are: the lab file, the store, an image that is new.
const SPARE: usize = 12;
/// Clients of one server at a time, if there are files enough.
const MOST: usize = 1024;
/// So many are tried even if there are no files for all of them.
const FEWEST: usize = 4;
/// Fewer clients of each server than these are worth a warning.
const FEW: usize = 64;
/// NFS, MOUNT and the portmapper have one file for each client. HTTP and TFTP have two: a socket and what is sent.
const SHARES: usize = 3 + 2 * 2;

/// How many clients each server may have at a time: connections to one port, or TFTP transfers. What is open when this is
/// asked first, such as listeners and images, is taken off.
pub fn clients() -> usize {
    static CLIENTS: OnceLock<usize> = OnceLock::new();
    *CLIENTS.get_or_init(|| {
        raise();
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        (files().saturating_sub(open + SPARE) / SHARES).clamp(FEWEST, MOST)
    })
}

/// What to tell the user if so few files may be open that clients will have to wait for each other.
pub fn warning() -> Option<String> {
    (clients() < FEW).then(|| {
        format!(
            "only {} files may be open: each server has at most {} clients at a time; raise it with `ulimit -n 16384`, or \
             LimitNOFILE= of the service",
            files(),
            clients()
        )
    })
}

/// How many files this process may have open.
fn files() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Takes as many files as the system grants without asking.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        log::debug!("cannot raise the limit of open files: {error}");
    }
}
