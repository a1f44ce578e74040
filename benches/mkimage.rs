//! Measures wrapping data as a uImage: hearth against Debian's mkimage, in one run, printed as ratios.
//!
//! Needs u-boot-tools, and some 2.5 GiB in the directory that HEARTH_BENCH_DIR names (else the target's).

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

const MIB: usize = 1 << 20;

fn main() {
    let arguments: Vec<_> = env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "measure") {
        return measure(&arguments[at + 1..]);
    }
    let parent = env::var_os("HEARTH_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(parent).expect("a directory for the images");
    println!("wrapping data as a uImage in {}", dir.path().display());
    println!(
        "{:>8} {:>16} {:>16} {:>8}   {:>10} {:>10}",
        "data", "hearth", "mkimage", "ratio", "hearth", "mkimage"
    );
    for (mib, rounds) in [(64, 9), (1024, 5)] {
        fill(&dir.path().join("data"), mib);
        // In turns, so that what else the machine does meets both alike.
        let mut times = [Vec::new(), Vec::new()];
        let mut memory = [0, 0];
        for _ in 0..rounds {
            for (program, command) in [ours(), theirs()].iter().enumerate() {
                let (seconds, kib) = run(dir.path(), command);
                times[program].push(seconds);
                memory[program] = memory[program].max(kib);
            }
        }
        let same = fs::read(dir.path().join("image")).expect("mkimage's image");
        assert_eq!(same.len(), mib * MIB + 64);
        let [ours, theirs] = times.map(median);
        let [our_peak, their_peak] = memory.map(|kib| kib as f64 / 1024.0);
        println!(
            "{mib:>4} MiB {ours:>14.3} s {theirs:>14.3} s {:>8.2}   {our_peak:>6.1} MiB {their_peak:>6.1} MiB",
            ours / theirs
        );
    }
}

fn ours() -> Vec<String> {
    vec![
        env!("CARGO_BIN_EXE_hearth").to_string(),
        "mkimage".to_string(),
    ]
}

fn theirs() -> Vec<String> {
    vec!["mkimage".to_string()]
}

/// Data that neither program nor file system can take a short cut with.
fn fill(path: &Path, mib: usize) {
    let mut file = File::create(path).expect("the data");
    let mut state = 1_u64;
    let mut piece = vec![0; MIB];
    for _ in 0..mib {
        for word in piece.chunks_exact_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece).expect("the data");
    }
    file.sync_all().expect("the data");
}

/// Wraps the data once, in a process of its own so that its peak memory is nobody else's. Gives seconds and KiB.
fn run(dir: &Path, program: &[String]) -> (f64, u64) {
    let _ = fs::remove_file(dir.join("image"));
    let output = Command::new(env::current_exe().expect("this program"))
        .arg("measure")
        .args(program)
        .args([
            "-A", "arm", "-T", "ramdisk", "-C", "none", "-d", "data", "image",
        ])
        .current_dir(dir)
        .stderr(Stdio::inherit())
        .output()
        .expect("this program");
    assert!(output.status.success(), "{program:?} fails");
    let text = String::from_utf8(output.stdout).expect("two numbers");
    let (seconds, kib) = text.trim().split_once(' ').expect("two numbers");
    (seconds.parse().expect("seconds"), kib.parse().expect("KiB"))
}

/// Runs a command and prints its seconds and its peak memory in KiB.
fn measure(command: &[String]) {
    let begun = Instant::now();
    let status = Command::new(&command[0])
        .args(&command[1..])
        .stdout(Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("{}: {error}: run `make deps`", command[0]));
    let seconds = begun.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?} fails");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
    println!("{seconds} {}", usage.max_rss());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
