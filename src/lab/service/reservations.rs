//! Owns reserving a board: at once, or as soon as the job on it has ended, before any other job gets it.
//! Never keeps a lease: the store does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::manager::{Claim, Lab, now};
use crate::lab::store::{Asked, Granted};

/// The longest lease, and the shortest and longest time between signs of life, in seconds.
const LONGEST: f64 = 30.0 * 24.0 * 3600.0;
const BEATS: (f64, f64) = (0.2, 3600.0);
/// How long a request may wait for a board, in seconds.
const PATIENCE: f64 = 60.0;

/// What a holder asks for, as the API takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReserveRequest {
    /// How long, in seconds.
    pub seconds: f64,
    #[serde(default)]
    pub why: String,
    /// Seconds between signs of life; the lease ends when three are missing.
    pub beat: Option<f64>,
    /// How long to wait for a board that is in use, in seconds.
    #[serde(default)]
    pub wait: f64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    Granted(Granted),
    /// There is no such board.
    NoBoard,
    Invalid(String),
}

impl Lab {
    /// Reserves a board; waits for it as long as the request allows. Dropped while it waits, it leaves nothing.
    pub async fn reserve(
        self: Arc<Self>,
        board: String,
        holder: String,
        request: ReserveRequest,
    ) -> Result<Held> {
        if !self.file().boards.iter().any(|it| it.name == board) {
            return Ok(Held::NoBoard);
        }
        if let Some(wrong) = wrong(&request) {
            return Ok(Held::Invalid(wrong));
        }
        let end = Instant::now() + Duration::from_secs_f64(request.wait.min(PATIENCE));
        let mut claim = None;
        let mut changed = self.signals().follow_lab();
        loop {
            changed.mark_unchanged();
            let granted = self.try_reserve(&board, &holder, &request).await?;
            if matches!(granted, Granted::Token(_)) || Instant::now() >= end {
                return Ok(Held::Granted(granted));
            }
            claim.get_or_insert_with(|| {
                Claim::new(&self, &board, &format!("{holder}, who waits for it"))
            });
            let _ = timeout_at(end, changed.changed()).await;
        }
    }

    async fn try_reserve(
        self: &Arc<Self>,
        board: &str,
        holder: &str,
        request: &ReserveRequest,
    ) -> Result<Granted> {
        let (lab, board, holder) = (Arc::clone(self), board.to_string(), holder.to_string());
        let request = request.clone();
        tokio::task::spawn_blocking(move || {
            let granted = lab.parts.store.reserve(&Asked {
                board: &board,
                holder: &holder,
                why: &request.why,
                seconds: request.seconds,
                beat: request.beat,
                now: now(),
            })?;
            lab.look();
            Ok(granted)
        })
        .await?
    }

    /// A sign of life of a lease's holder; gives whether the lease holds.
    pub fn beat(&self, token: &str) -> Result<bool> {
        Ok(self.parts.store.prolong(token)?)
    }

    /// Ends a lease; gives its board.
    pub fn release(&self, token: &str) -> Result<Option<String>> {
        let board = self.parts.store.release(token, now())?;
        self.look();
        Ok(board)
    }

    /// Ends a board's lease, whoever has it; gives whether there was one.
    pub fn release_board(&self, board: &str, who: &str) -> Result<bool> {
        let was = self.parts.store.release_board(board, who, now())?;
        self.look();
        Ok(was)
    }
}

fn wrong(request: &ReserveRequest) -> Option<String> {
    let within =
        |value: f64, low: f64, high: f64| value.is_finite() && value >= low && value <= high;
    if !within(request.seconds, 1.0, LONGEST) {
        return Some("a reservation is for 1 second to 30 days".into());
    }
    if request
        .beat
        .is_some_and(|beat| !within(beat, BEATS.0, BEATS.1))
    {
        return Some(format!(
            "signs of life come every {} to {} seconds",
            BEATS.0, BEATS.1
        ));
    }
    (!within(request.wait, 0.0, f64::MAX)).then(|| "a time to wait is 0 seconds or above".into())
}
