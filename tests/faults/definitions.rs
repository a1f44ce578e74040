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
