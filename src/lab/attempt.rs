//! Owns one attempt at a job: the board's console, its check-in and its output become results.
//! Never decides whether to try again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::board_access::BoardAccess;
use super::console_monitor::ConsoleMonitor;
use super::job_output::JobOutput;
use super::request::{JobRequest, Observer};
use super::store::{Boot, JobState, StoreError};
use crate::board::power::Light;
use crate::board::shell::{ShellSession, ShellState};
use crate::board::{BootState, ConsoleEvent, ConsoleLog, FailureClass, RunFailure};
use crate::job::{AttemptRecord, Collector, Identity, NumberedLine, Suite, has_signal};
use crate::recipe::Login;

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long, in seconds, the network's copy of the output may lag behind the console's.
const LAG: f64 = 20.0;

/// For how many seconds beyond its tests' time-out a board with a shell is kept from powering itself off.
const HELD: f64 = 3600.0;
/// How long a board may take to be off after its kernel said that it powers down.
const HALT: Duration = Duration::from_secs(2);

/// The result of one attempt.
pub(super) struct AttemptResult {
    pub attempt: AttemptRecord,
    /// The last state that the board reached.
    pub reached: BootState,
    /// Whether the lab's store failed: another attempt could do no better.
    pub store_lost: bool,
    pub suites: Vec<Suite>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
    pub identity: Identity,
}

/// How the board gets the job.
enum Job {
    /// Its agent fetches it: the job's number in the store.
    Agent(i64),
    /// A shell on its console is given it.
    Shell(Box<ShellSession>),
}

/// An attempt under way.
pub(super) struct Attempt<'a> {
    request: &'a JobRequest<'a>,
    monitor: ConsoleMonitor<'a>,
    job: Job,
    looked: Instant,
    /// When the board last gave a sign of life for the job, as of the last look at the store.
    seen: Option<f64>,
    boot: Option<Boot>,
    /// Whether the board told the lab that the job is done, as of the last look at the store.
    finished: bool,
    identity: Identity,
    output: JobOutput,
    /// How many suites, and how many cases of the next one, were given to the observer.
    told: (usize, usize),
    problems: Vec<String>,
    warnings: Vec<String>,
    /// Whether the results came over the console, because the network brought nothing any more.
    network_failed: bool,
}

impl<'a> Attempt<'a> {
    /// Switches the board on, and then submits the job: any check-in before that was of an earlier boot.
    pub(super) fn begin(
        request: &'a JobRequest<'a>,
        access: &'a mut BoardAccess,
        begun: Instant,
        log: &'a mut ConsoleLog,
    ) -> Result<Self> {
        request.store.cancel_all(request.board)?;
        let mut monitor = ConsoleMonitor::on(access, request.timeouts, begun, log)?;
        request.store.powered_on(request.board)?;
        monitor.board.light(Light::Off);
        let job = match &request.login {
            None => Job::Agent(request.store.submit(request.board, request.payload)?),
            Some(login) => {
                monitor.tracker.expect_shell();
                Job::Shell(Box::new(shell_session(request, login)?))
            }
        };
        Ok(Attempt {
            request,
            monitor,
            job,
            looked: begun,
            seen: None,
            boot: None,
            finished: false,
            identity: Identity::default(),
            output: JobOutput::new(
                Collector::new(request.patterns.clone(), request.suites.clone())
                    .strict(request.strict),
            ),
            told: (0, 0),
            problems: Vec::new(),
            warnings: Vec::new(),
            network_failed: false,
        })
    }

    /// Follows the board to the end of its job, and switches it off.
    pub(super) fn run(mut self, observer: &mut dyn Observer) -> Result<AttemptResult> {
        let (failure, store_lost) = match self.follow(observer) {
            Ok(failure) => (failure, false),
            Err(error) => (Some(self.lost_store(error)?), true),
        };
        let reached = self.monitor.tracker.state();
        let failure = match failure {
            Some(failure) => {
                self.monitor.board.light(Light::Failed);
                Some(self.monitor.explained(failure)?)
            }
            None => {
                self.shut_down(observer)?;
                None
            }
        };
        self.tell(observer);
        let failure = self.switch_off(failure);
        let at = self.monitor.at();
        let (suites, mut problems) = self.output.collector.finish(at);
        problems.append(&mut self.problems);
        Ok(AttemptResult {
            attempt: AttemptRecord {
                stages: self.monitor.tracker.stages(at),
                failure,
            },
            reached,
            store_lost,
            suites,
            problems,
            warnings: self.warnings,
            identity: self.identity,
        })
    }

    /// Watches the board until the job is over, and closes the job in the store.
    fn follow(&mut self, observer: &mut dyn Observer) -> Result<Option<RunFailure>> {
        let failure = self.watch(observer)?;
        if failure.is_none() {
            self.warnings.extend(self.monitor.gone());
        }
        match (failure, self.close()) {
            (None, closed) => closed.map(|()| self.lost_lines()),
            (Some(failure), Ok(())) => Ok(Some(failure)),
            // The first failure counts.
            (Some(failure), Err(error)) => {
                self.warnings.push(format!("{error:#}"));
                Ok(Some(failure))
            }
        }
    }

    /// Reads what is left of the output, and ends the job in the store.
    fn close(&mut self) -> Result<()> {
        self.read_what_is_left()?;
        match self.job {
            Job::Agent(id) => {
                self.request.store.cancel(id)?;
                self.tell_unconfirmed()
            }
            Job::Shell(_) => Ok(self.request.store.hold(self.request.board, 0.0)?),
        }
    }

    /// The failure of a run whose store cannot be used any more. What the console brought counts.
    ///
    /// # Errors
    /// If the error is another one.
    fn lost_store(&mut self, error: anyhow::Error) -> Result<RunFailure> {
        let error: StoreError = error.downcast()?;
        self.output.take_waiting_lines(self.monitor.at());
        let message = format!("{:#}", anyhow::Error::new(error));
        Ok(self.failed(FailureClass::Infrastructure, &message))
    }

    /// Watches over the board until the job is done or something failed.
    fn watch(&mut self, observer: &mut dyn Observer) -> Result<Option<RunFailure>> {
        loop {
            if self.request.cancelled.load(Ordering::Relaxed) {
                return Ok(Some(
                    self.failed(FailureClass::Cancelled, "the run was stopped"),
                ));
            }
            if let Some(failure) = self.read_console()? {
                return Ok(Some(failure));
            }
            if let Some(failure) = self.talk_to_shell() {
                return Ok(Some(failure));
            }
            if self.looked.elapsed() >= LOOK {
                self.looked = Instant::now();
                if let Some(failure) = self.read_store()? {
                    return Ok(Some(failure));
                }
            }
            self.tell(observer);
            if let Some(failure) = self.flood() {
                return Ok(Some(failure));
            }
            if self.is_over()? {
                // A crash counts though the tests went on to their end.
                let crash = self.monitor.tracker.crash();
                self.monitor.tracker.done(self.monitor.at());
                return Ok(crash);
            }
            if let Some(failure) = self.monitor.failure() {
                return Ok(Some(failure));
            }
        }
    }

    fn read_console(&mut self) -> Result<Option<RunFailure>> {
        let was_lost = self.monitor.lost().is_some();
        let events = self.monitor.look()?;
        self.warnings.extend(self.monitor.take_missed());
        for event in events {
            let (line, raw, of_job) = match event {
                ConsoleEvent::Line { text, raw, of_job } => (text, raw, of_job),
                ConsoleEvent::BootScript { board, image } => {
                    if let Some(wrong) = self.wrong_boot(&board, &image) {
                        return Ok(Some(self.failed(FailureClass::Configuration, &wrong)));
                    }
                    continue;
                }
                _ => continue,
            };
            if !of_job {
                self.request
                    .store
                    .confirm_by_console(self.request.board, &line)?;
            }
            let at = self.monitor.at();
            match NumberedLine::from_console(&raw) {
                Some(numbered) => {
                    self.output.console_at = at;
                    self.output.merge(numbered, at);
                }
                // Outside a job the kernel's own tests report on the console.
                None if self.monitor.tracker.state() < BootState::Running
                    && !line.starts_with("hearth:") =>
                {
                    self.output.collector.line(&line, at);
                }
                // A step may send a signal through the kernel's log (LAVA's `lava-signal: kmsg`) or to the console itself.
                None if !of_job && has_signal(&line) => self.output.collector.line(&line, at),
                None => {}
            }
        }
        let Some(what) = self.monitor.lost().filter(|_| !was_lost).map(String::from) else {
            return Ok(None);
        };
        // The board may have checked in since the store was looked at.
        let failure = self.read_store()?;
        if !self.monitor.judge_loss() {
            self.warnings.push(what);
        }
        Ok(failure)
    }

    /// What is wrong with the name and the image that the board's boot script told.
    fn wrong_boot(&self, board: &str, image: &str) -> Option<String> {
        let JobRequest {
            board: wanted,
            image: right,
            ..
        } = self.request;
        if board != *wanted {
            return Some(format!(
                "the board on {wanted}'s console calls itself `{board}`: does it have {board}'s card?"
            ));
        }
        (image != *right)
            .then(|| format!("`{board}` should boot the image {right} and boots {image}"))
    }

    /// Passes on what the console brought and what the shell's session answers, where a shell runs the job.
    fn talk_to_shell(&mut self) -> Option<RunFailure> {
        let Job::Shell(shell) = &mut self.job else {
            return None;
        };
        // A bootloader's prompt is no shell's.
        if self.monitor.tracker.state() < BootState::Kernel {
            return None;
        }
        let at = self.monitor.at();
        shell.heard(self.monitor.fresh(), at);
        shell.act(self.output.merger.gap(), at);
        let text = shell.take_output();
        let written = match text.is_empty() {
            true => Ok(()),
            false => self.monitor.board.console().write(&text),
        };
        let failure = shell.failure();
        match shell.state() {
            ShellState::Waiting => {}
            ShellState::LoggedIn => self.monitor.tracker.checked_in(at),
            ShellState::Running | ShellState::Over => self.monitor.tracker.running(at),
        }
        if let Some((class, message)) = failure {
            return Some(self.failed(class, &message));
        }
        let error = written.err()?;
        let message = format!("the console cannot be written to: {error}");
        Some(self.failed(FailureClass::Infrastructure, &message))
    }

    fn read_store(&mut self) -> Result<Option<RunFailure>> {
        let Job::Agent(id) = self.job else {
            return Ok(None);
        };
        if self.boot.is_none()
            && let Some(failure) = self.read_check_in()?
        {
            return Ok(Some(failure));
        }
        let Some(job) = self.request.store.job(id)? else {
            return Ok(Some(self.failed(
                FailureClass::Bug,
                "the job is gone from the lab's store",
            )));
        };
        self.finished = job.state == JobState::Finished;
        let at = self.monitor.at();
        if job.state != JobState::Submitted && self.monitor.tracker.state() < BootState::Running {
            self.monitor.tracker.running(at);
            self.monitor.board.light(Light::Testing);
        }
        if job.seen != self.seen {
            self.seen = job.seen;
            self.monitor.tracker.sign(at);
        }
        self.read_network(at)?;
        Ok(None)
    }

    fn read_check_in(&mut self) -> Result<Option<RunFailure>> {
        // The boot that this board's console confirmed is the board's, whatever name it claims.
        let Some(boot) = self
            .request
            .store
            .confirmed(self.request.board)?
            .into_iter()
            .next()
        else {
            if self.monitor.tracker.state() >= BootState::Userspace {
                self.request.store.confirm_own_host(self.request.board)?;
            }
            return Ok(None);
        };
        self.identity = identity(&boot);
        if boot.claim.board == self.request.board {
            self.monitor.tracker.checked_in(self.monitor.at());
        }
        if let Some(problem) = &boot.problem {
            return Ok(Some(self.failed(FailureClass::Configuration, problem)));
        }
        self.monitor.board.light(Light::Master);
        self.boot = Some(boot);
        Ok(None)
    }

    /// A board that checked in and whose console did not show it: another host, or an agent of an older hearth.
    fn tell_unconfirmed(&mut self) -> Result<()> {
        if self.boot.is_some() {
            return Ok(());
        }
        for boot in self.request.store.unconfirmed(self.request.board)? {
            self.warnings.push(format!(
                "something with MAC {} checked in as `{}` and got no job: this board's console did not show its secret's \
                 hash. If it is the board, build its image again: the agent in it is older",
                boot.claim.mac, boot.claim.board
            ));
        }
        Ok(())
    }

    /// Reads a part of what the network brought; gives whether there was any.
    fn read_network(&mut self, at: f64) -> Result<bool> {
        let Job::Agent(id) = self.job else {
            return Ok(false);
        };
        let fresh = self.request.store.output(id, self.output.read)?;
        self.output.network(&fresh, at);
        Ok(!fresh.is_empty())
    }

    /// Reads the output that has arrived, until the run is cancelled: no more will come.
    fn read_what_is_left(&mut self) -> Result<()> {
        while !self.request.cancelled.load(Ordering::Relaxed)
            && self.output.read <= self.request.largest_output
            && self.read_network(self.monitor.at())?
        {}
        self.output.take_waiting_lines(self.monitor.at());
        Ok(())
    }

    /// Why the job is ended if it prints more than a job may.
    fn flood(&self) -> Option<RunFailure> {
        let largest = self.request.largest_output;
        (self.output.read.max(self.monitor.heard()) > largest).then(|| {
            self.failed(
                FailureClass::Test,
                &format!("the board printed more than {} MB: the job was ended (`largest-output` in the lab file)", largest / 1_000_000),
            )
        })
    }

    /// The job is over when the lab has all of it; or when the console saw its end and the network stays behind.
    fn is_over(&mut self) -> Result<bool> {
        if let Job::Shell(shell) = &self.job {
            self.finished = shell.state() == ShellState::Over;
            if !self.finished {
                return Ok(false);
            }
        }
        if self.finished {
            self.read_what_is_left()?;
            if !self.output.collector.exited() {
                self.problems.push(
                    "the board says that the job is done, and its runner did not say so".into(),
                );
            }
            return Ok(true);
        }
        if self.output.collector.exited() && self.monitor.at() - self.output.console_at > LAG {
            self.network_failed = true;
            self.warnings
                .push("the results came over the console alone: the network failed".into());
            return Ok(true);
        }
        Ok(false)
    }

    /// Lines that neither channel brought may have been results.
    fn lost_lines(&self) -> Option<RunFailure> {
        let lost = self.output.merger.lost();
        (lost > 0).then(|| {
            self.failed(
                FailureClass::Infrastructure,
                &format!(
                    "{lost} lines of the tests' output are lost: neither network nor console brought them"
                ),
            )
        })
    }

    /// Tells the board that it is done, and waits until it powered itself off, so that nothing it wrote is lost.
    fn shut_down(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if let Some(boot) = &self.boot
            && let Err(error) = self.request.store.dismiss(boot)
        {
            let error = anyhow::Error::new(error);
            self.warnings.push(format!("{error:#}"));
            return Ok(());
        }
        if self.network_failed {
            // It cannot be told that it is dismissed.
            return Ok(());
        }
        let mut end = Instant::now() + Duration::from_secs_f64(self.request.timeouts.shutdown);
        let mut halted = false;
        while !self.monitor.board.is_off() && self.monitor.lost().is_none() {
            if self.request.cancelled.load(Ordering::Relaxed) {
                break;
            }
            if Instant::now() >= end {
                if !halted {
                    observer.note("the board did not power itself off");
                }
                break;
            }
            // It says so before it does; a board that cannot switch itself off stays like that.
            if self.monitor.look()?.contains(&ConsoleEvent::Shutdown) {
                halted = true;
                end = Instant::now() + HALT;
            }
            if let Job::Shell(shell) = &mut self.job {
                let at = self.monitor.at();
                shell.heard(self.monitor.fresh(), at);
                shell.act(self.output.merger.gap(), at);
                if shell.stays() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A board that cannot be switched off is a failure if there is no other.
    fn switch_off(&mut self, failure: Option<RunFailure>) -> Option<RunFailure> {
        match self.monitor.board.off() {
            Ok(()) => failure,
            Err(error) if failure.is_none() => Some(self.failed(
                FailureClass::Infrastructure,
                &format!("the board could not be switched off: {error:#}"),
            )),
            Err(error) => {
                self.warnings
                    .push(format!("the board could not be switched off: {error:#}"));
                failure
            }
        }
    }

    fn tell(&mut self, observer: &mut dyn Observer) {
        self.monitor.tell(observer);
        let suites = self.output.collector.suites();
        while let Some(suite) = suites.get(self.told.0) {
            for case in &suite.cases[self.told.1..] {
                observer.case(&suite.name, case);
            }
            self.told.1 = suite.cases.len();
            if self.told.0 + 1 == suites.len() {
                break;
            }
            self.told = (self.told.0 + 1, 0);
        }
    }

    fn failed(&self, class: FailureClass, message: &str) -> RunFailure {
        self.monitor.tracker.failed(class, message)
    }
}

/// The session of a shell that runs the job. An agent that the board has as well must not power it off meanwhile.
fn shell_session(request: &JobRequest<'_>, login: &Login) -> Result<ShellSession> {
    let timeouts = &request.timeouts;
    request.store.hold(request.board, timeouts.running + HELD)?;
    let name = format!("lava-{}", std::process::id());
    ShellSession::new(login, request.payload, &name, timeouts.answer)
}

fn identity(boot: &Boot) -> Identity {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let claim = &boot.claim;
    Identity {
        board: some(&claim.board),
        mac: some(&claim.mac),
        serial: some(&claim.serial),
        model: some(&claim.model),
        soc: some(&claim.soc),
        card: some(&claim.card),
        boot: some(&claim.boot),
        image: some(&claim.image),
    }
}

#[cfg(test)]
mod tests;
