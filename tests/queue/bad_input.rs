//! What users and programs get wrong, and what a lab does on a host that is in trouble.

use std::process::Command;

use common::{fail, run, succeed, wait_for};

use super::fixture::TestLab;

const NO_CHECKS: &str = "idle = 60\nhealth = { check = false }";

#[test]
fn wrong_submissions_are_refused_with_a_sentence() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    std::fs::write(
        lab.path("good.yaml"),
        "metadata: {format: Lava-Test Test Definition 1.0, name: t}\nrun: {steps: [\"true\"]}\n",
    )
    .unwrap();
    std::fs::write(
        lab.path("bad.yaml"),
        "metadata: {format: Lava-Test Test Definition 1.0\n",
    )
    .unwrap();
    let submit = |arguments: &[&str], says: &str| {
        let mut command = lab.hearth(&["submit"]);
        fail(command.args(arguments), 2, says);
    };
    submit(&["bad.yaml", "--board", "b1"], "bad.yaml:1:");
    submit(
        &["good.yaml", "--type", "nanopi-neo"],
        "no board of the type `nanopi-neo`",
    );
    submit(&["good.yaml", "--board", "b9"], "no board `b9`");
    submit(
        &["good.yaml", "--board", "b1", "--tag", "can"],
        "with the tags can",
    );
    submit(
        &["good.yaml", "--board", "b1", "--priority", "101"],
        "not a priority",
    );
    submit(
        &["good.yaml", "--board", "b1", "--image", "../../etc"],
        "no image",
    );
    submit(&["good.yaml"], "--board");
    // Kept, if that is asked for.
    let kept = succeed(&mut lab.hearth(&["submit", "good.yaml", "--type", "nanopi-neo", "--wait"]));
    let id: i64 = String::from_utf8(kept.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(
        lab.job(id)["waits-for"],
        "the lab has no board of the type `nanopi-neo`"
    );
    for action in ["show", "log", "cancel", "retry"] {
        fail(
            &mut lab.hearth(&["jobs", action, "4711"]),
            2,
            "the lab has no job 4711",
        );
    }
    fail(
        &mut lab.hearth(&["jobs", "show", "x"]),
        2,
        "invalid value 'x'",
    );
    fail(
        &mut lab.hearth(&["jobs", "--state", "lost"]),
        2,
        "unknown variant `lost`",
    );
    fail(
        &mut lab.hearth(&["boards", "reserve", "b9"]),
        2,
        "no board `b9`",
    );
    fail(
        &mut lab.hearth(&["jobs", "--lab-url", "http://127.0.0.1:9"]),
        4,
        "no lab answers at http://127.0.0.1:9",
    );
    fail(
        &mut lab.hearth(&["jobs", "--lab-url", "localhost"]),
        2,
        "not the address of a lab",
    );
}

/// Posts a submission by curl; gives the status and the detail.
fn post(lab: &TestLab, tar: &[u8], headers: &[&str]) -> (String, String) {
    std::fs::write(lab.path("upload"), tar).unwrap();
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--write-out",
        "\n%{http_code} %{content_type}",
        "--data-binary",
        "@upload",
    ]);
    for header in headers {
        command.args(["--header", header]);
    }
    command
        .arg(format!("{}/api/v1/jobs", lab.url()))
        .current_dir(lab.path("."));
    let output = String::from_utf8(run(&mut command).stdout).unwrap();
    let (body, status) = output.rsplit_once('\n').unwrap();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    (
        status.into(),
        problem["detail"].as_str().unwrap_or_default().into(),
    )
}

#[test]
fn what_is_posted_by_others_is_checked_again_by_the_lab_and_refused_as_rfc_9457_says() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    let tar = |job: &str, text: &str| {
        common::tarball::tar(&[
            common::tarball::file("job.json", 0o644, job),
            common::tarball::file("files/t.yaml", 0o644, text),
        ])
    };
    let is = "content-type: application/x-tar";
    let good =
        "metadata: {format: Lava-Test Test Definition 1.0, name: t}\nrun: {steps: [\"true\"]}\n";
    let job = r#"{"definitions": ["t.yaml"], "board": "b1"}"#;
    let problem = "application/problem+json";
    for (tar, headers, status, says) in [
        (tar(job, good), vec![], "415", "application/x-tar"),
        (b"no tar".to_vec(), vec![is], "400", "not a tar"),
        (tar("{", good), vec![is], "400", "job.json"),
        (
            tar(r#"{"definitions": ["t.yaml"], "bord": "b1"}"#, good),
            vec![is],
            "400",
            "unknown field `bord`",
        ),
        (
            tar(job, "metadata: {format: x\n"),
            vec![is],
            "422",
            "t.yaml:1:",
        ),
        (
            tar(r#"{"definitions": ["/etc/passwd"], "board": "b1"}"#, good),
            vec![is],
            "422",
            "neither below",
        ),
        (
            tar(r#"{"definitions": ["../../t.yaml"], "board": "b1"}"#, good),
            vec![is],
            "422",
            "neither below",
        ),
        (
            tar(
                r#"{"definitions": ["/srv/repo#t.yaml"], "board": "b1"}"#,
                good,
            ),
            vec![is],
            "422",
            "neither below",
        ),
        (
            tar(r#"{"definitions": ["nope.yaml"], "board": "b1"}"#, good),
            vec![is],
            "422",
            "has no `nope.yaml`",
        ),
        (
            tar(r#"{"definitions": [], "board": "b1"}"#, good),
            vec![is],
            "422",
            "needs a test definition",
        ),
        (
            tar(r#"{"definitions": ["t.yaml"]}"#, good),
            vec![is],
            "422",
            "names a board",
        ),
        (
            tar(job, good),
            vec![is, "origin: http://evil.example"],
            "403",
            "other sites",
        ),
        (
            tar(job, good),
            vec![is, "sec-fetch-site: cross-site"],
            "403",
            "other sites",
        ),
        (
            tar(job, good),
            vec![is, "authorization: Bearer guess"],
            "401",
            "not a token",
        ),
    ] {
        let (told, detail) = post(&lab, &tar, &headers);
        assert_eq!(told, format!("{status} {problem}"), "{detail}");
        assert!(detail.contains(says), "{says:?} is not in {detail:?}");
    }
    let (told, _) = post(&lab, &tar(job, good), &[is]);
    assert_eq!(told, "201 application/json");
}

#[test]
fn names_with_sql_and_markup_stay_names() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    let name = "'); DROP TABLE lab_job;-- <script>alert(1)</script> \u{1b}[31m";
    let id = lab.submit(0.0, &["--board", "b1", "--name", name]);
    assert_eq!(lab.job(id)["name"], name);
    let listed = succeed(&mut lab.hearth(&["jobs"]));
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        !listed.contains('\u{1b}') && listed.contains("DROP TABLE"),
        "{listed}"
    );
    let found = lab.get("jobs?submitter=%27%20OR%201%3D1%20--");
    assert_eq!(found.as_array().map(Vec::len), Some(0));
    lab.wait_for_job(id, "finished");
}

#[test]
fn two_labs_with_one_state_are_refused_and_one_with_its_own_is_not() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let _serve = lab.serve();
    fail(
        &mut lab.hearth(&["serve"]),
        3,
        "another `hearth serve` (process ",
    );
}

#[test]
fn on_a_full_disk_no_job_begins_and_none_is_lost() {
    let lab = TestLab::new(&["b1"], NO_CHECKS);
    let state = lab.path("state");
    std::fs::create_dir(&state).unwrap();
    // A file system of the lab's own, in namespaces of its own; the API is on the same loopback device.
    let mut serve = Command::new("unshare");
    serve.args(["--map-root-user", "--mount", "sh", "-c"]);
    serve.arg("mount -t tmpfs -o size=100m state state && exec \"$0\" serve -v");
    let inner = lab.hearth(&[]);
    serve.arg(inner.get_program());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => serve.env(name, value),
            None => serve.env_remove(name),
        };
    }
    serve.current_dir(lab.path("."));
    let log = std::fs::File::create(lab.path("serve.log")).unwrap();
    let serve = common::process::Process::start(serve.stderr(log));
    wait_for("the lab", || lab.call("GET", "lab", None).0 == 200);
    let id = lab.submit(3.0, &["--board", "b1"]);
    lab.wait_for_job(id, "running");
    let waiting = lab.submit(0.0, &["--board", "b1"]);
    let inside = format!("/proc/{}/root{}", serve.id(), state.display());
    let filler = format!("{inside}/filler");
    succeed(Command::new("fallocate").args(["--length", "60M", &filler]));
    // What runs ends whole.
    lab.wait_for_job(id, "finished");
    assert_eq!(lab.job(id)["health"], "complete");
    let held = lab.job(waiting)["waits-for"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    assert!(held.contains("MiB left: no job begins"), "{held}");
    let held = lab.get("lab")["held"].clone();
    assert!(
        held.as_str().is_some_and(|it| it.contains("MiB left")),
        "{held}"
    );
    fail(
        lab.hearth(&["submit"])
            .arg(lab.path("0.yaml"))
            .args(["--board", "b1"]),
        4,
        "MiB left",
    );
    std::fs::remove_file(&filler).unwrap();
    lab.wait_for_job(waiting, "finished");
    assert_eq!(lab.job(waiting)["health"], "complete");
}
