//! Boards without an agent, whose shell on the console runs the tests.

use common::scripted::Board;

/// A shell that runs what is typed in a directory of the lab's, wherever it is told to go; `interrupted` is called at each line.
const SHELL: &str = r#"
shell() {
    mkdir -p in
    cd in
    mkdir() { :; }
    cd() { :; }
    count=0
    printf '/ # '
    while IFS= read -r line; do
        count=$((count + 1))
        interrupted
        eval "$line"
        printf '/ # '
    done
}
interrupted() { :; }
"#;

const ENTRY: &str =
    "login = { prompt = '/ # ' }\ntimeouts = { kernel = 8, userspace = 8, answer = 20 }";

fn board(script: &str) -> Board {
    Board::with(&format!("{SHELL}\n{script}"), ENTRY)
}

#[test]
fn a_shell_runs_a_job_and_its_results_count() {
    let run = board("uboot; linux; shell").test(
        "lava-test-case one --shell true\nlava-test-case two --result skip\nlava-test-case m --result pass --measurement 1.5 --units s",
    );
    run.passed();
    assert_eq!(run.cases(), ["one=pass", "two=skip", "m=pass"]);
    let run = board("uboot; linux; shell").test("lava-test-case one --shell false");
    assert_eq!(
        (run.code, &run.cases()[..]),
        (1, &["one=fail".to_string()][..])
    );
}

#[test]
fn the_command_line_asks_for_a_shell_too() {
    let board = Board::new(&format!("{SHELL}\nuboot; linux; shell"));
    let run = board.run(
        board
            .command("lava-test-case one --result pass")
            .args(["--prompt", "^/ # $"]),
    );
    run.passed();
    let run = board.run(board.command("true").args(["--prompt", "("]));
    assert_eq!(run.code, 2);
    assert!(
        run.said
            .contains("--prompt: `(` is not a regular expression"),
        "{}",
        run.said
    );
}

#[test]
fn a_prompt_that_never_comes_is_told_with_the_last_lines() {
    for (script, stage, told) in [
        (
            "echo 'mounting root'; sleep 60",
            "kernel",
            "no login and no shell's prompt",
        ),
        (
            "echo 'Welcome to Nothing!'; printf 'other> '; sleep 60",
            "userspace",
            "no shell's prompt",
        ),
    ] {
        let run = board(&format!("uboot; linux; {script}")).test("true");
        run.failed(4, "infrastructure", stage, told);
        let console = run.failure()["console"].to_string();
        let last = if stage == "kernel" {
            "mounting root"
        } else {
            "other>"
        };
        assert!(console.contains(last), "{console}");
    }
}

#[test]
fn a_panic_and_a_reset_while_the_job_is_sent_are_found() {
    for (what, told) in [
        (
            "echo '[   99.0] Kernel panic - not syncing: out of luck'",
            "kernel panic: out of luck",
        ),
        ("uboot", "unexpected reset"),
    ] {
        // Nothing is answered any more.
        let interrupted =
            format!("interrupted() {{ [ $count -lt 12 ] || {{ {what}; sleep 60; }}; }}");
        board(&format!("{interrupted}\nuboot; linux; shell"))
            .test("true")
            .failed(4, "infrastructure", "checked-in", told);
    }
}

#[test]
fn a_board_that_resets_while_its_tests_run_keeps_the_results_that_came() {
    let steps = "lava-test-case one --result pass\nsleep 2\ntouch $LAVA_RESULT_DIR/../../../../now\nsleep 20";
    let script = "( until [ -e now ]; do sleep 0.1; done; uboot ) &\nuboot; linux; shell";
    let run = board(script).test(steps);
    run.failed(4, "infrastructure", "running", "unexpected reset");
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn a_login_that_is_refused_is_a_mistake_in_the_settings() {
    let getty = "while :; do printf 'neo1 login: '; read user; printf 'Password: '; read password; echo 'Login incorrect'; done";
    let login = "login = { user = 'root', password = 'hidden-word' }";
    let run = Board::with(&format!("uboot; linux; {getty}"), login).test("true");
    run.failed(
        2,
        "configuration",
        "userspace",
        "the board refused the login of `root`",
    );
    assert!(!run.said.contains("hidden-word"), "{}", run.said);
}

#[test]
fn a_shell_that_falls_silent_is_named() {
    let interrupted = "interrupted() { [ $count -lt 12 ] || sleep 60; }";
    board(&format!("{interrupted}\nuboot; linux; shell"))
        .test("true")
        .failed(
            4,
            "infrastructure",
            "checked-in",
            "the board's shell does not answer",
        );
}
