//! Owns the lab's manager: one thread that ends attempts, begins others, asks for health checks and switches idle boards
//! off. It sleeps until something wakes it. Never runs a job itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::directories::Directories;
use super::end;
use super::runner::{Notifier, ORDER, Order, Runner, Wake};
use super::signals::Signals;
use super::snapshot::Snapshot;
use crate::data;
use crate::lab::queue::{Health, Input, Kind, Next, Outcome, Submission, is_due, plan};
use crate::lab::store::{Cancelled, LabStore, NewJob, OpenAttempt, StoreError};
use crate::output::write_atomically;
use crate::recipe::{Board, LoadedLab, Power};

/// The longest sleep: what no event tells is seen after this time.
const LOOK: Duration = Duration::from_secs(60);
/// How soon is tried again what failed by the store or the disk.
const AGAIN: Duration = Duration::from_secs(2);
/// Who submits health checks.
const HEARTH: &str = "hearth";

/// What a lab is made of.
pub struct Parts {
    pub store: Arc<LabStore>,
    /// The lab file as it is now, or as it was when it was last right.
    pub roster: Arc<dyn Fn() -> Arc<LoadedLab> + Send + Sync>,
    pub runner: Arc<dyn Runner>,
    pub directories: Directories,
    /// The directory of the builds that are served.
    pub images: PathBuf,
    pub lab_file: PathBuf,
}

/// The running lab: shared by the manager and by all who ask something of it.
pub struct Lab {
    pub(super) parts: Parts,
    pub(super) wakes: Sender<Wake>,
    pub(super) signals: Arc<Signals>,
    /// Boards that are kept from jobs for a moment, and by what.
    claims: Mutex<BTreeMap<String, Vec<String>>>,
}

/// The manager's side of a lab.
pub struct Manager {
    lab: Arc<Lab>,
    wakes: Receiver<Wake>,
    /// Attempts whose end the store has not taken yet.
    ended: Vec<i64>,
    stopping: bool,
    /// When the lab was started, as the store counts.
    begun: f64,
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

impl Lab {
    /// The lab and its manager, which is to be run in a thread.
    pub fn new(parts: Parts) -> (Arc<Lab>, Manager) {
        let (sender, wakes) = channel();
        let begun = parts.store.since_start();
        let lab = Arc::new(Lab {
            parts,
            wakes: sender,
            signals: Arc::default(),
            claims: Mutex::default(),
        });
        let manager = Manager {
            lab: Arc::clone(&lab),
            wakes,
            ended: Vec::new(),
            stopping: false,
            begun,
        };
        (lab, manager)
    }

    pub fn store(&self) -> &Arc<LabStore> {
        &self.parts.store
    }

    pub fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    pub fn directories(&self) -> &Directories {
        &self.parts.directories
    }

    /// The lab file as it is now.
    pub fn file(&self) -> Arc<LoadedLab> {
        (self.parts.roster)()
    }

    /// Has the manager look at the queue.
    pub fn look(&self) {
        let _ = self.wakes.send(Wake::Look);
        self.signals.lab();
    }

    /// Ends all runs, whose jobs wait again, and then the manager.
    pub fn stop(&self) {
        let _ = self.wakes.send(Wake::Stop);
    }

    /// Cancels a job.
    pub fn cancel(&self, id: i64, who: &str) -> Result<Cancelled, StoreError> {
        let cancelled = self.parts.store.cancel_lab_job(id, who, now())?;
        if matches!(cancelled, Cancelled::Running(_)) {
            self.stop_run_of(id)?;
        }
        self.signals.job(id);
        self.look();
        Ok(cancelled)
    }

    fn stop_run_of(&self, job: i64) -> Result<(), StoreError> {
        let open = self.parts.store.open_attempts()?;
        for attempt in open.iter().filter(|attempt| attempt.job == job) {
            if let Some(order) = self.order(attempt)? {
                self.parts.runner.stop(&order);
            }
        }
        Ok(())
    }

    /// The order of an attempt, made of what the store has.
    fn order(&self, attempt: &OpenAttempt) -> Result<Option<Order>, StoreError> {
        let Some(job) = self.parts.store.lab_job(attempt.job)? else {
            return Ok(None);
        };
        let directories = &self.parts.directories;
        Ok(Some(Order {
            attempt: attempt.id,
            job: attempt.job,
            board: attempt.board.clone(),
            lab: self.parts.lab_file.clone(),
            images: self.parts.images.clone(),
            files: directories.files(&job.files),
            directory: directories.attempt(attempt.job, attempt.number),
            spec: job.spec,
        }))
    }

    pub(super) fn claims(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let first =
            |(board, by): (&String, &Vec<String>)| Some((board.clone(), by.first()?.clone()));
        let claims = self.claims().iter().filter_map(first).collect();
        Snapshot::take(&self.parts.store, self.file(), claims)
    }

    /// What the scheduler decides from at this moment.
    pub fn input(&self) -> Result<Input, StoreError> {
        self.snapshot()?
            .input(&self.parts.store, self.parts.directories.full())
    }

    fn notifier(&self, attempt: &OpenAttempt) -> Notifier {
        Notifier {
            attempt: attempt.id,
            job: attempt.job,
            wakes: self.wakes.clone(),
            signals: Arc::clone(&self.signals),
        }
    }
}

/// Keeps a board from jobs until it is dropped.
pub(super) struct Claim {
    lab: Arc<Lab>,
    board: String,
    by: String,
}

impl Claim {
    pub(super) fn new(lab: &Arc<Lab>, board: &str, by: &str) -> Claim {
        let mut claims = lab.claims();
        claims.entry(board.into()).or_default().push(by.into());
        drop(claims);
        Claim {
            lab: Arc::clone(lab),
            board: board.into(),
            by: by.into(),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.lab.claims();
        if let Some(all) = claims.get_mut(&self.board) {
            if let Some(at) = all.iter().position(|by| *by == self.by) {
                all.remove(at);
            }
            if all.is_empty() {
                claims.remove(&self.board);
            }
        }
        drop(claims);
        self.lab.look();
    }
}

impl Manager {
    /// Manages the lab until it is stopped and its runs have ended.
    pub fn run(mut self) {
        let mut next = match self.recover() {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                log::error!("the lab's runs of before cannot be taken up: {error:#}");
                AGAIN
            }
        };
        loop {
            if !self.wait(next) {
                return;
            }
            next = self.turn().unwrap_or_else(|error| {
                log::error!("{error:#}");
                AGAIN
            });
            if self.stopping && self.is_quiet() {
                return;
            }
        }
    }

    /// Waits to be woken, or for a time; takes all that has come. Gives `false` when nobody is left to wake it.
    fn wait(&mut self, next: Duration) -> bool {
        let mut wake = match self.wakes.recv_timeout(next) {
            Ok(wake) => Some(wake),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        while let Some(it) = wake {
            match it {
                Wake::Look => {}
                Wake::Ended(attempt) => self.ended.push(attempt),
                Wake::Running(job) => {
                    if let Err(error) = self.lab.parts.store.lab_job_runs(job) {
                        log::error!("{:#}", anyhow::Error::new(error));
                    }
                    self.lab.signals.job(job);
                    self.lab.signals.lab();
                }
                Wake::Stop => self.stop(),
            }
            wake = self.wakes.try_recv().ok();
        }
        true
    }

    fn is_quiet(&self) -> bool {
        let open = self.lab.parts.store.open_attempts();
        self.ended.is_empty() && open.is_ok_and(|open| open.is_empty())
    }

    fn stop(&mut self) {
        self.stopping = true;
        for attempt in self.lab.parts.store.open_attempts().unwrap_or_default() {
            if let Ok(Some(order)) = self.lab.order(&attempt) {
                self.lab.parts.runner.stop(&order);
            }
        }
    }

    /// Takes up the runs of an earlier process that still go on; the others have ended.
    fn recover(&mut self) -> Result<()> {
        for attempt in self.lab.parts.store.open_attempts()? {
            let order = self.lab.order(&attempt)?;
            let goes_on = match &order {
                Some(order) => self
                    .lab
                    .parts
                    .runner
                    .resume(order, self.lab.notifier(&attempt))?,
                None => false,
            };
            match goes_on {
                true => {
                    log::warn!("job {} on {} is taken up again", attempt.job, attempt.board);
                    if let (true, Some(order)) = (attempt.cancel, order) {
                        self.lab.parts.runner.stop(&order);
                    }
                }
                false => self.ended.push(attempt.id),
            }
        }
        Ok(())
    }

    /// One look at everything; gives how long nothing else is to be done.
    fn turn(&mut self) -> Result<Duration> {
        let store = &self.lab.parts.store;
        if !store.end_old_leases(now())?.is_empty() {
            self.lab.signals.lab();
        }
        self.end_attempts()?;
        if self.stopping {
            return Ok(AGAIN);
        }
        let held = self.lab.parts.directories.full();
        self.check_health()?;
        let snapshot = self.lab.snapshot()?;
        let input = snapshot.input(&self.lab.parts.store, held.clone())?;
        let plan = plan(&input);
        self.lab.parts.store.overtaken(&plan.overtaken)?;
        for start in &plan.starts {
            self.begin(start.job, &start.board, &start.reason)?;
        }
        let idle = self.switch_off_idle(&self.lab.snapshot()?)?;
        let lease = self.lab.parts.store.next_lease_end()?;
        let seconds = [idle, lease].into_iter().flatten().fold(f64::MAX, f64::min);
        let every = snapshot.due().every;
        let mut next = LOOK;
        if snapshot.due().checks && every > 0.0 {
            next = next.min(Duration::from_secs_f64(every.max(1.0)));
        }
        if held.is_some() {
            next = AGAIN;
        }
        Ok(next.min(Duration::from_secs_f64(
            seconds.clamp(0.02, LOOK.as_secs_f64()),
        )))
    }

    fn end_attempts(&mut self) -> Result<()> {
        while let Some(&id) = self.ended.last() {
            self.end(id)?;
            self.ended.pop();
        }
        Ok(())
    }

    fn end(&self, id: i64) -> Result<()> {
        let store = &self.lab.parts.store;
        let open = store.open_attempts()?;
        let Some(attempt) = open.iter().find(|attempt| attempt.id == id) else {
            return Ok(());
        };
        let directory = self
            .lab
            .parts
            .directories
            .attempt(attempt.job, attempt.number);
        self.settle(attempt, &end::outcome(&directory))
    }

    fn settle(&self, attempt: &OpenAttempt, outcome: &Outcome) -> Result<()> {
        let checks = self.lab.file().settings.health.check;
        let settled = self
            .lab
            .parts
            .store
            .end_attempt(attempt.id, outcome, checks, now())?;
        let Some(settled) = settled else {
            return Ok(());
        };
        let (before, after) = &settled.health;
        if before.health != after.health && after.health == Health::Good {
            log::info!("board {} is good: {}", settled.board, after.why);
        } else if before.health != after.health {
            log::warn!("board {} is {}: {}", settled.board, after.health, after.why);
        }
        let what = match settled.next {
            Next::Finished(health) => format!("finished, {health}"),
            Next::Again => "waits again".into(),
        };
        log::info!(
            "job {} on {}: {} ({what})",
            settled.job,
            settled.board,
            outcome.name()
        );
        self.lab.signals.job(settled.job);
        self.lab.signals.lab();
        Ok(())
    }

    /// Submits the health checks that are due.
    fn check_health(&self) -> Result<()> {
        let snapshot = self.lab.snapshot()?;
        let in_check = self.lab.parts.store.boards_in_check()?;
        for board in &snapshot.lab.boards {
            let health = snapshot.health(&board.name);
            let Some(why) = is_due(&health, snapshot.due(), now()) else {
                continue;
            };
            if in_check.contains(&board.name) || board.console.is_none() || board.power.is_none() {
                continue;
            }
            if let Err(error) = self.submit_check(board) {
                log::error!(
                    "the health check of {} cannot be submitted: {error:#}",
                    board.name
                );
                continue;
            }
            self.lab.parts.store.note_board_event(
                &board.name,
                &format!("its health is checked: {why}"),
                HEARTH,
                now(),
            )?;
        }
        Ok(())
    }

    fn submit_check(&self, board: &Board) -> Result<()> {
        let text = health_definition(&self.lab.file(), board)?;
        let files = self.lab.keep_text("health.yaml", &text)?;
        let spec = Submission {
            definitions: vec!["health.yaml".into()],
            board: Some(board.name.clone()),
            ..Submission::default()
        };
        self.lab.parts.store.enqueue(&NewJob {
            kind: Kind::Health,
            name: &format!("health check of {}", board.name),
            submitter: HEARTH,
            spec: &spec,
            files: &files,
            now: now(),
        })?;
        Ok(())
    }

    fn begin(&self, job: i64, board: &str, reason: &str) -> Result<()> {
        let store = &self.lab.parts.store;
        let Some(attempt) = store.begin_attempt(job, board, reason, now())? else {
            return Ok(());
        };
        self.lab.signals.job(job);
        self.lab.signals.lab();
        if let Err(error) = self.start(&attempt) {
            log::error!("job {job} cannot be begun on {board}: {error:#}");
            let outcome = Outcome {
                class: Some(crate::board::FailureClass::Infrastructure),
                stage: None,
                message: Some(format!("its run could not be begun: {error:#}")),
                exit: 4,
                image: None,
                // The lab's own fault, not the board's.
                lost: true,
            };
            self.settle(&attempt, &outcome)?;
        }
        Ok(())
    }

    fn start(&self, attempt: &OpenAttempt) -> Result<()> {
        let order = self.lab.order(attempt)?.context("the job is gone")?;
        fs::create_dir_all(&order.directory)
            .with_context(|| format!("cannot make {}", order.directory.display()))?;
        write_atomically(&order.directory.join(ORDER), &serde_json::to_vec(&order)?)?;
        self.lab
            .parts
            .runner
            .start(&order, self.lab.notifier(attempt))
    }

    /// Switches off boards that nothing has used for the lab's `idle` seconds. Gives when the next one is due.
    fn switch_off_idle(&self, snapshot: &Snapshot) -> Result<Option<f64>> {
        let store = &self.lab.parts.store;
        let (powers, at) = (store.board_powers()?, store.since_start());
        let idle = snapshot.lab.settings.idle;
        let mut next: Option<f64> = None;
        for board in snapshot.unused() {
            if matches!(board.power, None | Some(Power::Qemu {} | Power::Manual {})) {
                continue;
            }
            let power = powers.get(&board.name).copied().unwrap_or_default();
            // Of a board that was never used it is not known whether it is on.
            let used = power.used.unwrap_or(self.begun);
            if power.off.is_some_and(|off| off >= used) {
                continue;
            }
            let left = used + idle - at;
            if left > 0.0 {
                next = Some(next.map_or(left, |next| next.min(left)));
            } else {
                self.switch_off(board);
            }
        }
        Ok(next)
    }

    fn switch_off(&self, board: &Board) {
        let claim = Claim::new(&self.lab, &board.name, "the lab, which switches it off");
        let (lab, board) = (Arc::clone(&self.lab), board.clone());
        // Power switches may take seconds.
        std::thread::spawn(move || {
            let store = &lab.parts.store;
            let noted = match lab.parts.runner.power_off(&board) {
                Ok(()) => store.board_is_off(&board.name),
                Err(error) => {
                    log::error!("board {} cannot be switched off: {error:#}", board.name);
                    let what = format!("cannot be switched off: {error:#}");
                    // Tried again when it has been idle once more.
                    store
                        .note_board_event(&board.name, &what, HEARTH, now())
                        .and_then(|()| store.board_was_used(&board.name))
                }
            };
            if let Err(error) = noted {
                log::error!("{:#}", anyhow::Error::new(error));
            }
            drop(claim);
        });
    }
}

/// The text of the definition that checks a board.
fn health_definition(lab: &LoadedLab, board: &Board) -> Result<String> {
    let health = &lab.settings.health;
    let Some(path) = health.types.get(&board.type_name).or(health.job.as_ref()) else {
        let shipped = data::find_file("examples/smoke.yaml")?;
        return Ok(shipped.context("hearth ships no examples/smoke.yaml")?.text);
    };
    let beside = lab.path.as_deref().and_then(|path| path.parent());
    let path = beside.map_or_else(|| path.clone(), |directory| directory.join(path));
    Ok(data::read(&path)?.text)
}
