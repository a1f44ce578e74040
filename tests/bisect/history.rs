//! What is left of runs: what reports name, lists, comparisons, and running again.

use std::fs;
use std::path::Path;

use common::scripted::Board;
use common::{fail, oracle, repository, run, sha256, succeed};
use serde_json::Value;

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn report(board: &Board, directory: &str) -> Value {
    let text = fs::read_to_string(board.path(directory).join("report.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn measured(number: &str, result: &str) -> String {
    format!(
        "lava-test-case speed --result pass --measurement {number} --units MB/s\n\
         lava-test-case stays --result pass\n\
         lava-test-case turns --result {result}"
    )
}

#[test]
fn a_report_names_what_was_booted_by_hash_and_the_definitions() {
    let board = Board::new("boot");
    let run = board.run(
        board
            .command("lava-test-case one --result pass")
            .args(["-p", "A=b"]),
    );
    run.passed();
    let inputs = &run.report["inputs"];
    assert_eq!(run.report["version"], 2);
    let rootfs = fs::read(board.path("out/img/rootfs.tar")).unwrap();
    let root = inputs["booted"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["part"] == "root");
    assert_eq!(root.unwrap()["sha256"], sha256(&rootfs));
    let definition = &inputs["definitions"][0];
    let text = fs::read(board.path("t.yaml")).unwrap();
    assert_eq!(definition["sha256"], sha256(&text));
    assert_eq!(definition["suite"], "0_t");
    assert_eq!(inputs["settings"]["parameters"][0], "A=b");
    // What is kept is what the board got.
    let kept = run.directory.join("job.tar.gz");
    let tar = succeed(oracle("gzip").arg("-dc").arg(&kept)).stdout;
    assert_eq!(inputs["job"]["sha256"], sha256(&tar));
    let shown = succeed(
        oracle("tar")
            .arg("-xzOf")
            .arg(&kept)
            .arg("0/tests/0_t/testdef.yaml"),
    );
    assert_eq!(shown.stdout, text);
    let page = fs::read_to_string(run.directory.join("report.html")).unwrap();
    assert!(page.contains(&sha256(&rootfs)) && page.contains(&sha256(&text)));
}

#[test]
fn the_boot_script_in_the_report_is_the_one_that_boards_are_served() {
    let board = Board::new("boot");
    let lab = board.serve();
    let script = format!("http://{}:8420/boards/fake1/boot.scr.uimg", board.address());
    let served = succeed(oracle("curl").args(["-fsS", &script])).stdout;
    lab.kill();
    let run = board.test("lava-test-case one --result pass");
    run.passed();
    let booted = run.report["inputs"]["booted"].as_array().unwrap();
    let named = booted
        .iter()
        .find(|file| file["part"] == "boot script")
        .unwrap();
    assert_eq!(named["sha256"], sha256(served));
}

#[test]
fn two_runs_are_listed_and_compared() {
    let board = Board::new("boot");
    for (directory, steps) in [
        ("a", measured("20.0", "pass")),
        ("b", measured("15.0", "fail")),
    ] {
        let mut command = board.command(&steps);
        command.args(["-o", &format!("runs/{directory}")]);
        // `-o report` is there already.
        let mut words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        words.retain(|word| word != "report");
        let first = words.iter().position(|word| word == "-o").unwrap();
        words.remove(first);
        run(board.hearth().args(words));
    }
    fs::create_dir_all(board.path("runs/torn")).unwrap();
    fs::write(board.path("runs/torn/report.json"), "{\"version\": 2, ").unwrap();
    let list = run(board.hearth().args(["report", "list", "runs"]));
    assert_eq!(list.status.code(), Some(2), "{list:?}");
    let said = text(&list);
    assert!(said.contains("torn/report.json is not a report"), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("fake1")).collect();
    assert_eq!(lines.len(), 2, "{said}");
    let words: Vec<&str> = lines[1].split_whitespace().skip(3).collect();
    assert_eq!(words, ["failed", "2", "1", "runs/b"], "{said}");
    fs::remove_dir_all(board.path("runs/torn")).unwrap();
    let list = succeed(board.hearth().args(["report", "list", "runs", "--json"]));
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["verdict"], "passed");
    assert_eq!(list[1]["failed"], 1);

    let compared = run(board
        .hearth()
        .args(["report", "compare", "runs/a", "runs/b"]));
    assert_eq!(compared.status.code(), Some(1));
    let said = text(&compared);
    for part in [
        "broken  t/turns  pass → fail",
        "t/speed  20.0 → 15.0 MB/s  -25.0 %",
        "definition t  ",
        "regression: ",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(!said.contains("stays"), "{said}");
    let compared = run(board
        .hearth()
        .args(["report", "compare", "runs/b", "runs/a", "--json"]));
    assert_eq!(compared.status.code(), Some(0), "{compared:?}");
    let compared: Value = serde_json::from_slice(&compared.stdout).unwrap();
    assert_eq!(compared["cases"][0]["kind"], "fixed");
    assert_eq!(compared["regression"], false);
}

#[test]
fn an_old_report_is_still_read_and_what_it_lacks_is_told() {
    let board = Board::new("boot");
    let old = repository().join("fixtures/reports/everything.json");
    let shown = succeed(board.hearth().args(["report", "show"]).arg(&old));
    assert!(text(&shown).contains("this report is of version 1"));
    let compared = succeed(
        board
            .hearth()
            .args(["report", "compare"])
            .args([&old, &old]),
    );
    assert!(text(&compared).contains("the first report is of version 1"));
    fail(board.hearth().arg("rerun").arg(&old), 2, "is of version 1");
    let mut future: Value = serde_json::from_str(&fs::read_to_string(&old).unwrap()).unwrap();
    future["version"] = 3.into();
    fs::write(board.path("report.json"), future.to_string()).unwrap();
    fail(
        board.hearth().args(["report", "show", "report.json"]),
        2,
        "knows the versions up to 2",
    );
}

#[test]
fn a_run_is_had_again_though_its_definition_has_changed() {
    let board = Board::new("boot");
    let first = board.run(
        board
            .command("lava-test-case \"$NAME\" --result pass")
            .args(["-p", "NAME=one", "--timeout", "100"]),
    );
    first.passed();
    fs::write(board.path("t.yaml"), "nothing of use").unwrap();
    let output = run(board.hearth().args(["rerun", "report", "-o", "again"]));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("t.yaml has changed since"), "{said}");
    let again = report(&board, "again");
    for part in ["definitions", "job", "booted", "settings"] {
        assert_eq!(
            again["inputs"][part], first.report["inputs"][part],
            "{part}"
        );
    }
    assert_eq!(again["suites"][0]["cases"][0]["id"], "one");
    // And that one in its turn, from somewhere else.
    fs::remove_file(board.path("t.yaml")).unwrap();
    fs::rename(board.path("out/img"), board.path("out/moved")).unwrap();
    succeed(
        board
            .hearth()
            .args(["rerun", "again/report.json", "-o", "third"]),
    );
}

#[test]
fn a_run_that_cannot_be_had_again_says_what_is_missing() {
    let board = Board::new("boot");
    board.test("lava-test-case one --result pass").passed();
    let rerun = |code, says| {
        fail(
            board.hearth().args(["rerun", "report", "-o", "again"]),
            code,
            says,
        )
    };
    let change = |change: &dyn Fn(&Path)| change(&board.path("report"));
    fs::write(
        board.path("report/kept"),
        fs::read(board.path("report/job.tar.gz")).unwrap(),
    )
    .unwrap();
    change(&|report| fs::write(report.join("job.tar.gz"), "x").unwrap());
    rerun(2, "cannot read the kept job");
    let other = succeed(oracle("gzip").arg("-c").arg(board.path("t.yaml"))).stdout;
    change(&|report| fs::write(report.join("job.tar.gz"), &other).unwrap());
    rerun(2, "is not what its report names");
    change(&|report| fs::rename(report.join("kept"), report.join("job.tar.gz")).unwrap());
    fs::remove_dir_all(board.path("out/img")).unwrap();
    fs::create_dir_all(board.path("out/other")).unwrap();
    // The scripted board's image was never built, so that there is no lock of it.
    rerun(2, "the report has no copy of its lock");
    fail(
        board
            .hearth()
            .args(["rerun", "report", "--board", "nobody"]),
        2,
        "no copy of its lock",
    );
}
