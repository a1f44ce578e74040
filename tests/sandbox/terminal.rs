//! Programs that are used at a terminal: they have one of their own, and the operator's stays the operator's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::*;
use crate::screen::Screen;
use common::{oracle, succeed};

fn shell(caller: Caller) -> Screen {
    let mut command = hearth(caller);
    command.arg("shell").arg(tree("armhf"));
    let mut screen = Screen::start(&command);
    screen.expect("# ");
    screen
}

#[test]
fn a_shell_has_a_terminal_of_its_own() {
    for caller in callers() {
        let mut screen = shell(caller);
        screen.type_in("busybox tty; busybox stty size; echo TERM=$TERM; busybox ps -o tty,comm\r");
        let said = screen.expect("busybox\r\n");
        assert!(
            said.contains("\n/dev/pts/0\r") && said.contains("\n33 101\r"),
            "{said}"
        );
        screen.expect("# ");
        screen.resize(44, 202);
        screen.type_in("busybox stty size\r");
        screen.expect("\n44 202\r");
        screen.type_in("exit 5\r");
        let (status, said) = screen.end();
        assert_eq!(status.code(), Some(5), "{said}");
        assert!(screen.is_sane());
    }
}

/// Starts a job that says when it is in the foreground, and when it is there again: a key that comes earlier goes to
/// the shell.
fn run_in_foreground(screen: &mut Screen) {
    screen.type_in(
        "busybox sh -c 'trap \"echo continued\" CONT; echo begun; while :; do busybox sleep 1; done'\r",
    );
    screen.expect("begun\r\n");
}

#[test]
fn keys_mean_to_the_inner_shell_what_they_mean_to_any() {
    let mut screen = shell(Caller::Ordinary);
    run_in_foreground(&mut screen);
    screen.type_in("\x03");
    screen.expect("# ");
    screen.type_in("echo code $?\r");
    screen.expect("\ncode 130\r");
    run_in_foreground(&mut screen);
    screen.type_in("\x1a");
    screen.expect("Stopped");
    screen.expect("# ");
    screen.type_in("jobs; echo back; fg\r");
    screen.expect("Stopped");
    screen.expect("\nback\r");
    screen.expect("continued\r\n");
    screen.type_in("\x03");
    screen.expect("# ");
    screen.type_in("true\r");
    screen.expect("# ");
    screen.type_in("\x04");
    let (status, said) = screen.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(screen.is_sane());
}

/// A root file system in which a native program is at `/typing`.
fn tree_that_types() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = directory.path().join("root");
    succeed(oracle("cp").arg("-a").arg(tree("armhf")).arg(&root));
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox/typing.c");
    succeed(
        oracle("gcc")
            .args(["-static", "-o"])
            .arg(root.join("typing"))
            .arg(source),
    );
    directory
}

/// hearth, which runs `/typing` of the tree, on a new terminal; `%` in the script is the command.
fn typing(root: &std::path::Path, script: &str) -> (String, Screen) {
    let line = format!(
        "{} run {} -- /typing $terminal",
        env!("CARGO_BIN_EXE_hearth"),
        root.display()
    );
    // The numbers of the terminal are known when it is there.
    let script = format!(
        "terminal=$(stat -L -c '%d %i' /proc/self/fd/2); {}",
        script.replace('%', &line)
    );
    let mut command = oracle("sh");
    command.args(["-c", &script]);
    let mut screen = Screen::start(&command);
    let (status, said) = screen.end();
    assert!(status.success(), "{said}");
    (said, screen)
}

#[test]
fn nothing_can_be_typed_into_the_operator_s_terminal_nor_is_it_in_reach() {
    let directory = tree_that_types();
    let root = directory.path().join("root");
    for script in [
        "%",
        "% | cat",
        "% </dev/null",
        "% 2>/dev/null | cat",
        "exec 9<>/dev/tty; %",
    ] {
        let (said, screen) = typing(&root, script);
        assert!(said.contains("tried"), "{script}: {said}");
        assert!(!said.contains("GOT"), "{script}: {said}");
        assert!(!screen.has_input(), "{script}: something was typed");
        assert!(screen.is_sane());
    }
}

#[test]
fn a_program_that_is_stopped_stops_hearth_as_a_job_and_runs_on_with_it() {
    let mut operator = Screen::start(oracle("sh").env("PS1", "op> ").args(["-i"]));
    operator.expect("op> ");
    let line = format!(
        "{} run {} -- sh -c 'echo begun; read x; echo heard-$x'\r",
        env!("CARGO_BIN_EXE_hearth"),
        tree("armhf").display()
    );
    operator.type_in(&line);
    operator.expect("begun\r\n");
    operator.type_in("\x1a");
    operator.expect("Stopped");
    operator.expect("op> ");
    assert!(operator.is_sane());
    operator.type_in("echo between; fg\r");
    operator.expect("\nbetween\r");
    // The terminal is the program's again when hearth runs on.
    let deadline = Instant::now() + PATIENCE;
    while operator.is_sane() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    operator.type_in("word\r");
    operator.expect("heard-word");
    operator.expect("op> ");
    operator.type_in("exit\r");
    operator.end();
}

/// The processes of a shell in the sandbox, by a word that only they have.
fn processes(word: &str) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
        })
        .collect()
}

#[test]
fn the_terminal_is_as_it_was_whoever_is_killed() {
    for (victim, signal) in [
        ("program", Signal::SIGKILL),
        ("hearth", Signal::SIGKILL),
        ("hearth", Signal::SIGTERM),
        ("hearth", Signal::SIGABRT),
    ] {
        let word = format!("hearth-test-{victim}-{signal}-{}", std::process::id());
        let mut command: Command = hearth(Caller::Root);
        let script = "echo begun; busybox sleep 1000; exit 1";
        command
            .arg("run")
            .arg(tree("armhf"))
            .args(["--", "sh", "-c", script, &word]);
        let mut screen = Screen::start(&command);
        screen.expect("begun\r\n");
        assert!(!screen.is_sane());
        let hearth = screen.child.id().cast_signed();
        let victim = match victim {
            "hearth" => hearth,
            // The last that was started: the program itself.
            _ => processes(&word).into_iter().max().unwrap(),
        };
        kill(Pid::from_raw(victim), signal).unwrap();
        screen.end();
        screen.await_sanity();
        let deadline = Instant::now() + PATIENCE;
        while !processes(&word).is_empty() {
            assert!(Instant::now() < deadline, "{:?}", processes(&word));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn a_program_in_a_pipeline_has_no_terminal_and_passes_on_what_it_says() {
    let tree = tree("armhf");
    let line = format!(
        "{} run {} -- sh -c '[ -t 0 ] || echo in; [ -t 1 ] || echo out; [ -t 2 ] || echo err >&2; busybox cat; exit 3'",
        env!("CARGO_BIN_EXE_hearth"),
        tree.display()
    );
    for (script, says) in [
        ("% | cat", ["in\r\n", "out\r\n", "err\r\n"]),
        ("echo piped | %", ["in\r\nout\r\n", "err\r\n", "piped\r\n"]),
        ("% 2>/dev/null", ["in\r\n", "out\r\n", "code 3"]),
    ] {
        let mut command = oracle("sh");
        let script = format!("{}; echo code $?", script.replace('%', &line));
        let mut screen = Screen::start(command.args(["-c", &script]));
        let (_, said) = screen.end();
        for says in says {
            assert!(said.contains(says), "{script}: {said}");
        }
    }
}
