//! Runs that get into each other's way, are stopped, or lose their lab.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;

use common::process::{Process, spawn};
use common::scripted::{Board, shows};
use common::{MAC, fail, succeed, wait_for};

const CASE: &str = "lava-test-case one --result pass";

#[test]
fn of_two_runs_that_want_one_board_the_second_waits_or_fails_as_asked() {
    let board = Board::new("boot");
    let first = spawn(&mut board.command(&format!("{CASE}\nsleep 5")));
    wait_for("the first run", || {
        shows(&board.path("report/console.log"), "RESULT=pass")
    });
    fail(
        board.hearth().args([
            "test",
            "fake1",
            "t.yaml",
            "--image",
            "out/img",
            "--no-wait",
            "-o",
            "none",
        ]),
        4,
        "another run has board `fake1`",
    );
    let mut second = board.hearth();
    second.args([
        "test", "fake1", "t.yaml", "--image", "out/img", "-o", "second",
    ]);
    let second = board.run(&mut second);
    assert_eq!(second.code, 0, "{}", second.said);
    assert!(
        second.said.contains("waiting for board `fake1`"),
        "{}",
        second.said
    );
    board.ended(first.output()).passed();
}

#[test]
fn a_run_that_is_stopped_switches_the_board_off_and_reports_what_it_had() {
    let board = Board::new("boot");
    let run = spawn(&mut board.command(&format!("{CASE}\nsleep 60")));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "RESULT=pass")
    });
    // The console can be ahead of what the lab's store says, which is looked at a few times a second.
    std::thread::sleep(std::time::Duration::from_secs(2));
    run.signal(Signal::SIGINT);
    let run = board.ended(run.output());
    run.failed(4, "cancelled", "running", "somebody stopped the run");
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn a_lab_that_is_killed_and_restarted_in_a_job_costs_nothing() {
    let board = Board::new("boot");
    let lab = board.serve();
    let run = spawn(&mut board.command(&format!(
        "{CASE}\nsleep 8\nlava-test-case two --result pass"
    )));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "TEST_CASE_ID=one")
    });
    lab.kill();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let lab = board.serve();
    let run = board.ended(run.output());
    lab.kill();
    run.passed();
    assert_eq!(run.cases(), ["one=pass", "two=pass"]);
}

#[test]
fn a_network_that_is_lost_costs_no_result() {
    let board = Board::new("boot");
    let lab = board.serve();
    let run = spawn(&mut board.command(&format!(
        "{CASE}\nsleep 4\nlava-test-case two --result pass"
    )));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "TEST_CASE_ID=one")
    });
    lab.kill();
    let run = board.ended(run.output());
    run.passed();
    assert_eq!(run.cases(), ["one=pass", "two=pass"]);
    assert!(run.said.contains("over the console alone"), "{}", run.said);
}

#[test]
fn what_a_killed_run_has_left_does_not_disturb_the_next_one() {
    let board = Board::new("sleep 3; boot");
    let run = spawn(&mut board.command(CASE));
    wait_for("power", || board.has_power());
    run.kill();
    let run = board.test("lava-test-case two --result pass");
    run.passed();
    assert_eq!(run.cases(), ["two=pass"]);
}

#[test]
fn a_board_that_nobody_knows_is_offered_for_adoption_and_is_known_then() {
    let board = Board::new("");
    let lab = fs::read_to_string(board.path("lab.toml")).unwrap();
    let lab = lab.replace(MAC, "02:00:00:00:00:01");
    fs::write(board.path("lab.toml"), &lab).unwrap();
    let _lab = board.serve();
    fs::write(
        board.path("cmdline"),
        format!(
            "hearth.board=neo9 hearth.lab=http://{}:8420 hearth.image={}",
            board.address(),
            board.image
        ),
    )
    .unwrap();
    let said = board.path("said");
    let output = fs::File::create(&said).unwrap();
    let _stranger = Process::start(board.agent().stdout(output).stderr(Stdio::null()));
    wait_for("the refusal", || {
        shows(&said, "does not take this board for what it says")
    });

    let adopt = |words: &[&str]| {
        let mut command = board.hearth();
        command.args(["lab", "adopt"]).args(words);
        command
    };
    let listed = succeed(&mut adopt(&[])).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains(MAC) && listed.contains("neo9"), "{listed}");
    fail(
        &mut adopt(&["neo8", "--type", "nanopi-neo"]),
        2,
        "is `neo8`",
    );
    fail(&mut adopt(&["neo9"]), 2, "which type of board");
    succeed(&mut adopt(&["neo9", "--type", "nanopi-neo"]));
    let text = fs::read_to_string(board.path("lab.toml")).unwrap();
    assert!(
        text.starts_with(&lab) && text.contains("name = \"neo9\""),
        "{text}"
    );
    // No run waits for it, so that it is told to power off. Before, it had to wait.
    wait_for("an answer", || shows(&said, "nothing to do: powering off"));
}
