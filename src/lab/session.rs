//! Owns one attempt at a job: the board's console, its check-in and its output become results.
//! Never decides whether to try again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::access::Access;
use super::attended::Attended;
use super::run::{Observer, Order};
use super::secret;
use super::store::{Boot, JobState};
use crate::board::power::Light;
use crate::board::{ConsoleLog, Event, Failure, FailureClass, State};
use crate::job::{Attempt, Collector, Identity, Merger, NumberedLine, Suite, has_signal};

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long, in seconds, the network's copy of the output may lag behind the console's.
const LAG: f64 = 20.0;

/// How long after its last words a board may take to be off.
const HALT: Duration = Duration::from_secs(2);

/// What came of one attempt.
pub(super) struct Outcome {
    pub attempt: Attempt,
    /// The last state that the board reached.
    pub reached: State,
    pub suites: Vec<Suite>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
    pub identity: Identity,
}

/// An attempt under way.
pub(super) struct Session<'a> {
    order: &'a Order<'a>,
    board: Attended<'a>,
    job: i64,
    looked: Instant,
    /// When the board last gave a sign of life for the job, as of the last look at the store.
    seen: Option<f64>,
    boot: Option<Boot>,
    /// Whether the board told the lab that the job is done, as of the last look at the store.
    finished: bool,
    identity: Identity,
    output: Output,
    /// How many suites, and how many cases of the next one, the observer knows.
    told: (usize, usize),
    problems: Vec<String>,
    warnings: Vec<String>,
    /// Whether the results came over the console, because the network brought nothing any more.
    network_failed: bool,
}

/// The job's output, from both channels.
struct Output {
    merger: Merger,
    collector: Collector,
    /// How much of the network's copy was read, in bytes and in lines.
    read: u64,
    lines: u64,
    partial: Vec<u8>,
    /// When the console last brought a line of it.
    console_at: f64,
}

impl<'a> Session<'a> {
    /// Switches the board on, and then submits the job: whoever checked in before was an earlier boot.
    pub(super) fn begin(
        order: &'a Order<'a>,
        access: &'a mut Access,
        begun: Instant,
        log: &'a mut ConsoleLog,
    ) -> Result<Self> {
        order.store.cancel_all(order.board)?;
        let mut board = Attended::on(access, order.timeouts, begun, log)?;
        order.store.powered_on(order.board)?;
        board.board.light(Light::Off);
        Ok(Session {
            order,
            board,
            job: order.store.submit(order.board, order.payload)?,
            looked: begun,
            seen: None,
            boot: None,
            finished: false,
            identity: Identity::default(),
            output: Output {
                merger: Merger::default(),
                collector: Collector::new(order.patterns.clone(), order.suites.clone())
                    .strict(order.strict),
                read: 0,
                lines: 0,
                partial: Vec::new(),
                console_at: 0.0,
            },
            told: (0, 0),
            problems: Vec::new(),
            warnings: Vec::new(),
            network_failed: false,
        })
    }

    /// Goes through with the attempt, and switches the board off.
    pub(super) fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let failure = self.watch(observer)?;
        if failure.is_none() {
            self.warnings.extend(self.board.gone());
        }
        self.read_what_is_left()?;
        self.order.store.cancel(self.job)?;
        let failure = failure.or_else(|| self.lost_lines());
        self.tell_unconfirmed()?;
        let reached = self.board.machine.state();
        let failure = match failure {
            Some(failure) => {
                self.board.board.light(Light::Failed);
                Some(self.board.explained(failure)?)
            }
            None => {
                self.shut_down(observer)?;
                None
            }
        };
        self.tell(observer);
        let failure = self.switch_off(failure);
        let at = self.board.at();
        let (suites, mut problems) = self.output.collector.finish(at);
        problems.append(&mut self.problems);
        Ok(Outcome {
            attempt: Attempt {
                stages: self.board.machine.stages(at),
                failure,
            },
            reached,
            suites,
            problems,
            warnings: self.warnings,
            identity: self.identity,
        })
    }

    /// Watches over the board until the job is done or something failed.
    fn watch(&mut self, observer: &mut dyn Observer) -> Result<Option<Failure>> {
        loop {
            if self.order.cancelled.load(Ordering::Relaxed) {
                return Ok(Some(
                    self.failed(FailureClass::Cancelled, "somebody stopped the run"),
                ));
            }
            if let Some(failure) = self.read_console()? {
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
                let crash = self.board.machine.crash();
                self.board.machine.done(self.board.at());
                return Ok(crash);
            }
            if let Some(failure) = self.board.failure() {
                return Ok(Some(failure));
            }
        }
    }

    fn read_console(&mut self) -> Result<Option<Failure>> {
        let was_lost = self.board.lost().is_some();
        let events = self.board.look()?;
        self.warnings.extend(self.board.take_missed());
        for event in events {
            let (line, raw, of_job) = match event {
                Event::Line { text, raw, of_job } => (text, raw, of_job),
                Event::BootScript { board, image } => {
                    if let Some(wrong) = self.somebody_else(&board, &image) {
                        return Ok(Some(self.failed(FailureClass::Configuration, &wrong)));
                    }
                    continue;
                }
                _ => continue,
            };
            if !of_job && let Some(hash) = secret::shown(&line) {
                self.order.store.confirm(self.order.board, hash)?;
            }
            let at = self.board.at();
            match NumberedLine::from_console(&raw) {
                Some(numbered) => {
                    self.output.console_at = at;
                    self.output.merge(numbered, at);
                }
                // Outside a job the kernel's own tests report on the console.
                None if self.board.machine.state() < State::Running
                    && !line.starts_with("hearth:") =>
                {
                    self.output.collector.line(&line, at);
                }
                // A step may send a signal through the kernel's log (LAVA's `lava-signal: kmsg`) or to the console itself.
                None if !of_job && has_signal(&line) => self.output.collector.line(&line, at),
                None => {}
            }
        }
        let Some(what) = self.board.lost().filter(|_| !was_lost).map(String::from) else {
            return Ok(None);
        };
        // The board may have checked in since the store was looked at.
        let failure = self.read_store()?;
        if !self.board.judge_loss() {
            self.warnings.push(what);
        }
        Ok(failure)
    }

    /// What is wrong with the name and the image that the board's boot script told.
    fn somebody_else(&self, board: &str, image: &str) -> Option<String> {
        let Order {
            board: wanted,
            image: right,
            ..
        } = self.order;
        if board != *wanted {
            return Some(format!(
                "the board on {wanted}'s console calls itself `{board}`: does it have {board}'s card?"
            ));
        }
        (image != *right)
            .then(|| format!("`{board}` should boot the image {right} and boots {image}"))
    }

    fn read_store(&mut self) -> Result<Option<Failure>> {
        if self.boot.is_none()
            && let Some(failure) = self.read_check_in()?
        {
            return Ok(Some(failure));
        }
        let Some(job) = self.order.store.job(self.job)? else {
            return Ok(Some(self.failed(
                FailureClass::Bug,
                "the job is gone from the lab's store",
            )));
        };
        self.finished = job.state == JobState::Finished;
        let at = self.board.at();
        if job.state != JobState::Submitted && self.board.machine.state() < State::Running {
            self.board.machine.running(at);
            self.board.board.light(Light::Testing);
        }
        if job.seen != self.seen {
            self.seen = job.seen;
            self.board.machine.sign(at);
        }
        self.read_network(at)?;
        Ok(None)
    }

    fn read_check_in(&mut self) -> Result<Option<Failure>> {
        // Whoever this board's console confirmed is the board, whatever name it gives.
        let Some(boot) = self
            .order
            .store
            .confirmed(self.order.board)?
            .into_iter()
            .next()
        else {
            return Ok(None);
        };
        self.identity = identity(&boot);
        if boot.claim.board == self.order.board {
            self.board.machine.checked_in(self.board.at());
        }
        if let Some(problem) = &boot.problem {
            return Ok(Some(self.failed(FailureClass::Configuration, problem)));
        }
        self.board.board.light(Light::Master);
        self.boot = Some(boot);
        Ok(None)
    }

    /// A board that checked in and whose console did not show it: another host, or an agent of an older hearth.
    fn tell_unconfirmed(&mut self) -> Result<()> {
        if self.boot.is_some() {
            return Ok(());
        }
        for boot in self.order.store.unconfirmed(self.order.board)? {
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
        let fresh = self.order.store.output(self.job, self.output.read)?;
        self.output.network(&fresh, at);
        Ok(!fresh.is_empty())
    }

    /// Nothing more will come: whatever is there counts, unless somebody stops the run.
    fn read_what_is_left(&mut self) -> Result<()> {
        while !self.order.cancelled.load(Ordering::Relaxed)
            && self.output.read <= self.order.largest_output
            && self.read_network(self.board.at())?
        {}
        self.output.take_waiting_lines(self.board.at());
        Ok(())
    }

    /// Why the job is ended if it prints more than a job may.
    fn flood(&self) -> Option<Failure> {
        let largest = self.order.largest_output;
        (self.output.read.max(self.board.heard()) > largest).then(|| {
            self.failed(
                FailureClass::Test,
                &format!("the board printed more than {} MB: the job was ended (`largest-output` in the lab file)", largest / 1_000_000),
            )
        })
    }

    /// The job is over when the lab has all of it; or when the console saw its end and the network stays behind.
    fn is_over(&mut self) -> Result<bool> {
        if self.finished {
            self.read_what_is_left()?;
            if !self.output.collector.exited() {
                self.problems.push(
                    "the board says that the job is done, and its runner did not say so".into(),
                );
            }
            return Ok(true);
        }
        if self.output.collector.exited() && self.board.at() - self.output.console_at > LAG {
            self.network_failed = true;
            self.warnings
                .push("the results came over the console alone: the network failed".into());
            return Ok(true);
        }
        Ok(false)
    }

    /// Lines that neither channel brought may have been results.
    fn lost_lines(&self) -> Option<Failure> {
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
        if let Some(boot) = &self.boot {
            self.order.store.dismiss(boot)?;
        }
        if self.network_failed {
            // It cannot be told that it is dismissed.
            return Ok(());
        }
        let mut end = Instant::now() + Duration::from_secs_f64(self.order.timeouts.shutdown);
        let mut halted = false;
        while !self.board.board.is_off() && self.board.lost().is_none() {
            if self.order.cancelled.load(Ordering::Relaxed) {
                break;
            }
            if Instant::now() >= end {
                if !halted {
                    observer.note("the board did not power itself off");
                }
                break;
            }
            // It says so before it does; a board that cannot switch itself off stays like that.
            if self.board.look()?.contains(&Event::Shutdown) {
                halted = true;
                end = Instant::now() + HALT;
            }
        }
        Ok(())
    }

    /// A board that cannot be switched off is a failure if there is no other.
    fn switch_off(&mut self, failure: Option<Failure>) -> Option<Failure> {
        match self.board.board.off() {
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
        self.board.tell(observer);
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

    fn failed(&self, class: FailureClass, message: &str) -> Failure {
        self.board.machine.failed(class, message)
    }
}

impl Output {
    fn merge(&mut self, line: NumberedLine, at: f64) {
        for line in self.merger.add(line) {
            self.collector.line(&line, at);
        }
    }

    /// Takes what the network brought since the last time.
    fn network(&mut self, fresh: &[u8], at: f64) {
        self.read += fresh.len() as u64;
        let mut rest = fresh;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.partial.extend(&rest[..end]);
            rest = &rest[end + 1..];
            self.lines += 1;
            let text = String::from_utf8_lossy(&self.partial).into_owned();
            self.partial.clear();
            self.merge(
                NumberedLine {
                    number: self.lines,
                    text,
                },
                at,
            );
        }
        self.partial.extend(rest);
    }

    /// Reads the lines that wait for one that is missing: it will not come any more.
    fn take_waiting_lines(&mut self, at: f64) {
        for line in self.merger.finish() {
            self.collector.line(&line, at);
        }
    }
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
