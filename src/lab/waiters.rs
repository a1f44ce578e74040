//! Owns the requests that wait for a job: each is woken when the store has something for its boot, and none polls.
//! Never hands anything out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::store::{LabStore, StoreError};

/// How often the lab looks whether another process, such as `hearth test`, changed the store: once for all boards.
const LOOK: Duration = Duration::from_millis(50);

/// The waiting requests, by the row of their boot.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_boot: Mutex<HashMap<i64, watch::Sender<()>>>,
    watching: OnceLock<()>,
}

impl Waiters {
    /// What changes when there is something for the boot. Take it before looking into the store, so that nothing is missed
    /// in between.
    pub(super) fn wait_for(&self, boot: i64) -> watch::Receiver<()> {
        let mut by_boot = self.by_boot.lock().unwrap_or_else(PoisonError::into_inner);
        by_boot.retain(|_, waiter| waiter.receiver_count() > 0);
        by_boot.entry(boot).or_default().subscribe()
    }

    fn wake(&self, boots: &[i64]) {
        let by_boot = self.by_boot.lock().unwrap_or_else(PoisonError::into_inner);
        for waiter in boots.iter().filter_map(|boot| by_boot.get(boot)) {
            waiter.send_replace(());
        }
    }

    /// Wakes waiting requests from now on, until the store is dropped. Must be called inside a Tokio runtime.
    pub(super) fn watch(self: &Arc<Self>, store: &Arc<LabStore>) {
        if self.watching.set(()).is_ok() {
            tokio::spawn(watch_store(Arc::downgrade(store), Arc::clone(self)));
        }
    }
}

async fn watch_store(store: Weak<LabStore>, waiters: Arc<Waiters>) {
    let Some(mut changes) = store.upgrade().map(|store| store.changes()) else {
        return;
    };
    let mut version = None;
    let mut changed = true;
    while let Some(store) = store.upgrade() {
        let looked = spawn_blocking(move || look(&store, version, changed)).await;
        match looked {
            Ok(Ok((seen, due))) => {
                version = Some(seen);
                waiters.wake(&due);
            }
            Ok(Err(error)) => log::error!("{:#}", anyhow::Error::new(error)),
            Err(_) => return,
        }
        changed = match timeout(LOOK, changes.changed()).await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => return,
            Err(_) => false,
        };
    }
}

/// The store's version, and the boots for which there is something if it has changed.
fn look(
    store: &LabStore,
    version: Option<i64>,
    changed: bool,
) -> Result<(i64, Vec<i64>), StoreError> {
    let seen = store.version()?;
    let due = match changed || version != Some(seen) {
        true => store.due()?,
        false => Vec::new(),
    };
    Ok((seen, due))
}
