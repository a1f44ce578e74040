//! Owns how many files and sockets the servers may have open at a time: what the system grants, and each one's share.
//! Never opens one.

use std::sync::Once;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a server has open whoever its clients are: listeners, images, the lab's store, standard streams, and files that
/// are opened for a moment.
const OWN: usize = 36;
/// Clients of one server at a time, if there are files enough.
const MOST: usize = 1024;
/// Fewer clients of each server than these are worth a warning.
const FEW: usize = 64;
/// NFS, MOUNT and the portmapper have one file for each client. HTTP and TFTP have two: a socket and what is sent.
const SHARES: usize = 3 + 2 * 2;

/// How many clients each server may have at a time: connections to one port, or TFTP transfers.
pub fn clients() -> usize {
    (files().saturating_sub(OWN) / SHARES).clamp(4, MOST)
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

/// How many files this process may have open: as many as the system grants without asking.
fn files() -> usize {
    static RAISED: Once = Once::new();
    RAISED.call_once(raise);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        log::debug!("cannot raise the limit of open files: {error}");
    }
}
