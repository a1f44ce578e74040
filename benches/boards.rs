//! Measures an emulated board from power-on to its agent's check-in, stage by stage, against the bare minimum: the same
//! kernel, initrd and root over the same network, with `init=/bin/true`. And how much of the time hearth itself takes.
//!
//! Needs qemu-user, qemu-system-arm and a mirror (the first time); takes some five minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

const TYPE: &str = "qemu-virt-arm";
const BARE: &str = "qemu-virt-arm-bare";
/// What ends the bare boot: the kernel's word for a first process that is gone.
const BARE_END: &str = "Attempted to kill init";
/// Linux' clock ticks per second in `/proc/PID/stat` (proc(5)): USER_HZ.
const TICKS: f64 = 100.0;

fn main() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-boards");
    let types = directory.join("recipes/boards");
    fs::create_dir_all(&types).expect("a directory");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/boards");
    let text = fs::read_to_string(shipped.join(format!("{TYPE}.toml"))).expect("the board type");
    fs::write(
        types.join(format!("{BARE}.toml")),
        format!("kernel-arguments = [\"init=/bin/true\"]\n{text}"),
    )
    .expect("the board type");
    let bench = Bench { directory };
    let status = bench.hearth(&["build", "trixie-armhf"]).status();
    assert!(status.expect("hearth").success());

    let bare = bench.test(BARE);
    let bare_end = bare.when(BARE_END);
    let whole = bench.test(TYPE);
    let before = ["power", "bootloader", "kernel", "userspace"];
    let total: f64 = whole
        .stages
        .iter()
        .filter(|(name, _)| before.contains(&name.as_str()))
        .map(|(_, seconds)| seconds)
        .sum();
    for (name, seconds) in &whole.stages {
        match before.contains(&name.as_str()) {
            true => println!(
                "{name:12} {seconds:8.1} s   {:3.0} %",
                100.0 * seconds / total
            ),
            false => println!("{name:12} {seconds:8.1} s"),
        }
    }
    println!(
        "power-on to check-in {total:.1} s, bare minimum {bare_end:.1} s: {:.2} times that",
        total / bare_end
    );
    println!(
        "hearth itself took {:.2} s of the processor in {:.1} s: {:.1} % (at most 3)",
        whole.processor,
        whole.wall,
        100.0 * whole.processor / whole.wall
    );
}

struct Bench {
    directory: PathBuf,
}

/// One run of `hearth test`.
struct Run {
    report: PathBuf,
    /// Name and seconds, in order.
    stages: Vec<(String, f64)>,
    /// Seconds of the processor that hearth's own process took.
    processor: f64,
    /// Seconds from beginning to end.
    wall: f64,
}

impl Bench {
    fn hearth(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command
            .arg("-q")
            .args(arguments)
            .current_dir(&self.directory);
        command
    }

    fn test(&self, board: &str) -> Run {
        let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/boot-time.yaml");
        let report = self.directory.join(board);
        let begun = Instant::now();
        let mut child = self
            .hearth(&[
                "test",
                board,
                "--image",
                "out/trixie-armhf",
                "--retries",
                "0",
            ])
            .arg(definition)
            .arg("-o")
            .arg(&report)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("hearth");
        let mut processor = 0.0;
        while child.try_wait().expect("hearth").is_none() {
            processor = own_processor_time(child.id()).unwrap_or(processor);
            sleep(Duration::from_millis(100));
        }
        let text = fs::read_to_string(report.join("report.json")).expect("the report");
        let value: Value = serde_json::from_str(&text).expect("the report is JSON");
        let stages = value["attempts"][0]["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .map(|stage| {
                let name = stage["name"].as_str().expect("a name").to_string();
                (name, stage["duration"].as_f64().expect("a duration"))
            })
            .collect();
        Run {
            report,
            stages,
            processor,
            wall: begun.elapsed().as_secs_f64(),
        }
    }
}

impl Run {
    /// When the console first showed this, in seconds since power-on.
    fn when(&self, text: &str) -> f64 {
        let log = fs::read_to_string(self.report.join("console.log")).expect("the console log");
        let line = log
            .lines()
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("the console never showed {text:?}"));
        let time = line.trim_start_matches('[').split(']').next();
        time.and_then(|time| time.trim().parse().ok())
            .expect("each line has its time")
    }
}

/// Seconds of the processor that a process has used, all its threads and none of its children.
fn own_processor_time(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: &str| field.parse::<f64>().ok();
    Some((ticks(fields[11])? + ticks(fields[12])?) / TICKS)
}
