//! Owns the lab's store: jobs, their output, and the boots that checked in, in one SQLite file that `hearth serve` and
//! every `hearth test` of an instance share. Never keeps anything in memory: each call is one transaction.

mod attempts;
mod board_states;
mod boots;
mod columns;
mod connection;
mod error;
mod file;
mod jobs;
mod leases;
mod queue;

pub use attempts::{OpenAttempt, Settled};
pub use board_states::{BoardEvent, PowerState};
pub use boots::Boot;
pub use connection::LabStore;
pub use error::StoreError;
pub use jobs::{JobState, JobStatus};
pub use leases::{Asked, Granted};
pub use queue::{Cancelled, Filter, NewJob};

#[cfg(test)]
mod testing {
    use super::*;
    use crate::lab::identity::Claim;
    use crate::lab::secret;

    pub(super) fn store() -> (tempfile::TempDir, LabStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LabStore::open(&dir.path().join("lab.sqlite")).unwrap();
        (dir, store)
    }

    pub(super) fn claim(board: &str, boot: &str) -> Claim {
        Claim {
            board: board.into(),
            boot: boot.into(),
            secret: format!("secret of {boot}"),
            ..Claim::default()
        }
    }

    /// A boot whose console the lab follows.
    pub(super) fn boot(store: &LabStore, board: &str, boot: &str) -> Boot {
        let claim = claim(board, boot);
        store.confirm(board, &secret::hash(&claim.secret)).unwrap();
        store.check_in(&claim, None).unwrap()
    }
}
