//! Owns the state of a booting board: which stage it is in, how long it may take, and what went wrong.
//! Never reads a clock, a console or a socket: time and events are given to it.

use super::outcome::{Failure, FailureClass, Stage};
use super::watch::Event;
use crate::recipe::{BoardRetries, BoardTimeouts};

/// The stages of a boot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Off,
    /// Power is on and nothing was heard yet.
    Power,
    Bootloader,
    Kernel,
    Userspace,
    CheckedIn,
    Running,
    Done,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            State::Off => "off",
            State::Power => "power",
            State::Bootloader => "bootloader",
            State::Kernel => "kernel",
            State::Userspace => "userspace",
            State::CheckedIn => "checked-in",
            State::Running => "running",
            State::Done => "done",
        }
    }
}

/// How long a board may stay in each state, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    pub power: f64,
    pub bootloader: f64,
    pub kernel: f64,
    pub userspace: f64,
    pub checked_in: f64,
    /// For all tests together.
    pub running: f64,
    /// Without a sign of life while tests run: neither heartbeat nor console.
    pub silence: f64,
    /// From the end of the tests until the board has powered itself off.
    pub shutdown: f64,
    /// For the lines that follow a crash's first one.
    pub aftermath: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            power: 60.0,
            bootloader: 300.0,
            kernel: 420.0,
            userspace: 420.0,
            checked_in: 120.0,
            running: 3600.0,
            silence: 240.0,
            shutdown: 120.0,
            aftermath: 3.0,
        }
    }
}

impl Timeouts {
    /// For boards that a busy host emulates: with a tenth of a processor they still come up.
    pub fn emulated() -> Self {
        Timeouts {
            power: 120.0,
            bootloader: 900.0,
            kernel: 900.0,
            userspace: 1200.0,
            checked_in: 300.0,
            silence: 600.0,
            shutdown: 300.0,
            ..Timeouts::default()
        }
    }

    /// These, with what a lab file sets for a board.
    #[must_use]
    pub fn with(self, lab: &BoardTimeouts) -> Self {
        Timeouts {
            power: lab.power.unwrap_or(self.power),
            bootloader: lab.bootloader.unwrap_or(self.bootloader),
            kernel: lab.kernel.unwrap_or(self.kernel),
            userspace: lab.userspace.unwrap_or(self.userspace),
            checked_in: lab.checked_in.unwrap_or(self.checked_in),
            running: lab.running.unwrap_or(self.running),
            silence: lab.silence.unwrap_or(self.silence),
            shutdown: lab.shutdown.unwrap_or(self.shutdown),
            aftermath: self.aftermath,
        }
    }
}

/// How often a board may be booted again after it failed in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    pub power: u32,
    pub bootloader: u32,
    pub kernel: u32,
    pub userspace: u32,
    pub checked_in: u32,
}

impl Retries {
    /// The same for every state.
    pub const fn all(count: u32) -> Self {
        Retries {
            power: count,
            bootloader: count,
            kernel: count,
            userspace: count,
            checked_in: count,
        }
    }

    /// These, with what a lab file sets for a board.
    #[must_use]
    pub fn with(self, lab: &BoardRetries) -> Self {
        Retries {
            power: lab.power.unwrap_or(self.power),
            bootloader: lab.bootloader.unwrap_or(self.bootloader),
            kernel: lab.kernel.unwrap_or(self.kernel),
            userspace: lab.userspace.unwrap_or(self.userspace),
            checked_in: lab.checked_in.unwrap_or(self.checked_in),
        }
    }

    /// Uses one up, if there is one left for a failure in this state. Tests that have begun are never run again.
    pub fn take(&mut self, state: State) -> bool {
        let left = match state {
            State::Off | State::Power => &mut self.power,
            State::Bootloader => &mut self.bootloader,
            State::Kernel => &mut self.kernel,
            State::Userspace => &mut self.userspace,
            State::CheckedIn => &mut self.checked_in,
            State::Running | State::Done => return false,
        };
        let any = *left > 0;
        *left = left.saturating_sub(1);
        any
    }
}

/// How often a bootloader may begin before the board counts as looping. SPL and U-Boot proper each say so.
const BOOTLOADER_STARTS: u32 = 8;

/// By how many seconds a console's buffers may show a boot later than the network tells of it.
const CONSOLE_LAG: f64 = 5.0;

/// A board on its way from power-on to the end of its job. All times are seconds since the run began.
#[derive(Debug)]
pub struct Machine {
    timeouts: Timeouts,
    state: State,
    since: f64,
    stages: Vec<Stage>,
    heard: bool,
    /// The furthest stage of the boot that the console itself showed.
    shown: State,
    /// When the network first told of this boot.
    told_at: Option<f64>,
    last_sign: f64,
    bootloader_starts: u32,
    bootloader_trouble: Option<String>,
    shutting_down: bool,
    /// A failure that waits for the lines that explain it.
    pending: Option<(f64, Failure)>,
}

impl Machine {
    pub fn new(timeouts: Timeouts) -> Self {
        Machine {
            timeouts,
            state: State::Off,
            since: 0.0,
            stages: Vec::new(),
            heard: false,
            shown: State::Off,
            told_at: None,
            last_sign: 0.0,
            bootloader_starts: 0,
            bootloader_trouble: None,
            shutting_down: false,
            pending: None,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Power was switched on.
    pub fn power_on(&mut self, at: f64) {
        self.enter(State::Power, at);
    }

    /// The agent checked in. A board may do so before its console shows that it has booted.
    pub fn checked_in(&mut self, at: f64) {
        self.told(State::CheckedIn, at);
    }

    /// The agent began the job.
    pub fn running(&mut self, at: f64) {
        self.told(State::Running, at);
    }

    /// Enters a state that the lab tells. It does so later than the console shows what happens in it: a failure that was
    /// seen a moment ago is one of this state.
    fn told(&mut self, state: State, at: f64) {
        self.sign(at);
        if state <= self.state {
            return;
        }
        self.told_at.get_or_insert(at);
        self.enter(state, at);
        if let Some((_, failure)) = &mut self.pending {
            failure.stage = state.name().into();
        }
    }

    /// A heartbeat or output came over the network.
    pub fn sign(&mut self, at: f64) {
        self.last_sign = at;
    }

    /// The tests are over; what the board does now is of no matter.
    pub fn done(&mut self, at: f64) {
        self.pending = None;
        self.enter(State::Done, at);
    }

    /// The console shows nothing any more. The network alone carries a job that runs; nothing else carries a boot.
    /// Gives whether it is a failure.
    pub fn console_lost(&mut self, at: f64, what: &str) -> bool {
        let fails = self.state < State::CheckedIn;
        if fails {
            self.fail_soon(at, FailureClass::Infrastructure, what.into());
        }
        fails
    }

    /// Takes what the console showed.
    pub fn event(&mut self, event: &Event, at: f64) {
        self.heard = true;
        self.sign(at);
        match event {
            Event::Line { .. } | Event::BootScript { .. } => {}
            Event::Bootloader => self.bootloader(at),
            Event::BootloaderPrompt if self.state <= State::Bootloader => self.fail_soon(
                at,
                FailureClass::Infrastructure,
                with_detail(
                    "U-Boot stopped at its prompt",
                    self.bootloader_trouble.as_deref(),
                ),
            ),
            Event::BootloaderPrompt => {}
            Event::BootloaderTrouble(message) => {
                if self.state <= State::Bootloader {
                    self.bootloader_trouble = Some(message.clone());
                }
            }
            Event::Kernel => self.kernel(at),
            Event::Userspace | Event::Login => self.enter(State::Userspace, at),
            Event::Shutdown => self.shutting_down = true,
            Event::Crash { kind, message } => {
                self.fail_soon(
                    at,
                    FailureClass::Infrastructure,
                    format!("{kind}: {message}"),
                );
            }
        }
    }

    /// The failure that was seen and still waits for the lines that explain it.
    pub fn crash(&mut self) -> Option<Failure> {
        self.pending.take().map(|(_, failure)| failure)
    }

    /// Says why the board failed, once it has: by what the console showed, or by taking too long.
    pub fn failure(&mut self, at: f64) -> Option<Failure> {
        if let Some((due, _)) = &self.pending {
            return if at >= *due { self.crash() } else { None };
        }
        if self.state == State::Done || self.state == State::Off {
            return None;
        }
        if self.state == State::Running && at - self.last_sign > self.timeouts.silence {
            return Some(self.failed(
                FailureClass::Infrastructure,
                format!(
                    "the board hangs: no heartbeat and no console output for {:.0} s",
                    at - self.last_sign
                ),
            ));
        }
        let (limit, message) = self.limit();
        (at - self.since > limit).then(|| {
            let class = match self.state {
                // The board was alive to the end: it is the tests that did not come to one.
                State::Running => FailureClass::Test,
                _ => FailureClass::Infrastructure,
            };
            self.failed(class, format!("{message} in {limit:.0} s"))
        })
    }

    /// The stages so far; the last one lasts until `at`.
    pub fn stages(&self, at: f64) -> Vec<Stage> {
        let mut stages = self.stages.clone();
        if !matches!(self.state, State::Off | State::Done) {
            stages.push(self.stage(at));
        }
        stages
    }

    /// Whether a stage that the console shows is one of the boot that the network has told of already.
    fn is_late(&mut self, stage: State, at: f64) -> bool {
        // The bootloader says twice that it begins: SPL, and U-Boot proper.
        let is_next = stage > self.shown || (stage, self.shown) == (State::Bootloader, stage);
        self.shown = self.shown.max(stage);
        is_next && self.told_at.is_some_and(|told| at - told < CONSOLE_LAG)
    }

    fn bootloader(&mut self, at: f64) {
        let late = self.is_late(State::Bootloader, at);
        if self.state > State::Bootloader {
            if !late {
                self.reset(at);
            }
            return;
        }
        self.bootloader_starts += 1;
        if self.bootloader_starts > BOOTLOADER_STARTS {
            let message = with_detail(
                "the bootloader starts over and over",
                self.bootloader_trouble.as_deref(),
            );
            return self.fail_soon(at, FailureClass::Infrastructure, message);
        }
        self.enter(State::Bootloader, at);
    }

    fn kernel(&mut self, at: f64) {
        let late = self.is_late(State::Kernel, at);
        if self.state > State::Kernel {
            if !late {
                self.reset(at);
            }
            return;
        }
        self.enter(State::Kernel, at);
    }

    fn reset(&mut self, at: f64) {
        if self.state == State::Done {
            return;
        }
        let (class, message) = match (self.shutting_down, self.state) {
            (true, State::Running) => (FailureClass::Test, "the tests rebooted the board"),
            (true, _) => (FailureClass::Infrastructure, "the board rebooted by itself"),
            (false, _) => (
                FailureClass::Infrastructure,
                "unexpected reset: the board starts anew",
            ),
        };
        self.fail_soon(at, class, message.into());
    }

    /// Enters a state unless the board is past it already.
    fn enter(&mut self, state: State, at: f64) {
        if state <= self.state {
            return;
        }
        if self.state != State::Off {
            self.stages.push(self.stage(at));
        }
        // A prompt or a stall that the board got over was none.
        if state <= State::Kernel {
            self.pending = None;
        }
        self.state = state;
        self.since = at;
    }

    fn stage(&self, at: f64) -> Stage {
        Stage {
            name: self.state.name().into(),
            at: self.since,
            duration: at - self.since,
        }
    }

    /// The first failure counts: what follows a crash is its consequence.
    fn fail_soon(&mut self, at: f64, class: FailureClass, message: String) {
        if self.pending.is_none() && self.state != State::Done {
            let failure = self.failed(class, message);
            self.pending = Some((at + self.timeouts.aftermath, failure));
        }
    }

    /// A failure in the state in which the board is.
    pub fn failed(&self, class: FailureClass, message: impl Into<String>) -> Failure {
        Failure {
            class,
            stage: self.state.name().into(),
            message: message.into(),
            console: Vec::new(),
        }
    }

    fn limit(&self) -> (f64, String) {
        let t = &self.timeouts;
        match self.state {
            State::Power if self.heard => (
                t.power,
                "the console shows no bootloader that hearth knows".into(),
            ),
            State::Power => (
                t.power,
                "the console stayed silent after power-on: no power, or not this board's console"
                    .into(),
            ),
            State::Bootloader => (
                t.bootloader,
                with_detail(
                    "the bootloader did not start a kernel",
                    self.bootloader_trouble.as_deref(),
                ),
            ),
            State::Kernel => (
                t.kernel,
                "the kernel started, and did not reach userspace".into(),
            ),
            State::Userspace => (
                t.userspace,
                "the system booted, and its agent did not check in".into(),
            ),
            State::CheckedIn => (
                t.checked_in,
                "the agent checked in, and did not take the job".into(),
            ),
            State::Running => (t.running, "the tests did not end".into()),
            State::Off | State::Done => (f64::INFINITY, String::new()),
        }
    }
}

fn with_detail(message: &str, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{message} (it said: {detail})"),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Watch;

    /// Runs a scripted console of (seconds, text) pairs and gives the first failure within 10,000 s.
    fn fails(script: &[(f64, &str)]) -> Option<Failure> {
        let mut machine = Machine::new(Timeouts::default());
        let mut watch = Watch::default();
        machine.power_on(0.0);
        for (at, text) in script {
            match *text {
                "<check-in>" => machine.checked_in(*at),
                "<run>" => machine.running(*at),
                "<done>" => machine.done(*at),
                "<heartbeat>" => machine.sign(*at),
                text => watch
                    .feed(text.as_bytes())
                    .iter()
                    .for_each(|event| machine.event(event, *at)),
            }
            if let Some(failure) = machine.failure(*at) {
                return Some(failure);
            }
        }
        let last = script.last().map_or(0.0, |(at, _)| *at);
        (0..10_000).find_map(|second| machine.failure(last + f64::from(second)))
    }

    const UBOOT: &str = "U-Boot 2025.01 (Apr 01 2025)\r\n";
    const LINUX: &str = "[    0.0] Linux version 6.12.74\r\n";
    const SYSTEMD: &str = "[    9.0] systemd[1]: systemd 257 running in system mode (+X)\r\n";

    #[test]
    fn each_way_to_fail_is_named_in_its_stage() {
        use FailureClass::{Infrastructure, Test};
        for (script, class, stage, message) in [
            (vec![], Infrastructure, "power", "stayed silent"),
            (
                vec![(1.0, "garbage\r\n")],
                Infrastructure,
                "power",
                "no bootloader",
            ),
            (
                vec![(1.0, UBOOT), (2.0, "=> ")],
                Infrastructure,
                "bootloader",
                "stopped at its prompt",
            ),
            (
                vec![(1.0, UBOOT), (5.0, "TFTP error: 'File not found' (1)\r\n")],
                Infrastructure,
                "bootloader",
                "File not found",
            ),
            (
                vec![(1.0, UBOOT), (5.0, LINUX)],
                Infrastructure,
                "kernel",
                "did not reach userspace",
            ),
            (
                vec![
                    (1.0, UBOOT),
                    (5.0, LINUX),
                    (6.0, "Kernel panic - not syncing: no init\r\n"),
                ],
                Infrastructure,
                "kernel",
                "kernel panic: no init",
            ),
            (
                vec![(1.0, UBOOT), (5.0, LINUX), (9.0, SYSTEMD)],
                Infrastructure,
                "userspace",
                "did not check in",
            ),
            (
                vec![(1.0, UBOOT), (5.0, LINUX), (9.0, SYSTEMD), (10.0, UBOOT)],
                Infrastructure,
                "userspace",
                "unexpected reset",
            ),
            (
                vec![
                    (1.0, UBOOT),
                    (5.0, LINUX),
                    (9.0, "<check-in>"),
                    (10.0, "<run>"),
                ],
                Infrastructure,
                "running",
                "hangs",
            ),
            (
                vec![
                    (5.0, LINUX),
                    (9.0, "[   9.1] agent[301]: hearth: checked in as neo1\r\n"),
                    (9.0, "[   9.2] agent[301]: hearth: runs job 3\r\n"),
                    (9.0, "hearth: the overlay is full: what the job wrote\r\n"),
                    (9.0, "<check-in>"),
                    (9.1, "<run>"),
                ],
                Infrastructure,
                "running",
                "full overlay",
            ),
            (
                vec![(0.5, "hearth: runs job 2\r\n"), (1.0, UBOOT), (2.0, "=> ")],
                Infrastructure,
                "bootloader",
                "stopped at its prompt",
            ),
            (
                vec![
                    (5.0, LINUX),
                    (9.0, "<run>"),
                    (10.0, "reboot: Restarting system\r\n"),
                    (11.0, UBOOT),
                ],
                Test,
                "running",
                "rebooted the board",
            ),
        ] {
            let failure = fails(&script).unwrap_or_else(|| panic!("{script:?} does not fail"));
            assert_eq!(
                (failure.class, failure.stage.as_str()),
                (class, stage),
                "{failure:?}"
            );
            assert!(failure.message.contains(message), "{failure:?}");
        }
    }

    #[test]
    fn a_board_that_lives_but_does_not_end_its_tests_fails_the_tests() {
        let mut script = vec![
            (1.0, UBOOT),
            (5.0, LINUX),
            (9.0, "<check-in>"),
            (10.0, "<run>"),
        ];
        script.extend((0..100).map(|beat| (10.0 + 60.0 * f64::from(beat), "<heartbeat>")));
        let failure = fails(&script).unwrap();
        assert_eq!(failure.class, FailureClass::Test);
        assert!(failure.message.contains("did not end"), "{failure:?}");
    }

    #[test]
    fn a_console_behind_the_network_shows_no_reset() {
        let boot = [UBOOT, LINUX, SYSTEMD].concat();
        let late = [(1.0, "<check-in>"), (1.2, "<run>"), (1.3, boot.as_str())];
        assert!(fails(&late).unwrap().message.contains("hangs"));
        for again in [UBOOT, LINUX] {
            let script = [&late[..], &[(1.4, again)]].concat();
            assert!(fails(&script).unwrap().message.contains("unexpected reset"));
        }
        // Too late to belong to the boot that checked in.
        let script = [(1.0, "<check-in>"), (1.2, "<run>"), (60.0, UBOOT)];
        assert!(fails(&script).unwrap().message.contains("unexpected reset"));
    }

    #[test]
    fn a_good_run_has_its_stages_and_no_failure() {
        let mut machine = Machine::new(Timeouts::default());
        machine.power_on(0.0);
        machine.event(&Event::Bootloader, 1.0);
        machine.event(&Event::Bootloader, 2.0);
        machine.event(&Event::Kernel, 5.0);
        machine.event(&Event::Userspace, 20.0);
        machine.checked_in(50.0);
        machine.running(51.0);
        machine.done(60.0);
        assert_eq!(machine.failure(1e9), None);
        let stages: Vec<(String, f64)> = machine
            .stages(99.0)
            .into_iter()
            .map(|stage| (stage.name, stage.duration))
            .collect();
        let expected = [
            ("power", 1.0),
            ("bootloader", 4.0),
            ("kernel", 15.0),
            ("userspace", 30.0),
            ("checked-in", 1.0),
            ("running", 9.0),
        ];
        assert_eq!(
            stages,
            expected.map(|(name, time)| (name.to_string(), time))
        );
    }

    #[test]
    fn each_state_has_its_own_retries_and_tests_have_none() {
        let mut left = Retries::all(1).with(&BoardRetries {
            kernel: Some(2),
            ..BoardRetries::default()
        });
        assert!(left.take(State::Power) && !left.take(State::Power));
        assert!(left.take(State::Kernel) && left.take(State::Kernel) && !left.take(State::Kernel));
        assert!(!left.take(State::Running));
    }

    #[test]
    fn a_looping_bootloader_is_recognised() {
        let script: Vec<(f64, &str)> = (0..20).map(|n| (f64::from(n) * 20.0, UBOOT)).collect();
        assert!(fails(&script).unwrap().message.contains("over and over"));
    }
}
