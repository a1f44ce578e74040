//! Measures the boot scripts of a lab of 1,000 boards: `hearth bootscript --all` against running mkimage once a board
//! on texts that are rendered already, in one run, printed as a ratio.
//!
//! Needs u-boot-tools.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const BOARDS: usize = 1000;
const ROUNDS: usize = 5;

fn main() {
    let dir = tempfile::tempdir().expect("a directory for the scripts");
    let mut lab = String::from("[lab]\nname = 'bench'\naddress = '192.168.7.1'\n");
    for n in 0..BOARDS {
        let _ = write!(lab, "[[board]]\nname = 'neo{n}'\ntype = 'nanopi-neo'\n");
    }
    fs::write(dir.path().join("lab.toml"), lab).expect("the lab file");
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // A new tree each time, so that nothing is up to date; in turns, so that what else the machine does
        // meets both alike.
        times[0].push(hearth(dir.path(), round));
        times[1].push(mkimage(dir.path()));
    }
    let [ours, theirs] = times.map(|mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    });
    println!("boot scripts of {BOARDS} boards");
    println!("hearth   {ours:.3} s  (renders, checks, wraps, writes 3 files a board)");
    println!("mkimage  {theirs:.3} s  (wraps and writes 1 file a board)");
    println!("ratio    {:.3}", ours / theirs);
}

fn hearth(dir: &Path, round: usize) -> f64 {
    let begun = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(["-q", "bootscript", "--all", "--image", "image", "-o"])
        .arg(round.to_string())
        .current_dir(dir)
        .status()
        .expect("hearth");
    assert!(status.success());
    begun.elapsed().as_secs_f64()
}

/// The same texts, as hearth rendered them.
fn mkimage(dir: &Path) -> f64 {
    let text = dir.join("boot.cmd");
    let image = fs::read(dir.join("0/boards/neo0/boot.scr")).expect("a script");
    fs::write(&text, &image[72..]).expect("its text");
    let begun = Instant::now();
    for n in 0..BOARDS {
        let status = Command::new("mkimage")
            .args(["-A", "arm", "-T", "script", "-C", "none", "-d"])
            .arg(&text)
            .arg(dir.join(format!("{n}.scr")))
            .stdout(Stdio::null())
            .status()
            .expect("mkimage is missing: run `make deps`");
        assert!(status.success());
    }
    begun.elapsed().as_secs_f64()
}
