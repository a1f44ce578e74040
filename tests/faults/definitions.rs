//! Test definitions with mistakes: each is told with its place, and no board is switched on for it.

use std::fs;

use common::fail;
use common::scripted::Board;

#[test]
fn every_mistake_is_told_with_its_line() {
    let board = Board::new("boot");
    let head = "metadata:\n  format: Lava-Test Test Definition 1.0\n  name: t\n";
    for (text, place, message) in [
        ("metadata: [".to_string(), ":1:", ""),
        (head.replace("name: t", "name: t/1"), ":3:", "has a `/`"),
        (head.replace("  name: t\n", ""), ":", "name"),
        (
            format!("{head}run:\n  steps:\n    - echo a: b\n"),
            ":6:",
            "is not a shell line",
        ),
        (
            format!("{head}params:\n  A B: 1\n"),
            ":5:",
            "cannot be the name of a shell variable",
        ),
        (
            format!("{head}params: [1]\n"),
            ":4:",
            "a mapping of names to values",
        ),
        (format!("{head}parse:\n  pattern: '(?P<x'\n"), ":5:", ""),
    ] {
        fs::write(board.path("bad.yaml"), &text).unwrap();
        let mut command = board.hearth();
        command.args([
            "test", "fake1", "bad.yaml", "--image", "out/img", "-o", "report",
        ]);
        let output = fail(&mut command, 2, message);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("bad.yaml{place}")), "{text}\n{said}");
        assert!(!board.path("report").exists(), "{text}");
    }
    fail(
        board
            .hearth()
            .args(["test", "fake1", "none.yaml", "--image", "out/img"]),
        2,
        "cannot read the test definition none.yaml",
    );
}

#[test]
fn a_job_that_cannot_fit_into_an_emulated_boards_memory_is_refused_before_power_on() {
    let board = Board::new("boot");
    let types = board.path("recipes/boards");
    fs::create_dir_all(&types).unwrap();
    let shipped = common::repository().join("recipes/boards/qemu-virt-arm.toml");
    let text = fs::read_to_string(shipped).unwrap();
    let small = text.replace("memory = 512", "memory = 64");
    fs::write(types.join("small.toml"), small).unwrap();
    let tests = board.path("tests");
    fs::create_dir(&tests).unwrap();
    fs::write(tests.join("zeros"), vec![0; 33 << 20]).unwrap();
    let definition =
        "metadata: {format: Lava-Test Test Definition 1.0, name: t}\nrun: {steps: [true]}\n";
    fs::write(tests.join("t.yaml"), definition).unwrap();
    let mut command = board.hearth();
    command.args([
        "test",
        "small",
        "tests#t.yaml",
        "--image",
        "out/img",
        "-o",
        "report",
    ]);
    fail(
        &mut command,
        2,
        "the job's files need 34 MiB of `small`'s memory, and of its 64 MiB at most 32 MiB are for them",
    );
    assert!(!board.path("report").exists());
}
