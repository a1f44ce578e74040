//! Owns who gets which board next, and why a job waits. A pure function of the queue and the boards.
//! Never reads a clock: age is the order of submission.
//!
//! Order of the waiting jobs: health checks; then priority, which rises as younger jobs are started on boards that the
//! job could have used, so that none starves; then the submitter with the smallest share; then age.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::model::{Kind, WaitingJob};

/// What being overtaken counts, by a more urgent job and by one that is as urgent: the latter is the other submitter's share.
const BY_URGENT: u32 = 1024;
const BY_EQUAL: u32 = 1;
/// How much of that raises a job's priority by one. Without a bound: in the end it is above every other.
const AGING: u32 = 256;

/// A board as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct BoardFact {
    pub name: String,
    pub board_type: String,
    pub tags: Vec<String>,
    pub emulated: bool,
    pub standing: Standing,
}

/// What a board can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Free,
    /// Its health check goes first; the text says why.
    HealthOnly(String),
    /// Has this job.
    Busy(i64),
    /// Reserved; the text says by whom.
    Reserved(String),
    /// Takes no jobs; the text says why, as the end of "board X …".
    Out(String),
}

/// What the scheduler decides from.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub waiting: Vec<WaitingJob>,
    pub boards: Vec<BoardFact>,
    /// How much of the lab each submitter has now and had lately; 0 for those who are not in it.
    pub shares: BTreeMap<String, f64>,
    /// How many emulated boards may run at once.
    pub emulated_limit: usize,
    /// Why nothing is started at all, such as a full disk.
    pub held: Option<String>,
}

/// A job that is to be started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub job: i64,
    pub board: String,
    pub reason: String,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub starts: Vec<Start>,
    /// Waiting jobs that were overtaken, and by how much that counts.
    pub overtaken: Vec<(i64, u32)>,
}

/// Whether a board is one that the job asks for, whatever the board does at present.
pub fn fits(job: &WaitingJob, board: &BoardFact) -> bool {
    let named = job.board.as_ref().is_none_or(|name| *name == board.name);
    let typed = job
        .board_type
        .as_ref()
        .is_none_or(|name| *name == board.board_type);
    named && typed && job.tags.iter().all(|tag| board.tags.contains(tag))
}

/// Decides which jobs are started on which boards.
pub fn plan(input: &Input) -> Plan {
    let mut plan = Plan::default();
    if input.held.is_some() {
        return plan;
    }
    let mut free = Free::new(input);
    let mut shares = input.shares.clone();
    let mut left: Vec<&WaitingJob> = input.waiting.iter().collect();
    while let Some((at, board)) = next(input, &left, &free, &shares) {
        let job = left.remove(at);
        free.take(board);
        for other in &left {
            if other.id < job.id && other.kind == Kind::Test && allows(input, other, board) {
                let by = match rank(job) > rank(other) {
                    true => BY_URGENT,
                    false => BY_EQUAL,
                };
                plan.overtaken.push((other.id, by));
            }
        }
        plan.starts.push(Start {
            job: job.id,
            board: board.name.clone(),
            reason: reason(job, board, &shares, left.len()),
        });
        *shares.entry(job.submitter.clone()).or_default() += 1.0;
    }
    plan
}

/// The boards that can be given away in this round.
struct Free<'a> {
    boards: BTreeMap<&'a str, &'a BoardFact>,
    slots: usize,
}

impl<'a> Free<'a> {
    fn new(input: &'a Input) -> Self {
        let takes =
            |board: &&BoardFact| matches!(board.standing, Standing::Free | Standing::HealthOnly(_));
        Free {
            boards: input
                .boards
                .iter()
                .filter(takes)
                .map(|board| (board.name.as_str(), board))
                .collect(),
            slots: free_slots(input),
        }
    }

    fn take(&mut self, board: &BoardFact) {
        self.boards.remove(board.name.as_str());
        if board.emulated {
            self.slots = self.slots.saturating_sub(1);
        }
    }

    /// A free board for the job: the first by name.
    fn board_for(&self, input: &Input, job: &WaitingJob) -> Option<&'a BoardFact> {
        let can = |board: &&BoardFact| {
            (!board.emulated || self.slots > 0)
                && is_open(board, job.kind)
                && allows(input, job, board)
        };
        match &job.board {
            Some(name) => self.boards.get(name.as_str()).copied().filter(|it| can(it)),
            None => self.boards.values().copied().find(|it| can(it)),
        }
    }
}

fn free_slots(input: &Input) -> usize {
    let busy = |board: &&BoardFact| board.emulated && matches!(board.standing, Standing::Busy(_));
    let running = input.boards.iter().filter(busy).count();
    input.emulated_limit.saturating_sub(running)
}

fn is_open(board: &BoardFact, kind: Kind) -> bool {
    match board.standing {
        Standing::Free => true,
        Standing::HealthOnly(_) => kind == Kind::Health,
        _ => false,
    }
}

/// Whether the job may go to this board: one on which it failed only where there is no other.
fn allows(input: &Input, job: &WaitingJob, board: &BoardFact) -> bool {
    fits(job, board)
        && (!job.avoid.contains(&board.name)
            || !input.boards.iter().any(|other| {
                fits(job, other)
                    && !job.avoid.contains(&other.name)
                    && !matches!(other.standing, Standing::Out(_))
            }))
}

/// The job that goes first of those for which there is a board, with its place in `left`.
fn next<'a>(
    input: &Input,
    left: &[&WaitingJob],
    free: &Free<'a>,
    shares: &BTreeMap<String, f64>,
) -> Option<(usize, &'a BoardFact)> {
    if free.boards.is_empty() {
        return None;
    }
    let mut best: Option<(usize, &BoardFact)> = None;
    for (at, job) in left.iter().enumerate() {
        if let Some((first, _)) = best
            && order(job, left[first], shares) != Ordering::Less
        {
            continue;
        }
        if let Some(board) = free.board_for(input, job) {
            best = Some((at, board));
        }
    }
    best
}

fn rank(job: &WaitingJob) -> u32 {
    u32::from(job.priority.value()).saturating_add(job.overtaken / AGING)
}

/// `Less` if `a` goes before `b`.
fn order(a: &WaitingJob, b: &WaitingJob, shares: &BTreeMap<String, f64>) -> Ordering {
    let share = |job: &WaitingJob| shares.get(&job.submitter).copied().unwrap_or(0.0);
    let is_test = |job: &WaitingJob| job.kind == Kind::Test;
    is_test(a)
        .cmp(&is_test(b))
        .then(rank(b).cmp(&rank(a)))
        .then(share(a).total_cmp(&share(b)))
        .then(a.id.cmp(&b.id))
}

fn reason(
    job: &WaitingJob,
    board: &BoardFact,
    shares: &BTreeMap<String, f64>,
    left: usize,
) -> String {
    if job.kind == Kind::Health {
        return format!("the health check of {}", board.name);
    }
    let rank = rank(job);
    let aged = match job.overtaken / AGING {
        0 => String::new(),
        _ => format!(", raised to {rank} because it was overtaken"),
    };
    let share = shares.get(&job.submitter).copied().unwrap_or(0.0);
    format!(
        "{} is free and fits; first of {} waiting jobs by priority {}{aged}, share of {} ({share:.1}), age",
        board.name,
        left + 1,
        job.priority,
        job.submitter,
    )
}

/// What a waiting job waits for, in one sentence; `None` if it does not wait.
pub fn explain(input: &Input, id: i64) -> Option<String> {
    let job = input.waiting.iter().find(|job| job.id == id)?;
    Some(match &input.held {
        Some(held) => held.clone(),
        None => explain_job(input, job),
    })
}

fn explain_job(input: &Input, job: &WaitingJob) -> String {
    let fitting: Vec<&BoardFact> = input.boards.iter().filter(|it| fits(job, it)).collect();
    if fitting.is_empty() {
        return format!("the lab has no {}", wanted(job));
    }
    let is_open = |board: &&BoardFact| is_open(board, job.kind) && allows(input, job, board);
    let open: Vec<&BoardFact> = fitting.iter().copied().filter(is_open).collect();
    let (emulated, real): (Vec<&BoardFact>, Vec<&BoardFact>) =
        open.iter().copied().partition(|board| board.emulated);
    if real.is_empty() && !emulated.is_empty() && free_slots(input) == 0 {
        return format!(
            "this host emulates {} boards at once, and all of them are in use",
            input.emulated_limit
        );
    }
    if !real.is_empty() || !emulated.is_empty() {
        let ahead = input.waiting.iter().filter(|other| {
            order(other, job, &input.shares) == Ordering::Less
                && open.iter().any(|board| fits(other, board))
        });
        return match ahead.count() {
            0 => "it is about to start".into(),
            1 => "one job goes first".into(),
            count => format!("{count} jobs go first"),
        };
    }
    let told: Vec<String> = fitting.iter().map(|board| state_of(job, board)).collect();
    match told.len() {
        1..=4 => told.join("; "),
        count => format!("{}; and {} more", told[..4].join("; "), count - 4),
    }
}

fn state_of(job: &WaitingJob, board: &BoardFact) -> String {
    let name = &board.name;
    match &board.standing {
        Standing::Free if job.avoid.contains(name) => {
            format!("the job failed on {name} and goes to another board")
        }
        Standing::Free => format!("{name} is free"),
        Standing::HealthOnly(why) => format!("{name} has its health check first: {why}"),
        Standing::Busy(other) => format!("{name} runs job {other}"),
        Standing::Reserved(by) => format!("{name} is reserved by {by}"),
        Standing::Out(why) => format!("{name} {why}"),
    }
}

fn wanted(job: &WaitingJob) -> String {
    let mut text = match (&job.board, &job.board_type) {
        (Some(name), _) => format!("board `{name}`"),
        (None, Some(name)) => format!("board of the type `{name}`"),
        (None, None) => "board".into(),
    };
    if !job.tags.is_empty() {
        text.push_str(&format!(" with the tags {}", job.tags.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests;
