//! Owns the run of one job on one board: power, console, state machine, API and results come together here.
//! Never builds or serves anything: the board finds its image and the API already there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::store::{Boot, JobState, Store, now};
use crate::board::console::Console;
use crate::board::power::Power;
use crate::board::qemu::{Emulator, Spec};
use crate::board::{ConsoleLog, Event, Failure, FailureClass, Machine, State, Timeouts, Watch};
use crate::error;
use crate::job::{Attempt, Case, Collector, Identity, Merger, NumberedLine, Pattern, Suite};

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long one read of the console may wait.
const READ: Duration = Duration::from_millis(50);
/// How long, in seconds, the network's copy of the output may lag behind the console's.
const LAG: f64 = 20.0;
/// How long a board may take to power itself off when its job is done.
const SHUTDOWN: Duration = Duration::from_secs(90);

/// How to reach a board.
pub enum Access {
    /// An emulated one, started with this and behind this launcher.
    Emulated { spec: Spec, launcher: Vec<String> },
    /// A real one: opens its console, and its power switch.
    Real {
        power: Box<dyn Power>,
        console: Box<dyn FnMut() -> Result<Box<dyn Console>>>,
    },
}

/// Sees what happens, for a live view.
pub trait Observer {
    fn stage(&mut self, state: State, at: f64);
    fn case(&mut self, suite: &str, case: &Case);
    fn note(&mut self, text: &str);
}

/// What is to be run.
pub struct Order<'a> {
    pub board: &'a str,
    pub store: &'a Arc<Store>,
    /// The job's tar.
    pub payload: &'a [u8],
    /// The definitions' patterns, by suite.
    pub patterns: BTreeMap<String, Pattern>,
    pub timeouts: Timeouts,
    /// How often the boot may be tried again when it fails for the infrastructure's sake.
    pub retries: u32,
    /// Where `console.log` goes.
    pub directory: &'a Path,
    /// Set by Ctrl-C.
    pub cancelled: &'a AtomicBool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Ran {
    pub attempts: Vec<Attempt>,
    pub suites: Vec<Suite>,
    pub problems: Vec<String>,
    pub identity: Identity,
    /// Seconds.
    pub duration: f64,
}

/// Boots the board, has it do the job, and powers it off, whatever happens in between.
///
/// # Errors
/// Only where hearth itself cannot go on, such as a full disk; what fails on the board's side is in the result.
pub fn run(order: &Order<'_>, access: &mut Access, observer: &mut dyn Observer) -> Result<Ran> {
    let begun = Instant::now();
    let mut log = ConsoleLog::create(&order.directory.join("console.log"))?;
    let mut ran = Ran::default();
    for attempt in 0..=order.retries {
        let mut session = Session::new(order, begun, &mut log)?;
        let failure = session.go(access, observer)?;
        let at = session.at();
        let stages = session.machine.stages(at);
        let reached = session.machine.state();
        let (suites, problems) = session.collector.finish(at);
        ran.identity = session.identity;
        ran.suites = suites;
        ran.problems = problems;
        ran.problems.extend(session.problems);
        let again = attempt < order.retries
            && reached < State::Running
            && failure
                .as_ref()
                .is_some_and(|failure| failure.class == FailureClass::Infrastructure);
        if let Some(failure) = &failure {
            observer.note(&format!(
                "{} failure in {}: {}",
                failure.class.name(),
                failure.stage,
                failure.message
            ));
        }
        ran.attempts.push(Attempt { stages, failure });
        if !again {
            break;
        }
        observer.note("trying once more");
    }
    ran.duration = begun.elapsed().as_secs_f64();
    Ok(ran)
}

/// One attempt.
struct Session<'a> {
    order: &'a Order<'a>,
    begun: Instant,
    log: &'a mut ConsoleLog,
    machine: Machine,
    watch: Watch,
    merger: Merger,
    collector: Collector,
    told: (usize, usize),
    state: State,
    job: i64,
    /// When this attempt began, by the store's clock.
    since: f64,
    looked: Instant,
    /// How much of the job's output was read, and how many lines that was.
    output: u64,
    lines: u64,
    partial: Vec<u8>,
    boot: Option<Boot>,
    identity: Identity,
    problems: Vec<String>,
    console_lost: bool,
    exited_at: Option<f64>,
}

impl<'a> Session<'a> {
    fn new(order: &'a Order<'a>, begun: Instant, log: &'a mut ConsoleLog) -> Result<Self> {
        Ok(Session {
            order,
            begun,
            log,
            machine: Machine::new(order.timeouts),
            watch: Watch::default(),
            merger: Merger::default(),
            collector: Collector::new(order.patterns.clone()),
            told: (0, 0),
            state: State::Off,
            job: order.store.submit(order.board, order.payload)?,
            since: now(),
            looked: begun,
            output: 0,
            lines: 0,
            partial: Vec::new(),
            boot: None,
            identity: Identity::default(),
            problems: Vec::new(),
            console_lost: false,
            exited_at: None,
        })
    }

    /// Seconds since the run began.
    fn at(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn go(&mut self, access: &mut Access, observer: &mut dyn Observer) -> Result<Option<Failure>> {
        let mut board = match PoweredBoard::on(access) {
            Ok(board) => board,
            Err(error) => return self.refused(&error).map(Some),
        };
        self.machine.power_on(self.at());
        let failure = self.watch_board(&mut board, observer)?;
        self.order.store.cancel(self.job)?;
        match &failure {
            None => self.shut_down(&mut board, observer)?,
            Some(failure) if failure.class != FailureClass::Cancelled => {
                self.take_waiting_lines(self.at());
            }
            Some(_) => {}
        }
        if let Err(error) = board.off() {
            self.problems
                .push(format!("the board could not be switched off: {error:#}"));
        }
        Ok(failure.map(|failure| Failure {
            console: self.log.tail(),
            ..failure
        }))
    }

    /// A board whose power or console does not work.
    fn refused(&mut self, error: &anyhow::Error) -> Result<Failure> {
        self.order.store.cancel(self.job)?;
        let class = match error::class_of(error) {
            error::Class::Input => FailureClass::Configuration,
            _ => FailureClass::Infrastructure,
        };
        Ok(Failure {
            class,
            stage: State::Power.name().into(),
            message: format!("{error:#}"),
            console: Vec::new(),
        })
    }

    /// Reads the lines that wait for one that is missing: it will not come any more.
    fn take_waiting_lines(&mut self, at: f64) {
        for line in self.merger.finish() {
            self.collector.line(&line, at);
        }
    }

    fn watch_board(
        &mut self,
        board: &mut PoweredBoard<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Option<Failure>> {
        loop {
            if self.order.cancelled.load(Ordering::Relaxed) {
                return Ok(Some(
                    self.failed(FailureClass::Cancelled, "somebody stopped the run"),
                ));
            }
            if let Some(failure) = self.read_console(board)? {
                return Ok(Some(failure));
            }
            if self.looked.elapsed() >= LOOK {
                self.looked = Instant::now();
                if let Some(failure) = self.read_store()? {
                    return Ok(Some(failure));
                }
            }
            self.tell(observer);
            if self.is_over()? {
                self.machine.done(self.at());
                self.tell(observer);
                return Ok(None);
            }
            let at = self.at();
            if let Some(failure) = self.machine.failure(at) {
                return Ok(Some(failure));
            }
        }
    }

    fn read_console(&mut self, board: &mut PoweredBoard<'_>) -> Result<Option<Failure>> {
        if self.console_lost {
            std::thread::sleep(READ);
            return Ok(None);
        }
        let mut buffer = [0; 16 << 10];
        match board.console().read(&mut buffer, READ) {
            Ok(count) => {
                let events = self.watch.feed(&buffer[..count]);
                self.take(&events)?;
                Ok(None)
            }
            Err(error) => {
                self.console_lost = true;
                // The network alone carries a job that runs; nothing else carries a boot.
                if self.machine.state() >= State::CheckedIn {
                    self.problems.push(format!("the console was lost: {error}"));
                    return Ok(None);
                }
                let what = if board.is_off() {
                    "the board powered itself off"
                } else {
                    "the console was lost"
                };
                Ok(Some(self.failed(
                    FailureClass::Infrastructure,
                    &format!("{what}: {error}"),
                )))
            }
        }
    }

    fn take(&mut self, events: &[Event]) -> Result<()> {
        let at = self.at();
        for event in events {
            if let Event::Line(line) = event {
                self.log.line(at, line)?;
                match NumberedLine::from_console(line) {
                    Some(numbered) => self.merge(numbered, at),
                    // Outside a job the kernel's own tests report on the console.
                    None if self.machine.state() < State::Running
                        && !line.starts_with("hearth:") =>
                    {
                        self.collector.line(line, at);
                    }
                    None => {}
                }
            }
            self.machine.event(event, at);
        }
        Ok(())
    }

    fn merge(&mut self, line: NumberedLine, at: f64) {
        for line in self.merger.add(line) {
            self.collector.line(&line, at);
        }
    }

    fn read_store(&mut self) -> Result<Option<Failure>> {
        let at = self.at();
        if self.boot.is_none() {
            if let Some(boot) = self
                .order
                .store
                .boots(self.order.board, self.since)?
                .into_iter()
                .next()
            {
                self.identity = identity(&boot);
                self.machine.checked_in(at);
                let problem = boot.problem.clone();
                self.boot = Some(boot);
                if let Some(problem) = problem {
                    return Ok(Some(self.failed(FailureClass::Configuration, &problem)));
                }
            } else if let Some(stranger) = self
                .order
                .store
                .strangers()?
                .into_iter()
                .find(|boot| boot.checked_in >= self.since)
            {
                // It is up, and it is somebody else.
                let problem = stranger.problem.clone().unwrap_or_default();
                self.identity = identity(&stranger);
                return Ok(Some(self.failed(FailureClass::Configuration, &problem)));
            }
        }
        let Some(job) = self.order.store.job(self.job)? else {
            return Ok(Some(self.failed(
                FailureClass::Bug,
                "the job is gone from the lab's store",
            )));
        };
        if job.state != JobState::Submitted {
            self.machine.running(at);
        }
        if job
            .seen
            .is_some_and(|seen| now() - seen < LOOK.as_secs_f64() * 2.0)
        {
            self.machine.sign(at);
        }
        self.read_output(at)?;
        Ok(None)
    }

    fn read_output(&mut self, at: f64) -> Result<()> {
        let fresh = self.order.store.output(self.job, self.output)?;
        if fresh.is_empty() {
            return Ok(());
        }
        self.output += fresh.len() as u64;
        self.partial.extend(fresh);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.lines += 1;
            let text = String::from_utf8_lossy(&line[..end]).into_owned();
            self.merge(
                NumberedLine {
                    number: self.lines,
                    text,
                },
                at,
            );
        }
        Ok(())
    }

    /// The job is over when the lab has all of it; or when the console saw its end and the network stays behind.
    fn is_over(&mut self) -> Result<bool> {
        if self
            .order
            .store
            .job(self.job)?
            .is_some_and(|job| job.state == JobState::Finished)
        {
            let at = self.at();
            self.read_output(at)?;
            self.take_waiting_lines(at);
            if !self.collector.exited() {
                self.problems.push(
                    "the board says that the job is done, and its runner did not say so".into(),
                );
            }
            return Ok(true);
        }
        if !self.collector.exited() {
            return Ok(false);
        }
        let at = self.at();
        let exited = *self.exited_at.get_or_insert(at);
        if at - exited > LAG {
            self.problems
                .push("the results came over the console alone: the network failed".into());
            return Ok(true);
        }
        Ok(false)
    }

    /// Waits until the board powered itself off, so that nothing it wrote is lost.
    fn shut_down(
        &mut self,
        board: &mut PoweredBoard<'_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let end = Instant::now() + SHUTDOWN;
        let mut seen = false;
        while Instant::now() < end && !board.is_off() && !(seen && board.is_real()) {
            if self.order.cancelled.load(Ordering::Relaxed) || self.console_lost {
                break;
            }
            let mut buffer = [0; 16 << 10];
            let Ok(count) = board.console().read(&mut buffer, READ) else {
                break;
            };
            let events = self.watch.feed(&buffer[..count]);
            seen |= events.contains(&Event::Shutdown);
            self.take(&events)?;
        }
        if Instant::now() >= end {
            observer.note("the board did not power itself off");
        }
        Ok(())
    }

    fn tell(&mut self, observer: &mut dyn Observer) {
        if self.machine.state() != self.state {
            self.state = self.machine.state();
            observer.stage(self.state, self.at());
        }
        let suites = self.collector.suites();
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
        Failure {
            class,
            stage: self.machine.state().name().into(),
            message: message.into(),
            console: Vec::new(),
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

/// A board that was booted up to a login. Dropping it cuts its power.
pub struct Booted<'a>(PoweredBoard<'a>);

impl<'a> Booted<'a> {
    /// Switches the board on and waits for its login prompt.
    ///
    /// # Errors
    /// If power, console or log fail; what fails on the board's side is the inner error.
    pub fn boot(
        access: &'a mut Access,
        timeouts: Timeouts,
        log: &mut ConsoleLog,
        observer: &mut dyn Observer,
    ) -> Result<Result<Self, Failure>> {
        let begun = Instant::now();
        let mut board = PoweredBoard::on(access)?;
        let (mut machine, mut watch) = (Machine::new(timeouts), Watch::default());
        let mut state = State::Off;
        machine.power_on(0.0);
        let mut buffer = [0; 16 << 10];
        loop {
            let count = board.console().read(&mut buffer, READ)?;
            let at = begun.elapsed().as_secs_f64();
            for event in watch.feed(&buffer[..count]) {
                machine.event(&event, at);
                match event {
                    Event::Line(line) => log.line(at, &line)?,
                    Event::Login => return Ok(Ok(Booted(board))),
                    _ => {}
                }
            }
            if machine.state() != state {
                state = machine.state();
                observer.stage(state, at);
            }
            if let Some(failure) = machine.failure(at) {
                return Ok(Err(Failure {
                    console: log.tail(),
                    ..failure
                }));
            }
        }
    }

    pub fn console(&mut self) -> &mut dyn Console {
        self.0.console()
    }

    pub fn off(mut self) -> Result<()> {
        self.0.off()
    }
}

/// A board with its power on. Dropping it cuts the power.
struct PoweredBoard<'a> {
    kind: Kind<'a>,
    console: Box<dyn Console>,
    off: bool,
}

enum Kind<'a> {
    Emulated(Emulator),
    Real(&'a mut dyn Power),
}

impl<'a> PoweredBoard<'a> {
    fn on(access: &'a mut Access) -> Result<Self> {
        match access {
            Access::Emulated { spec, launcher } => {
                let (emulator, console) = Emulator::start(spec, launcher)?;
                Ok(PoweredBoard {
                    kind: Kind::Emulated(emulator),
                    console,
                    off: false,
                })
            }
            Access::Real { power, console } => {
                // Listening before the first byte is sent.
                let console = console()?;
                power.off()?;
                power.on()?;
                Ok(PoweredBoard {
                    kind: Kind::Real(power.as_mut()),
                    console,
                    off: false,
                })
            }
        }
    }

    fn console(&mut self) -> &mut dyn Console {
        self.console.as_mut()
    }

    fn is_real(&self) -> bool {
        matches!(self.kind, Kind::Real(_))
    }

    /// Whether an emulated board powered itself off; a real one only looks as if.
    fn is_off(&mut self) -> bool {
        match &mut self.kind {
            Kind::Emulated(emulator) => !emulator.is_on(),
            Kind::Real(_) => false,
        }
    }

    fn off(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.off, true) {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Emulated(emulator) => {
                emulator.off();
                Ok(())
            }
            Kind::Real(power) => power.off(),
        }
    }
}

impl Drop for PoweredBoard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.off() {
            log::error!("the board could not be switched off: {error:#}");
        }
    }
}
