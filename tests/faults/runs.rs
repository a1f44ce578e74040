//! Runs that get into each other's way, are stopped, or lose their lab.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::board::{Board, shows, spawn, wait_for};
use crate::common::fail;

const CASE: &str = "lava-test-case one --result pass";

fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

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
    board.ended(first.wait_with_output().unwrap()).passed();
}

#[test]
fn a_run_that_is_stopped_switches_the_board_off_and_reports_what_it_had() {
    let board = Board::new("boot");
    let run = spawn(&mut board.command(&format!("{CASE}\nsleep 60")));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "RESULT=pass")
    });
    kill(pid(&run), Signal::SIGINT).unwrap();
    let run = board.ended(run.wait_with_output().unwrap());
    run.failed(4, "cancelled", "running", "somebody stopped the run");
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn a_lab_that_is_killed_and_restarted_in_a_job_costs_nothing() {
    let board = Board::new("boot");
    let serve = || {
        let child = spawn(board.hearth().args(["serve", "--lab", "lab.toml"]));
        let lab = fs::read_to_string(board.path("lab.toml")).unwrap();
        let address = lab.split('\'').nth(3).unwrap().to_string() + ":8420";
        wait_for("the lab", || std::net::TcpStream::connect(&address).is_ok());
        child
    };
    let mut lab = serve();
    let run = spawn(&mut board.command(&format!(
        "{CASE}\nsleep 8\nlava-test-case two --result pass"
    )));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "TEST_CASE_ID=one")
    });
    lab.kill().unwrap();
    lab.wait().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let mut lab = serve();
    let run = board.ended(run.wait_with_output().unwrap());
    kill(pid(&lab), Signal::SIGTERM).unwrap();
    lab.wait().unwrap();
    run.passed();
    assert_eq!(run.cases(), ["one=pass", "two=pass"]);
}

#[test]
fn a_network_that_is_lost_costs_no_result() {
    let board = Board::new("boot");
    let mut lab = spawn(board.hearth().args(["serve", "--lab", "lab.toml"]));
    let lab_file = fs::read_to_string(board.path("lab.toml")).unwrap();
    let address = lab_file.split('\'').nth(3).unwrap().to_string() + ":8420";
    wait_for("the lab", || std::net::TcpStream::connect(&address).is_ok());
    let run = spawn(&mut board.command(&format!(
        "{CASE}\nsleep 4\nlava-test-case two --result pass"
    )));
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "TEST_CASE_ID=one")
    });
    lab.kill().unwrap();
    lab.wait().unwrap();
    let run = board.ended(run.wait_with_output().unwrap());
    run.passed();
    assert_eq!(run.cases(), ["one=pass", "two=pass"]);
    assert!(run.said.contains("over the console alone"), "{}", run.said);
}

#[test]
fn what_a_killed_run_has_left_does_not_disturb_the_next_one() {
    let board = Board::new("sleep 3; boot");
    let mut run = spawn(&mut board.command(CASE));
    wait_for("power", || board.has_power());
    run.kill().unwrap();
    run.wait().unwrap();
    let run = board.test("lava-test-case two --result pass");
    run.passed();
    assert_eq!(run.cases(), ["two=pass"]);
}
