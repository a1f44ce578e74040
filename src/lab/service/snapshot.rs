//! Owns the lab at one moment, as the scheduler and the lists of boards see it: lab file, health, leases and runs together.
//! Never changes any of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::available_parallelism;

use crate::lab::queue::{BoardFact, BoardHealth, Due, Health, Input, Lease, Standing};
use crate::lab::store::{LabStore, OpenAttempt, StoreError};
use crate::recipe::{Board, LabSettings, LoadedLab, Power};

pub(super) struct Snapshot {
    pub lab: Arc<LoadedLab>,
    pub healths: BTreeMap<String, BoardHealth>,
    pub leases: BTreeMap<String, Lease>,
    pub open: BTreeMap<String, OpenAttempt>,
    /// Boards that wait to be used in another way, and by what.
    pub claims: BTreeMap<String, String>,
}

impl Snapshot {
    pub fn take(
        store: &LabStore,
        lab: Arc<LoadedLab>,
        claims: BTreeMap<String, String>,
    ) -> Result<Self, StoreError> {
        let leases = store.leases()?.into_iter();
        let open = store.open_attempts()?.into_iter();
        Ok(Snapshot {
            lab,
            healths: store.board_healths()?,
            leases: leases.map(|lease| (lease.board.clone(), lease)).collect(),
            open: open.map(|open| (open.board.clone(), open)).collect(),
            claims,
        })
    }

    pub fn health(&self, board: &str) -> BoardHealth {
        self.healths.get(board).cloned().unwrap_or_default()
    }

    pub fn facts(&self) -> Vec<BoardFact> {
        let fact = |board: &Board| BoardFact {
            name: board.name.clone(),
            board_type: board.type_name.clone(),
            tags: board.tags.clone(),
            emulated: is_emulated(board),
            standing: self.standing(board),
        };
        self.lab.boards.iter().map(fact).collect()
    }

    pub fn standing(&self, board: &Board) -> Standing {
        let name = &board.name;
        if let Some(open) = self.open.get(name) {
            return Standing::Busy(open.job);
        }
        if let Some(lease) = self.leases.get(name) {
            return Standing::Reserved(told(lease));
        }
        if board.console.is_none() || board.power.is_none() {
            return Standing::Out("has no console or no power switch in the lab file".into());
        }
        let health = self.health(name);
        if health.health.is_out() {
            return Standing::Out(format!("is {}: {}", in_words(health.health), health.why));
        }
        if let Some(by) = self.claims.get(name) {
            return Standing::Reserved(by.clone());
        }
        if health.check && self.lab.settings.health.check {
            return Standing::HealthOnly(health.why);
        }
        Standing::Free
    }

    /// What the scheduler decides from; `held` if nothing may begin.
    pub fn input(&self, store: &LabStore, held: Option<String>) -> Result<Input, StoreError> {
        Ok(Input {
            waiting: store.waiting()?,
            boards: self.facts(),
            shares: store.shares()?,
            emulated_limit: emulated_limit(&self.lab.settings),
            held,
        })
    }

    /// When boards of the lab are checked.
    pub fn due(&self) -> Due {
        let health = &self.lab.settings.health;
        Due {
            checks: health.check,
            every: health.every,
            jobs: health.jobs,
        }
    }

    /// Boards that are in no use of any kind.
    pub fn unused(&self) -> impl Iterator<Item = &Board> {
        let used: BTreeSet<&String> = self
            .open
            .keys()
            .chain(self.leases.keys())
            .chain(self.claims.keys())
            .collect();
        let unused = move |board: &&Board| !used.contains(&board.name);
        self.lab.boards.iter().filter(unused)
    }
}

fn in_words(health: Health) -> &'static str {
    match health {
        Health::Maintenance => "in maintenance",
        other => other.name(),
    }
}

/// Who has a lease, and for how long.
fn told(lease: &Lease) -> String {
    let why = match lease.why.as_str() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    let left = match lease.left {
        // As long as its holder lives.
        seconds if lease.beats && seconds > 172_800.0 => return format!("{}{why}", lease.holder),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3600.0),
    };
    format!("{}{why}, for {left} more", lease.holder)
}

pub(super) fn is_emulated(board: &Board) -> bool {
    board.power == Some(Power::Qemu {})
}

fn emulated_limit(settings: &LabSettings) -> usize {
    settings
        .emulated
        .unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}
