//! `hearth bisect git`: a planted commit, commits that do not build, and being stopped.

use std::fs;
use std::process::{Command, Output};

use common::process::spawn;
use common::scripted::Board;
use common::{fail, run, wait_for};
use nix::sys::signal::Signal;

use crate::codes::{git, repository};

/// "Builds" what the board is to have: it copies the value.
const BUILD: &str = "grep -q builds state && cp value ../built";

fn bisect(board: &Board, words: &[&str], behind: &[&str]) -> Command {
    let built = board.path("built");
    let _ = board.command(&format!(
        "lava-test-case value --shell grep -q good {}",
        built.display()
    ));
    let mut command = board.hearth();
    command
        .args(["bisect", "git", "tree", "-o", "found"])
        .args(words)
        .args(["fake1", "t.yaml", "--image", "out/img"])
        .args(behind);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn tries(board: &Board) -> usize {
    let text = fs::read_to_string(board.path("found/bisect.json")).unwrap_or_default();
    let journal: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    journal["tries"].as_array().map_or(0, Vec::len)
}

#[test]
fn the_planted_commit_is_found_around_those_that_do_not_build() {
    let board = Board::new("boot");
    let tree = board.path("tree");
    let commits = repository(&tree, 9, 7, 4);
    let words = ["--good", &commits[0], "--build", BUILD];
    let output = run(&mut bisect(&board, &words, &[]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let found = format!("the first bad commit:\n  {} change 7\n", commits[7]);
    assert!(told.contains(&found), "{told}");
    assert!(
        told.contains("is skipped: it does not build (exit code 1): see found/01/build.log"),
        "{told}"
    );
    // The work tree is as it was.
    assert_eq!(git(&tree, &["rev-parse", "HEAD"]), commits[9]);
    assert_eq!(git(&tree, &["symbolic-ref", "--short", "HEAD"]), "main");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
}

#[test]
fn commits_that_cannot_be_told_apart_are_all_named() {
    let board = Board::new("boot");
    let commits = repository(&board.path("tree"), 4, 3, 2);
    let words = [
        "--good",
        &commits[0],
        "--bad",
        &commits[4],
        "--build",
        BUILD,
    ];
    let output = run(&mut bisect(&board, &words, &[]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    for commit in &commits[2..5] {
        assert!(told.contains(commit), "{told}");
    }
    assert!(!told.contains(&commits[1]), "{told}");
}

#[test]
fn a_bisection_that_is_killed_goes_on_where_it_was_and_another_is_left_alone() {
    let board = Board::new("boot");
    let tree = board.path("tree");
    let commits = repository(&tree, 9, 7, 100);
    let words = ["--good", &commits[0], "--build", BUILD];
    for (count, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGTERM)] {
        let bisection = spawn(&mut bisect(&board, &words, &[]));
        wait_for("a try", || tries(&board) >= count && board.has_power());
        bisection.signal(signal);
        bisection.output();
        wait_for("the board to be off", || !board.has_power());
        assert_eq!(tries(&board), count);
    }
    // Another one in the same tree is refused, and disturbs nothing.
    let mut other = bisect(
        &board,
        &["--good", &commits[1], "--build", BUILD, "--restart"],
        &[],
    );
    fail(&mut other, 2, "another bisection is under way in tree");
    let output = run(&mut bisect(
        &board,
        &[&words[..], &["--restart"]].concat(),
        &[],
    ));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("change 7"), "{told}");
}

#[test]
fn what_stops_a_bisection_leaves_it_where_it_was() {
    let board = Board::new("boot");
    let tree = board.path("tree");
    let commits = repository(&tree, 9, 7, 100);
    let words = ["--good", &commits[0], "--build", "no-such-command"];
    fail(
        &mut bisect(&board, &words, &[]),
        2,
        "the build command cannot be run (exit code 127)",
    );
    git(&tree, &["bisect", "reset"]);
    let good = ["--restart", "--good", &commits[0], "--build", BUILD];
    fail(
        &mut bisect(&board, &good, &["--case", "u/x"]),
        2,
        "no definition here is named `u`",
    );
    fail(
        &mut bisect(&board, &["--good", "nothing", "--build", BUILD], &[]),
        2,
        "tree has no commit `nothing`",
    );
    fail(
        &mut bisect(&board, &["--good", "HEAD", "--build", BUILD], &[]),
        2,
        "the same commit",
    );
    // git itself says what is wrong with ends that were mixed up.
    let mixed = [
        "--restart",
        "--good",
        "HEAD",
        "--bad",
        &commits[0],
        "--build",
        BUILD,
    ];
    fail(&mut bisect(&board, &mixed, &[]), 2, "git bisect");
}
