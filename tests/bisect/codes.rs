//! The exit codes of `hearth test --bisect`, seen from git.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::process::spawn;
use common::scripted::{Board, Run, shows};
use common::{oracle, succeed, wait_for};
use nix::sys::signal::Signal;

/// Runs steps with these words behind `hearth test …`.
fn test(board: &Board, steps: &str, words: &[&str]) -> Run {
    board.run(board.command(steps).args(words))
}

#[test]
fn good_and_bad_and_a_case_that_decides() {
    let board = Board::new("boot");
    let good = "lava-test-case one --result pass";
    let bad = "lava-test-case one --result pass\nlava-test-case two --result fail";
    for (steps, words, code, says) in [
        (good, &["--bisect"][..], 0, "bisect: good"),
        (bad, &["--bisect"], 1, "bisect: bad: 0_t/two did not pass"),
        (bad, &["--bisect", "--case", "t/one"], 0, "bisect: good"),
        (bad, &["--bisect", "--case", "0_t/two"], 1, "0_t/two failed"),
        (
            bad,
            &["--bisect", "--case", "t/tow"],
            125,
            "came to no result (did you mean `two`?)",
        ),
    ] {
        let run = test(&board, steps, words);
        assert_eq!(run.code, code, "{words:?} {}", run.said);
        assert!(run.said.contains(says), "{words:?} {}", run.said);
    }
}

#[test]
fn a_board_that_fails_cannot_be_tested_unless_its_boot_is_hunted() {
    let panic = "uboot; linux; echo '[    2.000000] Kernel panic - not syncing: no root'; sleep 60";
    let board = Board::new(panic);
    let steps = "lava-test-case one --result pass";
    assert_eq!(test(&board, steps, &["--bisect"]).code, 125);
    let run = test(&board, steps, &["--bisect=boot"]);
    assert_eq!(run.code, 1, "{}", run.said);
    assert!(run.said.contains("bisect: bad: "), "{}", run.said);
    // No other run waits for the board.
    board.write_lab(
        "{ driver = 'tcp', address = '127.0.0.1:1' }",
        "{ driver = 'command', off = ['true'], on = ['true'] }",
        "",
    );
    assert_eq!(test(&board, steps, &["--bisect=boot"]).code, 125);
}

#[test]
fn a_mistake_in_the_command_stops_a_bisection() {
    let board = Board::new("boot");
    let command = |words: &[&str]| {
        let mut command = board.hearth();
        command.arg("test").args(words).arg("--bisect");
        command
    };
    fs::write(board.path("bad.yaml"), "metadata: [").unwrap();
    board.command("true");
    for words in [
        &["fake1"][..],
        &["fake1", "t.yaml", "--no-such-option"],
        &["fake1", "none.yaml", "--image", "out/img"],
        &["fake1", "bad.yaml", "--image", "out/img"],
        &["nobody", "t.yaml", "--image", "out/img"],
        &["fake1", "t.yaml", "--image", "out/none"],
        &["fake1", "t.yaml", "--image", "out/img", "--case", "one"],
        &["fake1", "t.yaml", "--image", "out/img", "--case", "u/one"],
        &["fake1", "t.yaml", "--image", "out/img", "-p", "u:A=1"],
    ] {
        let output = common::run(&mut command(words));
        assert_eq!(output.status.code(), Some(129), "{words:?} {output:?}");
    }
    // Without --bisect the code is the usual one.
    let output = common::run(board.hearth().args(["test", "fake1"]));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_run_that_is_stopped_stops_a_bisection() {
    let board = Board::new("boot");
    let mut command = board.command("lava-test-case one --result pass\nsleep 60");
    let run = spawn(command.arg("--bisect"));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "RESULT=pass")
    });
    run.signal(Signal::SIGINT);
    let run = board.ended(run.output());
    assert_eq!(run.code, 130, "{}", run.said);
}

pub fn git(directory: &Path, words: &[&str]) -> String {
    let output = succeed(
        oracle("git")
            .current_dir(directory)
            .args(["-c", "user.name=n", "-c", "user.email=n@localhost"])
            .args(["-c", "init.defaultBranch=main"])
            .args(words),
    );
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// A repository with `count` commits after the first, of a file `value` that becomes `bad` with commit `culprit`; a file
/// `broken` is there from commit `broken` on for two commits. Gives the commits.
pub fn repository(directory: &Path, count: usize, culprit: usize, broken: usize) -> Vec<String> {
    fs::create_dir_all(directory).unwrap();
    git(directory, &["init", "-q", "."]);
    (0..=count)
        .map(|number| {
            let value = if number < culprit { "good" } else { "bad" };
            fs::write(directory.join("value"), format!("{value}\n")).unwrap();
            fs::write(directory.join("number"), format!("{number}\n")).unwrap();
            let is_broken = (broken..broken + 2).contains(&number);
            let state = if is_broken { "broken" } else { "builds" };
            fs::write(directory.join("state"), state).unwrap();
            git(directory, &["add", "."]);
            git(
                directory,
                &["commit", "-q", "-m", &format!("change {number}")],
            );
            git(directory, &["rev-parse", "HEAD"])
        })
        .collect()
}

/// The oracle is git itself.
#[test]
fn git_bisect_run_finds_the_planted_commit() {
    let board = Board::new("boot");
    let tree = board.path("tree");
    let commits = repository(&tree, 9, 6, 100);
    let steps = format!(
        "lava-test-case value --shell grep -q good {}/value",
        tree.display()
    );
    let test = board.command(&steps);
    let bisect = |words: &[&str]| {
        let mut command = Command::new("git");
        for (name, value) in test.get_envs() {
            command.env(name, value.unwrap());
        }
        command.current_dir(&tree).arg("bisect").args(words);
        succeed(&mut command)
    };
    bisect(&["start", &commits[9], &commits[0]]);
    let script = format!("cd {} && exec \"$@\"", board.path("").display());
    let mut words = vec!["run", "sh", "-c", &script, "sh"];
    words.push(test.get_program().to_str().unwrap());
    words.extend(test.get_args().map(|word| word.to_str().unwrap()));
    words.push("--bisect");
    let output = bisect(&words);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = format!("{} is the first bad commit", commits[6]);
    assert!(said.contains(&found), "{said}");
}
