//! Owns the state of a booting board: which stage it is in, how long it may take, and what went wrong.
//! Never reads a clock, a console or a socket: time and events are given to it.

use super::boot_state::BootState;
use super::console_parser::ConsoleEvent;
use super::failure::{BootStage, FailureClass, RunFailure};
use super::limits::Timeouts;

/// How often a bootloader may begin before the board counts as looping. SPL and U-Boot proper each say so.
const BOOTLOADER_STARTS: u32 = 8;

/// The crash that ends no job.
const FULL_OVERLAY: &str = "full overlay";

/// By how many seconds a console's buffers may show a boot later than the network tells of it.
const CONSOLE_LAG: f64 = 5.0;

/// A board on its way from power-on to the end of its job. All times are seconds since the run began.
#[derive(Debug)]
pub struct BootTracker {
    timeouts: Timeouts,
    state: BootState,
    since: f64,
    stages: Vec<BootStage>,
    heard: bool,
    /// The furthest stage of the boot that the console itself showed.
    shown: BootState,
    /// When the network first told of this boot.
    told_at: Option<f64>,
    last_sign: f64,
    bootloader_starts: u32,
    bootloader_trouble: Option<String>,
    shutting_down: bool,
    /// Whether no agent is waited for: the console alone tells of the job.
    over_console: bool,
    /// A failure, and when it is reported: the lines that explain it follow.
    pending: Option<(f64, RunFailure)>,
}

impl BootTracker {
    pub fn new(timeouts: Timeouts) -> Self {
        BootTracker {
            timeouts,
            state: BootState::Off,
            since: 0.0,
            stages: Vec::new(),
            heard: false,
            shown: BootState::Off,
            told_at: None,
            last_sign: 0.0,
            bootloader_starts: 0,
            bootloader_trouble: None,
            shutting_down: false,
            over_console: false,
            pending: None,
        }
    }

    /// No agent is waited for: the job is given to a shell on the console, which tells when it has an answer.
    pub fn expect_shell(&mut self) {
        self.over_console = true;
    }

    pub fn state(&self) -> BootState {
        self.state
    }

    /// Power was switched on.
    pub fn power_on(&mut self, at: f64) {
        self.enter(BootState::Power, at);
    }

    /// The agent checked in. A board may do so before its console shows that it has booted.
    pub fn checked_in(&mut self, at: f64) {
        self.told(BootState::CheckedIn, at);
    }

    /// The agent began the job.
    pub fn running(&mut self, at: f64) {
        self.told(BootState::Running, at);
    }

    /// Enters a state that the lab tells. It does so later than the console shows what happens in it: a failure that was
    /// seen a moment ago is one of this state.
    fn told(&mut self, state: BootState, at: f64) {
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

    /// The tests are over; later events are ignored.
    pub fn done(&mut self, at: f64) {
        self.pending = None;
        self.enter(BootState::Done, at);
    }

    /// The console shows nothing any more. The network alone carries a job that runs; nothing else carries a boot.
    /// Gives whether it is a failure.
    pub fn console_lost(&mut self, at: f64, what: &str) -> bool {
        let fails = self.over_console || self.state < BootState::CheckedIn;
        if fails {
            self.fail_soon(at, FailureClass::Infrastructure, what.into());
        }
        fails
    }

    /// Takes what the console showed.
    pub fn event(&mut self, event: &ConsoleEvent, at: f64) {
        self.heard = true;
        self.sign(at);
        match event {
            ConsoleEvent::Line { .. } | ConsoleEvent::BootScript { .. } => {}
            ConsoleEvent::Bootloader => self.bootloader(at),
            ConsoleEvent::BootloaderPrompt if self.state <= BootState::Bootloader => self
                .fail_soon(
                    at,
                    FailureClass::Infrastructure,
                    with_detail(
                        "U-Boot stopped at its prompt",
                        self.bootloader_trouble.as_deref(),
                    ),
                ),
            ConsoleEvent::BootloaderPrompt => {}
            ConsoleEvent::BootloaderTrouble(message) => {
                if self.state <= BootState::Bootloader {
                    self.bootloader_trouble = Some(message.clone());
                }
            }
            ConsoleEvent::Kernel => self.kernel(at),
            ConsoleEvent::Userspace | ConsoleEvent::Login => self.enter(BootState::Userspace, at),
            ConsoleEvent::Shutdown => self.shutting_down = true,
            ConsoleEvent::Crash { kind, message } => {
                // The job goes on where only its memory is used up, and its results count.
                let wait = match *kind == FULL_OVERLAY {
                    true => f64::INFINITY,
                    false => self.timeouts.aftermath,
                };
                let message = format!("{kind}: {message}");
                self.fail_after(at + wait, FailureClass::Infrastructure, message);
            }
        }
    }

    /// The failure that was seen and still waits for the lines that explain it.
    pub fn crash(&mut self) -> Option<RunFailure> {
        self.pending.take().map(|(_, failure)| failure)
    }

    /// Says why the board failed, once it has: by what the console showed, or by taking too long.
    pub fn failure(&mut self, at: f64) -> Option<RunFailure> {
        match &self.pending {
            Some((due, _)) if at >= *due => return self.crash(),
            Some((due, _)) if due.is_finite() => return None,
            _ => {}
        }
        let late = self.takes_too_long(at)?;
        Some(self.crash().unwrap_or(late))
    }

    fn takes_too_long(&self, at: f64) -> Option<RunFailure> {
        if self.state == BootState::Done || self.state == BootState::Off {
            return None;
        }
        if self.state == BootState::Running && at - self.last_sign > self.timeouts.silence {
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
                // The board was alive until the time-out: the tests did not end.
                BootState::Running => FailureClass::Test,
                _ => FailureClass::Infrastructure,
            };
            self.failed(class, format!("{message} in {limit:.0} s"))
        })
    }

    /// The stages so far; the last one lasts until `at`.
    pub fn stages(&self, at: f64) -> Vec<BootStage> {
        let mut stages = self.stages.clone();
        if !matches!(self.state, BootState::Off | BootState::Done) {
            stages.push(self.stage(at));
        }
        stages
    }

    /// Whether a stage that the console shows is one of the boot that the network has told of already.
    fn is_late(&mut self, stage: BootState, at: f64) -> bool {
        // The bootloader says twice that it begins: SPL, and U-Boot proper.
        let is_next = stage > self.shown || (stage, self.shown) == (BootState::Bootloader, stage);
        self.shown = self.shown.max(stage);
        is_next && self.told_at.is_some_and(|told| at - told < CONSOLE_LAG)
    }

    fn bootloader(&mut self, at: f64) {
        let late = self.is_late(BootState::Bootloader, at);
        if self.state > BootState::Bootloader {
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
        self.enter(BootState::Bootloader, at);
    }

    fn kernel(&mut self, at: f64) {
        let late = self.is_late(BootState::Kernel, at);
        if self.state > BootState::Kernel {
            if !late {
                self.reset(at);
            }
            return;
        }
        self.enter(BootState::Kernel, at);
    }

    fn reset(&mut self, at: f64) {
        if self.state == BootState::Done {
            return;
        }
        let (class, message) = match (self.shutting_down, self.state) {
            (true, BootState::Running) => (FailureClass::Test, "the tests rebooted the board"),
            (true, _) => (FailureClass::Infrastructure, "the board rebooted by itself"),
            (false, _) => (
                FailureClass::Infrastructure,
                "unexpected reset: the board starts anew",
            ),
        };
        self.fail_soon(at, class, message.into());
    }

    /// Enters a state unless the board is past it already.
    fn enter(&mut self, state: BootState, at: f64) {
        if state <= self.state {
            return;
        }
        if self.state != BootState::Off {
            self.stages.push(self.stage(at));
        }
        // A prompt or a stall that the board got over was none.
        if state <= BootState::Kernel {
            self.pending = None;
        }
        self.state = state;
        self.since = at;
    }

    fn stage(&self, at: f64) -> BootStage {
        BootStage {
            name: self.state.name().into(),
            at: self.since,
            duration: at - self.since,
        }
    }

    /// The first failure counts: what follows a crash is its consequence.
    fn fail_soon(&mut self, at: f64, class: FailureClass, message: String) {
        self.fail_after(at + self.timeouts.aftermath, class, message);
    }

    fn fail_after(&mut self, due: f64, class: FailureClass, message: String) {
        if self.state == BootState::Done {
            return;
        }
        match &mut self.pending {
            Some((earlier, _)) => *earlier = earlier.min(due),
            None => self.pending = Some((due, self.failed(class, message))),
        }
    }

    /// A failure in the state in which the board is.
    pub fn failed(&self, class: FailureClass, message: impl Into<String>) -> RunFailure {
        RunFailure {
            class,
            stage: self.state.name().into(),
            message: message.into(),
            console: Vec::new(),
        }
    }

    fn limit(&self) -> (f64, String) {
        let t = &self.timeouts;
        match self.state {
            BootState::Kernel if self.over_console => (
                t.kernel,
                "the kernel started, and the console showed no login and no shell's prompt".into(),
            ),
            BootState::Userspace if self.over_console => (
                t.userspace,
                "the system booted, and the console showed no shell's prompt".into(),
            ),
            // Each line that is given to the shell has a time-out of its own.
            BootState::CheckedIn if self.over_console => (f64::INFINITY, String::new()),
            BootState::Power if self.heard => (
                t.power,
                "the console shows no bootloader that hearth knows".into(),
            ),
            BootState::Power => (
                t.power,
                "the console stayed silent after power-on: no power, or not this board's console"
                    .into(),
            ),
            BootState::Bootloader => (
                t.bootloader,
                with_detail(
                    "the bootloader did not start a kernel",
                    self.bootloader_trouble.as_deref(),
                ),
            ),
            BootState::Kernel => (
                t.kernel,
                "the kernel started, and did not reach userspace".into(),
            ),
            BootState::Userspace => (
                t.userspace,
                "the system booted, and its agent did not check in".into(),
            ),
            BootState::CheckedIn => (
                t.checked_in,
                "the agent checked in, and did not take the job".into(),
            ),
            BootState::Running => (t.running, "the tests did not end".into()),
            BootState::Off | BootState::Done => (f64::INFINITY, String::new()),
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
    use crate::board::ConsoleParser;

    /// Runs a scripted console of (seconds, text) pairs and gives the first failure within 10,000 s.
    fn fails(script: &[(f64, &str)]) -> Option<RunFailure> {
        let mut tracker = BootTracker::new(Timeouts::default());
        let mut watch = ConsoleParser::default();
        tracker.power_on(0.0);
        for (at, text) in script {
            match *text {
                "<check-in>" => tracker.checked_in(*at),
                "<run>" => tracker.running(*at),
                "<done>" => tracker.done(*at),
                "<heartbeat>" => tracker.sign(*at),
                text => watch
                    .feed(text.as_bytes())
                    .iter()
                    .for_each(|event| tracker.event(event, *at)),
            }
            if let Some(failure) = tracker.failure(*at) {
                return Some(failure);
            }
        }
        let last = script.last().map_or(0.0, |(at, _)| *at);
        (0..10_000).find_map(|second| tracker.failure(last + f64::from(second)))
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
    fn a_full_overlay_ends_no_job_but_a_panic_after_it_does() {
        let mut tracker = BootTracker::new(Timeouts::default());
        tracker.running(9.0);
        let crash = |kind| ConsoleEvent::Crash {
            kind,
            message: String::new(),
        };
        tracker.event(&crash(FULL_OVERLAY), 10.0);
        tracker.sign(60.0);
        assert_eq!(tracker.failure(60.0), None);
        tracker.event(&crash("kernel panic"), 60.0);
        let failure = tracker.failure(70.0).unwrap();
        assert!(failure.message.starts_with(FULL_OVERLAY), "{failure:?}");
        assert_eq!(failure.stage, "running");
    }

    #[test]
    fn a_good_run_has_its_stages_and_no_failure() {
        let mut tracker = BootTracker::new(Timeouts::default());
        tracker.power_on(0.0);
        tracker.event(&ConsoleEvent::Bootloader, 1.0);
        tracker.event(&ConsoleEvent::Bootloader, 2.0);
        tracker.event(&ConsoleEvent::Kernel, 5.0);
        tracker.event(&ConsoleEvent::Userspace, 20.0);
        tracker.checked_in(50.0);
        tracker.running(51.0);
        tracker.done(60.0);
        assert_eq!(tracker.failure(1e9), None);
        let stages: Vec<(String, f64)> = tracker
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
    fn a_looping_bootloader_is_recognised() {
        let script: Vec<(f64, &str)> = (0..20).map(|n| (f64::from(n) * 20.0, UBOOT)).collect();
        assert!(fails(&script).unwrap().message.contains("over and over"));
    }
}
