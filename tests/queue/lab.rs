//! The lab as a whole: thirty jobs on three boards, a board that fails, a lab that is killed; power and health.

use std::collections::BTreeMap;
use std::process::Stdio;

use common::{fail, run, succeed, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::fixture::TestLab;

/// Only after an infrastructure failure.
const HEALTH: &str = "idle = 2\nhealth = { job = 'health.yaml', every = 0, jobs = 0 }";

/// The attempts of a job with this outcome.
fn outcomes(job: &Value) -> Vec<&str> {
    let attempts = job["attempts"].as_array().unwrap();
    attempts
        .iter()
        .map(|it| it["outcome"].as_str().unwrap_or("none"))
        .collect()
}

#[test]
fn thirty_jobs_of_two_users_end_right_though_a_board_fails_and_the_lab_is_killed_twice() {
    let lab = TestLab::new(&["b1", "b2", "b3"], HEALTH);
    let mut serve = lab.serve();
    let mut jobs = Vec::new();
    for number in 0..30 {
        let user = if number % 3 == 0 { "anna" } else { "bob" };
        let priority = ["low", "medium", "high"][number % 3];
        let mut arguments = vec![
            "--type",
            "qemu-virt-arm",
            "--priority",
            priority,
            "--name",
            user,
        ];
        // Some can run on one board only.
        if number % 10 == 4 {
            arguments.extend(["--tag", "b1"]);
        }
        jobs.push(lab.submit(0.5, &arguments));
    }
    for round in 0..2 {
        let done = (round + 1) * 6;
        wait_for("some jobs", || finished(&lab) >= done);
        if round == 0 {
            lab.set_broken("b3", true);
        }
        serve.kill();
        std::thread::sleep(std::time::Duration::from_millis(700));
        serve = lab.serve();
    }
    wait_for("all jobs", || finished(&lab) == jobs.len());
    let all = lab.get("jobs?kind=test&limit=100");
    let ids: Vec<i64> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.len(), jobs.len(), "a job is lost or there twice");
    for job in all.as_array().unwrap() {
        assert_eq!(
            (&job["health"], &job["exit"]),
            (&"complete".into(), &0.into()),
            "{job}"
        );
        let passed = outcomes(job).iter().filter(|it| **it == "passed").count();
        assert_eq!(passed, 1, "one result: {job}");
        assert_eq!(outcomes(job).last(), Some(&"passed"), "{job}");
        for attempt in job["attempts"].as_array().unwrap() {
            assert!(
                attempt["outcome"] == "passed"
                    || attempt["board"] == "b3"
                    || attempt["outcome"] == "lost",
                "{job}"
            );
        }
        // Its report is there, whole.
        let file = lab.get(&format!("jobs/{}/report/report.json", job["id"]));
        assert_eq!(file["suites"][0]["cases"][0]["outcome"], "pass");
    }
    no_board_had_two_jobs_at_once(all.as_array().unwrap());
    // The board that failed a job, and then its check, gets none.
    wait_for("the check of b3", || lab.board("b3")["health"] == "bad");
    assert_eq!(
        lab.get("jobs?kind=health&board=b3&limit=1")[0]["health"],
        "incomplete"
    );
    let waits = lab.submit(0.0, &["--board", "b3"]);
    let why = lab.job(waits)["waits-for"].as_str().unwrap().to_string();
    assert!(
        why.starts_with("b3 is bad: failed its health check, job "),
        "{why}"
    );
    // Mended, and given back by an operator.
    lab.set_broken("b3", false);
    succeed(&mut lab.hearth(&["boards", "good", "b3", "--why", "new cable"]));
    lab.wait_for_job(waits, "finished");
    let history =
        String::from_utf8(succeed(&mut lab.hearth(&["boards", "history", "b3"])).stdout).unwrap();
    assert!(
        history.contains("good: new cable") && history.contains("bad: failed"),
        "{history}"
    );
    serve.signal(Signal::SIGTERM);
    assert!(serve.output().status.success());
}

fn finished(lab: &TestLab) -> usize {
    let jobs = lab.get("jobs?kind=test&state=finished&limit=100");
    jobs.as_array().map_or(0, Vec::len)
}

fn no_board_had_two_jobs_at_once(jobs: &[Value]) {
    let mut spans: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for attempt in jobs
        .iter()
        .flat_map(|job| job["attempts"].as_array().unwrap())
    {
        let span = (
            attempt["begun"].as_f64().unwrap(),
            attempt["ended"].as_f64().unwrap(),
        );
        spans
            .entry(attempt["board"].as_str().unwrap())
            .or_default()
            .push(span);
    }
    assert_eq!(spans.len(), 3, "every board had jobs: {spans:?}");
    for spans in spans.values_mut() {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(
            spans.windows(2).all(|two| two[0].1 <= two[1].0),
            "{spans:?}"
        );
    }
}

#[test]
fn a_running_job_of_a_killed_lab_is_taken_up_again_and_its_follower_misses_nothing() {
    let lab = TestLab::new(&["b1"], HEALTH);
    let serve = lab.serve();
    let id = lab.submit(6.0, &["--board", "b1"]);
    lab.wait_for_job(id, "running");
    let mut follower = lab.hearth(&["jobs", "log", "-f", &id.to_string()]);
    let follower = common::process::spawn(follower.stdin(Stdio::null()));
    serve.kill();
    assert!(lab.has_power("b1"), "the run goes on without the lab");
    drop(follower);
    let _serve = lab.serve();
    assert_eq!(lab.job(id)["state"], "running");
    let test = run(&mut lab.hearth(&["jobs", "log", "-f", &id.to_string()]));
    assert!(String::from_utf8_lossy(&test.stdout).contains("reboot: Power down"));
    lab.wait_for_job(id, "finished");
    let job = lab.job(id);
    assert_eq!(outcomes(&job), ["passed"]);
    assert_eq!(lab.boots("b1"), 1);
    assert!(
        lab.said()
            .contains(&format!("job {id} on b1 is taken up again"))
    );
}

#[test]
fn a_run_that_died_with_its_lab_is_tried_again_and_both_attempts_are_kept() {
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    let lab = TestLab::new(&["b1"], HEALTH);
    let serve = lab.serve();
    let id = lab.submit(3.0, &["--board", "b1"]);
    lab.wait_for_job(id, "running");
    let pid = std::fs::read_to_string(lab.path(&format!("state/jobs/{id}/1/pid"))).unwrap();
    serve.kill();
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    let _serve = lab.serve();
    lab.wait_for_job(id, "finished");
    let job = lab.job(id);
    assert_eq!(outcomes(&job), ["lost", "passed"]);
    // What happened to the run says nothing of the board.
    assert_eq!(lab.board("b1")["health"], "good");
    assert_eq!(job["exit"], 0);
}

#[test]
fn the_run_of_one_job_that_crashes_takes_no_other_along() {
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    let lab = TestLab::new(&["b1", "b2"], HEALTH);
    let _serve = lab.serve();
    let (one, other) = (
        lab.submit(3.0, &["--board", "b1"]),
        lab.submit(3.0, &["--board", "b2"]),
    );
    lab.wait_for_job(one, "running");
    lab.wait_for_job(other, "running");
    let pid = std::fs::read_to_string(lab.path(&format!("state/jobs/{one}/1/pid"))).unwrap();
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGABRT).unwrap();
    for id in [one, other] {
        lab.wait_for_job(id, "finished");
        assert_eq!(lab.job(id)["health"], "complete");
    }
    assert_eq!(outcomes(&lab.job(other)), ["passed"]);
    assert_eq!(outcomes(&lab.job(one)), ["lost", "passed"]);
}

#[test]
fn idle_boards_are_switched_off_and_a_job_wakes_one() {
    let lab = TestLab::new(&["b1", "b2"], HEALTH);
    // Somebody switched it on by hand.
    std::fs::write(lab.path("b2/power"), "").unwrap();
    let _serve = lab.serve();
    wait_for("b2 to be off", || !lab.has_power("b2"));
    wait_for("the lab to know it", || lab.board("b2")["power"] == "off");
    let id = lab.submit(0.0, &["--board", "b2"]);
    wait_for("b2 to be on", || lab.has_power("b2"));
    assert!(!lab.has_power("b1"));
    lab.wait_for_job(id, "finished");
    wait_for("b2 to be off", || {
        lab.board("b2")["power"] == "off" && !lab.has_power("b2")
    });
}

#[test]
fn a_job_is_followed_with_what_hearth_test_shows_and_its_exit_code() {
    let lab = TestLab::new(&["b1"], HEALTH);
    let serve = lab.serve();
    std::fs::write(
        lab.path("failing.yaml"),
        "metadata: {format: Lava-Test Test Definition 1.0, name: failing}\n\
         run: {steps: [\"lava-test-case a.b --result fail\"]}\n",
    )
    .unwrap();
    let followed = fail(
        &mut lab.hearth(&["submit", "failing.yaml", "--board", "b1", "--follow"]),
        1,
        "fail    0_failing/a.b",
    );
    let said = String::from_utf8_lossy(&followed.stderr).into_owned();
    assert!(
        said.contains("userspace") && said.contains("done"),
        "{said}"
    );
    assert!(String::from_utf8_lossy(&followed.stdout).contains("1 failed"));
    // And so is `hearth test`, by the same lab, with its report where it always is.
    let mut test = lab.hearth(&[
        "test",
        "b1",
        "failing.yaml",
        "--image",
        "out/img",
        "-o",
        "report",
    ]);
    fail(&mut test, 1, "job 2 of the lab");
    assert!(lab.path("report/junit.xml").exists() && lab.path("report/console.log").exists());
    serve.signal(Signal::SIGINT);
    assert!(serve.output().status.success());
    // Without a lab it works as ever.
    let alone = fail(
        &mut lab.hearth(&[
            "test",
            "b1",
            "failing.yaml",
            "--image",
            "out/img",
            "-o",
            "r2",
        ]),
        1,
        "report in r2",
    );
    assert!(!String::from_utf8_lossy(&alone.stderr).contains("of the lab"));
}

#[test]
fn an_orderly_stop_ends_runs_with_their_boards_off_and_their_jobs_wait_for_the_next_start() {
    let lab = TestLab::new(&["b1"], HEALTH);
    let serve = lab.serve();
    let id = lab.submit(5.0, &["--board", "b1"]);
    lab.wait_for_job(id, "running");
    serve.signal(Signal::SIGTERM);
    assert!(serve.output().status.success());
    assert!(!lab.has_power("b1"));
    let _serve = lab.serve();
    lab.wait_for_job(id, "finished");
    assert_eq!(outcomes(&lab.job(id)), ["cancelled", "passed"]);
}

#[test]
fn a_cancelled_job_ends_with_its_board_off_and_can_be_submitted_again() {
    let lab = TestLab::new(&["b1"], HEALTH);
    let _serve = lab.serve();
    let running = lab.submit(60.0, &["--board", "b1"]);
    let waiting = lab.submit(0.0, &["--board", "b1"]);
    lab.wait_for_job(running, "running");
    for id in [waiting, running] {
        succeed(&mut lab.hearth(&["jobs", "cancel", &id.to_string()]));
        lab.wait_for_job(id, "finished");
        assert_eq!(lab.job(id)["health"], "canceled");
        fail(
            &mut lab.hearth(&["jobs", "cancel", &id.to_string()]),
            2,
            "has ended: canceled",
        );
    }
    assert!(!lab.has_power("b1"));
    let again = succeed(&mut lab.hearth(&["jobs", "retry", &waiting.to_string()]));
    let again: i64 = String::from_utf8(again.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    lab.wait_for_job(again, "finished");
    assert_eq!(lab.job(again)["health"], "complete");
    succeed(&mut lab.hearth(&["jobs", "report", &again.to_string(), "-o", "fetched"]));
    let report = std::fs::read_to_string(lab.path("fetched/report.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&report).unwrap()["board"],
        "b1"
    );
}
