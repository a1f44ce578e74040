//! Attempts on a scripted board: its console and the calls that its agent makes are given step by step.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use super::*;
use crate::board::console::Console;
use crate::board::power::Power;
use crate::board::{Retries, Timeouts};
use crate::job::{Case, Outcome};
use crate::lab::identity::Claim;
use crate::lab::run::{RunResult, run};
use crate::lab::secret;
use crate::lab::store::LabStore;

const BOOT: &str = "U-Boot 2025.01 (Apr 01 2025)\r\nhearth: neo1 boots img-1 from 10.0.0.1\r\n\
    [    0.000000] Linux version 6.12.0\r\n[    1.000000] systemd[1]: systemd 257 running in system mode (+X)\r\n";

/// What happens on the board, in order.
enum Step {
    /// The console shows this.
    Show(String),
    /// Something else happens.
    Do(Box<dyn FnOnce() + Send>),
    /// The console shows this again and again.
    Flood(&'static str),
}

fn show(text: impl Into<String>) -> Step {
    Step::Show(text.into())
}

fn act(action: impl FnOnce() + Send + 'static) -> Step {
    Step::Do(Box::new(action))
}

struct Script {
    steps: VecDeque<Step>,
}

impl Console for Script {
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        match self.steps.pop_front() {
            Some(Step::Show(text)) => {
                buffer[..text.len()].copy_from_slice(text.as_bytes());
                Ok(text.len())
            }
            Some(Step::Do(action)) => {
                action();
                Ok(0)
            }
            Some(Step::Flood(text)) => {
                let whole = buffer.len() / text.len() * text.len();
                for piece in buffer[..whole].chunks_mut(text.len()) {
                    piece.copy_from_slice(text.as_bytes());
                }
                self.steps.push_front(Step::Flood(text));
                Ok(whole)
            }
            None => {
                std::thread::sleep(Duration::from_millis(5));
                Ok(0)
            }
        }
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Counts how often it was switched on, and knows whether it is.
#[derive(Clone, Default)]
struct Switch {
    is_on: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
}

impl Power for Switch {
    fn on(&mut self) -> Result<()> {
        self.is_on.store(true, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn off(&mut self) -> Result<()> {
        self.is_on.store(false, Ordering::Relaxed);
        Ok(())
    }
}

struct Unobserved;

impl Observer for Unobserved {
    fn stage(&mut self, _: BootState, _: f64) {}
    fn case(&mut self, _: &str, _: &Case) {}
    fn note(&mut self, _: &str) {}
}

/// A lab with one scripted board.
struct Bench {
    dir: tempfile::TempDir,
    store: Arc<LabStore>,
    switch: Switch,
    cancelled: Arc<AtomicBool>,
    largest_output: u64,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LabStore::open(&dir.path().join("state/lab.sqlite")).unwrap());
        Bench {
            dir,
            store,
            switch: Switch::default(),
            cancelled: Arc::default(),
            largest_output: 1_000_000_000,
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The steps of a board that boots, confirms itself on its console, checks in and takes its job.
    fn booted(&self) -> Vec<Step> {
        let hash = secret::hash("s");
        let store = Arc::clone(&self.store);
        vec![
            show(BOOT),
            show(format!("hearth: check-in {hash}\r\n")),
            act(move || {
                let claim = Claim {
                    board: "neo1".into(),
                    boot: "b".into(),
                    secret: "s".into(),
                    ..Claim::default()
                };
                let boot = store.check_in(&claim, None).unwrap();
                store.take(&boot).unwrap().unwrap();
            }),
            // The store is looked at a few times a second.
            act(|| std::thread::sleep(LOOK * 2)),
        ]
    }

    /// Runs the board with further steps after it has taken its job.
    fn run(&self, further: Vec<Step>) -> Result<RunResult> {
        let mut steps = self.booted();
        steps.extend(further);
        self.run_from_power_on(steps)
    }

    /// Runs the board with these steps at its first boot; at others its console stays silent.
    fn run_from_power_on(&self, steps: Vec<Step>) -> Result<RunResult> {
        let mut script = Some(Script {
            steps: steps.into(),
        });
        let silent = || Script {
            steps: VecDeque::new(),
        };
        let mut access = BoardAccess::Real {
            power: Box::new(self.switch.clone()),
            console: Box::new(move || Ok(Box::new(script.take().unwrap_or_else(silent)))),
        };
        let request = JobRequest {
            board: "neo1",
            image: "img-1",
            login: None,
            store: &self.store,
            payload: b"tar",
            patterns: BTreeMap::new(),
            suites: vec!["0_t".into()],
            strict: false,
            timeouts: Timeouts {
                power: 3.0,
                shutdown: 0.1,
                aftermath: 0.1,
                ..Timeouts::default()
            },
            retries: Retries::all(1),
            largest_output: self.largest_output,
            directory: self.path(),
            cancelled: &self.cancelled,
        };
        let result = run(&request, &mut access, &mut Unobserved);
        assert!(
            !self.switch.is_on.load(Ordering::Relaxed),
            "the board was left on"
        );
        result
    }
}

/// The console's lines of a job that reports one case.
fn one_case() -> Step {
    let lines = [
        "<LAVA_SIGNAL_STARTRUN 0_t hearth_0_t>",
        "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=one RESULT=pass>",
    ];
    let numbered =
        |(index, line): (usize, &&str)| format!("hearth:{}:{}:{line}\r\n", index + 1, line.len());
    show(lines.iter().enumerate().map(numbered).collect::<String>())
}

#[track_caller]
fn failure(result: &RunResult) -> &RunFailure {
    result.attempts.last().unwrap().failure.as_ref().unwrap()
}

#[track_caller]
fn has_one_passed_case(result: &RunResult) {
    let case = &result.suites[0].cases[0];
    assert_eq!((case.id.as_str(), case.outcome), ("one", Outcome::Pass));
}

#[test]
fn more_output_than_a_job_may_print_ends_it_by_name() {
    let bench = Bench {
        largest_output: 1_000_000,
        ..Bench::new()
    };
    let flood =
        Step::Flood("a line that is no line of the job's, and that comes again and again\r\n");
    let result = bench.run(vec![one_case(), flood]).unwrap();
    let failure = failure(&result);
    assert_eq!(failure.class, FailureClass::Test);
    assert!(
        failure.message.contains("printed more than 1 MB")
            && failure.message.contains("largest-output"),
        "{failure:?}"
    );
    has_one_passed_case(&result);
    // A job that prints too much is not run again.
    assert_eq!(bench.switch.count.load(Ordering::Relaxed), 1);
}

#[test]
fn output_that_comes_over_the_network_alone_counts_too() {
    let bench = Bench {
        largest_output: 1_000_000,
        ..Bench::new()
    };
    let store = Arc::clone(&bench.store);
    let flood = act(move || {
        let boot = store.confirmed("neo1").unwrap().remove(0);
        let mut have = 0;
        while have <= 1_000_000 {
            let piece = format!("{:63}\n", "x").repeat(4096);
            have = store
                .append(&boot, 1, have, piece.as_bytes())
                .unwrap()
                .unwrap();
        }
    });
    let result = bench.run(vec![flood]).unwrap();
    let message = &failure(&result).message;
    assert!(message.contains("printed more than 1 MB"), "{message}");
}

#[test]
fn a_flood_does_not_hold_up_a_cancellation() {
    let bench = Bench::new();
    let cancelled = Arc::clone(&bench.cancelled);
    let begun = Instant::now();
    let stop = act(move || {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            cancelled.store(true, Ordering::Relaxed);
        });
    });
    let result = bench
        .run(vec![one_case(), stop, Step::Flood("\n")])
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(failure(&result).class, FailureClass::Cancelled);
    has_one_passed_case(&result);
}

#[test]
fn a_store_that_fails_during_a_run_is_no_fault_of_the_board_and_costs_no_result() {
    let bench = Bench::new();
    let state = bench.path().join("state");
    let destroy = act(move || {
        // The index of the WAL is mapped: overwritten in place, so that SQLite reads the files again.
        for name in ["lab.sqlite-shm", "lab.sqlite-wal", "lab.sqlite"] {
            let path = state.join(name);
            let length = fs::metadata(&path).map_or(0, |meta| meta.len() as usize);
            fs::write(&path, vec![b'x'; length]).unwrap();
        }
    });
    let result = bench.run(vec![one_case(), destroy]).unwrap();
    let failure = failure(&result);
    assert_eq!(failure.class, FailureClass::Infrastructure);
    assert_eq!(failure.stage, "running");
    assert!(failure.message.contains("the lab's store"), "{failure:?}");
    has_one_passed_case(&result);
    assert_eq!(bench.switch.count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_store_that_cannot_be_written_when_the_run_begins_is_infrastructure() {
    let bench = Bench::new();
    for name in ["lab.sqlite-shm", "lab.sqlite-wal", "lab.sqlite"] {
        let path = bench.path().join("state").join(name);
        let length = fs::metadata(&path).map_or(0, |meta| meta.len() as usize);
        fs::write(&path, vec![b'x'; length]).unwrap();
    }
    let result = bench.run(Vec::new()).unwrap();
    let failure = failure(&result);
    assert_eq!(failure.class, FailureClass::Infrastructure);
    assert!(failure.message.contains("the lab's store"), "{failure:?}");
    assert_eq!(result.attempts.len(), 1);
}

#[test]
fn a_boot_that_fails_is_tried_again_and_a_job_that_was_taken_is_not() {
    let panic = || show("[    9.000000] Kernel panic - not syncing: x\r\n");
    let result = Bench::new()
        .run_from_power_on(vec![show(BOOT), panic()])
        .unwrap();
    let messages: Vec<&str> = result
        .attempts
        .iter()
        .map(|attempt| attempt.failure.as_ref().unwrap().message.as_str())
        .collect();
    // Once more for each state.
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(messages[0], "kernel panic: x");
    assert!(messages[1].contains("silent"), "{messages:?}");

    let result = Bench::new().run(vec![one_case(), panic()]).unwrap();
    assert_eq!(result.attempts.len(), 1);
    assert_eq!(failure(&result).message, "kernel panic: x");
    has_one_passed_case(&result);
}
