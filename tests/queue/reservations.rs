//! Reservations: leases end by their time, by release, and with whoever held them.

use std::process::Stdio;

use common::process::spawn;
use common::{fail, succeed, wait_for};

use super::fixture::TestLab;

const NO_CHECKS: &str = "idle = 60\nhealth = { check = false }";

#[test]
fn a_lease_of_a_killed_client_ends_and_the_board_takes_jobs_again() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    let mut holder = lab.hearth(&[
        "boards",
        "reserve",
        "b1",
        "--why",
        "soldering",
        "--while",
        "sleep",
        "600",
    ]);
    let holder = spawn(holder.stdin(Stdio::null()));
    wait_for("the reservation", || lab.board("b1")["state"] == "reserved");
    let id = lab.submit(0.0, &["--board", "b1"]);
    let why = lab.job(id)["waits-for"].as_str().unwrap().to_string();
    assert!(
        why.starts_with("b1 is reserved by ") && why.contains("soldering"),
        "{why}"
    );
    // Longer than three signs of life may be missing: it lives.
    std::thread::sleep(std::time::Duration::from_secs(17));
    assert_eq!(lab.board("b1")["state"], "reserved");
    // SIGKILL: it can tell nobody.
    holder.kill();
    lab.wait_for_job(id, "finished");
    assert_eq!(lab.job(id)["health"], "complete");
}

#[test]
fn a_command_runs_while_its_board_is_reserved_and_its_exit_code_is_kept() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    let script = "[ \"$HEARTH_RESERVED\" = b1 ] && exit 7";
    fail(
        &mut lab.hearth(&["boards", "reserve", "b1", "--while", "sh", "-c", script]),
        7,
        "",
    );
    assert_eq!(lab.board("b1")["state"], "idle");
    // The reservation waits for the job that has the board, and goes before the next one.
    let first = lab.submit(3.0, &["--board", "b1"]);
    let next = lab.submit(0.0, &["--board", "b1"]);
    lab.wait_for_job(first, "running");
    fail(
        &mut lab.hearth(&["boards", "reserve", "b1", "--no-wait"]),
        2,
        "runs job 1",
    );
    let shown = "echo; exec \"$0\" jobs show 2 --json";
    let hearth = lab.hearth(&[]).get_program().to_str().unwrap().to_string();
    let output = succeed(&mut lab.hearth(&[
        "boards", "reserve", "b1", "--while", "sh", "-c", shown, &hearth,
    ]));
    let job: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(job["state"], "submitted", "{job}");
    assert_eq!(lab.job(first)["state"], "finished");
    lab.wait_for_job(next, "finished");
}

#[test]
fn a_lease_ends_by_its_time_and_by_release() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    let reserve =
        |time: &str| succeed(&mut lab.hearth(&["boards", "reserve", "b1", "--for", time]));
    reserve("2s");
    assert_eq!(lab.board("b1")["state"], "reserved");
    wait_for("its end", || lab.board("b1")["state"] == "idle");
    reserve("2h");
    fail(
        &mut lab.hearth(&["boards", "reserve", "b1", "--no-wait"]),
        2,
        "is reserved by",
    );
    succeed(&mut lab.hearth(&["boards", "release", "b1"]));
    assert_eq!(lab.board("b1")["state"], "idle");
    fail(
        &mut lab.hearth(&["boards", "release", "b1"]),
        2,
        "not reserved",
    );
    // The token of a lease is its holder's alone.
    assert_eq!(lab.call("POST", "leases/guess/beat", Some("null")).0, 410);
    assert_eq!(lab.call("DELETE", "leases/guess", None).0, 410);
}

#[test]
fn a_board_in_maintenance_gets_no_jobs() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    succeed(&mut lab.hearth(&["boards", "maintenance", "b1", "--why", "being moved"]));
    let id = lab.submit(0.0, &["--board", "b1"]);
    assert_eq!(
        lab.job(id)["waits-for"],
        "b1 is in maintenance: being moved"
    );
    succeed(&mut lab.hearth(&["boards", "good", "b1"]));
    lab.wait_for_job(id, "finished");
}
