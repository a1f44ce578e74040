//! Owns what the lab tells of its boards: state, health, who has them, and what they boot.
//! Never changes a board but on an operator's word.

use serde::{Deserialize, Serialize};

use super::manager::{Lab, now};
use super::snapshot::{Snapshot, is_emulated};
use crate::lab::queue::{BoardHealth, Health};
use crate::lab::store::StoreError;
use crate::recipe::Board;

/// A board as the lab knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BoardStatus {
    pub name: String,
    #[serde(rename = "type")]
    pub board_type: String,
    pub tags: Vec<String>,
    pub emulated: bool,
    /// `idle`, `reserved` or `running`, as LAVA has it.
    pub state: String,
    pub health: Health,
    /// Why it has this health.
    pub why: String,
    /// Since when it has it, in seconds since 1970.
    pub since: f64,
    /// The job that runs on it.
    pub job: Option<i64>,
    /// Who has reserved it, why, and for how many more seconds.
    pub holder: Option<String>,
    pub reason: Option<String>,
    pub left: Option<f64>,
    /// Seconds since it last checked in, since the host was started.
    pub checked_in: Option<f64>,
    /// The image that it booted last for a job.
    pub image: Option<String>,
    pub recipe: Option<String>,
    pub power: PowerWord,
}

/// What the lab knows of a board's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerWord {
    On,
    Off,
    Unknown,
}

impl Lab {
    /// All boards of the lab, in the order of the lab file.
    pub fn boards(&self) -> Result<Vec<BoardStatus>, StoreError> {
        let snapshot = self.snapshot()?;
        let store = &self.parts.store;
        let names = snapshot.lab.boards.iter().map(|board| board.name.as_str());
        let (powers, images) = (store.board_powers()?, store.last_images(names)?);
        let at = store.since_start();
        let status = |board: &Board| {
            let power = powers.get(&board.name).copied().unwrap_or_default();
            BoardStatus {
                checked_in: power.seen.map(|seen| at - seen),
                image: images.get(&board.name).cloned(),
                power: match (
                    snapshot.open.contains_key(&board.name),
                    power.off,
                    power.used,
                ) {
                    (true, _, _) => PowerWord::On,
                    // A run ends with its board off.
                    (false, _, _) if is_emulated(board) => PowerWord::Off,
                    (false, Some(off), used) if used.is_none_or(|used| off >= used) => {
                        PowerWord::Off
                    }
                    (false, _, _) if power.seen.is_some() && power.seen == power.used => {
                        PowerWord::On
                    }
                    _ => PowerWord::Unknown,
                },
                ..of_snapshot(&snapshot, board)
            }
        };
        Ok(snapshot.lab.boards.iter().map(status).collect())
    }

    /// Sets a board's health on an operator's word; `None` if there is no such board.
    pub fn set_health(
        &self,
        board: &str,
        health: Health,
        why: &str,
        who: &str,
    ) -> Result<Option<BoardHealth>, StoreError> {
        if !self.file().boards.iter().any(|it| it.name == board) {
            return Ok(None);
        }
        let at = now();
        let change = |before: &BoardHealth| BoardHealth {
            health,
            why: match why {
                "" => format!("set by {who}"),
                why => why.into(),
            },
            since: at,
            check: false,
            jobs: 0,
            checked: before.checked,
        };
        let after = self
            .parts
            .store
            .change_board_health(board, change, who, at)?;
        self.look();
        Ok(Some(after))
    }
}

fn of_snapshot(snapshot: &Snapshot, board: &Board) -> BoardStatus {
    let health = snapshot.health(&board.name);
    let job = snapshot.open.get(&board.name).map(|open| open.job);
    let lease = snapshot.leases.get(&board.name);
    BoardStatus {
        name: board.name.clone(),
        board_type: board.type_name.clone(),
        tags: board.tags.clone(),
        emulated: is_emulated(board),
        state: match (job, lease) {
            (Some(_), _) => "running",
            (None, Some(_)) => "reserved",
            (None, None) => "idle",
        }
        .into(),
        health: health.health,
        why: health.why,
        since: health.since,
        job,
        holder: lease.map(|lease| lease.holder.clone()),
        reason: lease
            .map(|lease| lease.why.clone())
            .filter(|why| !why.is_empty()),
        left: lease.map(|lease| lease.left),
        checked_in: None,
        image: None,
        recipe: board.recipe.clone(),
        power: PowerWord::Unknown,
    }
}
