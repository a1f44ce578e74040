//! Runs that get into each other's way, are stopped, or lose their lab.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
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
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let board = Board::new("boot");
        let run = spawn(&mut board.command(&format!("{CASE}\nsleep 60")));
        wait_for_the_first_case(&board);
        run.signal(signal);
        let run = board.ended(run.output());
        run.failed(4, "cancelled", "running", "the run was stopped");
        assert_eq!(run.cases(), ["one=pass"], "{signal}");
    }
}

/// Waits until the lab, too, knows that the job runs.
fn wait_for_the_first_case(board: &Board) {
    wait_for("the first case", || {
        shows(&board.path("report/console.log"), "RESULT=pass")
    });
    // The console can be ahead of what the lab's store says, which is looked at a few times a second.
    std::thread::sleep(std::time::Duration::from_secs(2));
}

#[test]
fn a_terminal_that_is_closed_while_a_test_runs_switches_the_board_off_and_the_report_is_there() {
    let board = Board::new("boot");
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    // Otherwise hearth would keep it open itself.
    fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let test = board.command(&format!("{CASE}\nsleep 60"));
    // hearth as a shell's only command in a session of its own, whose terminal this is.
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]);
    command.arg(test.get_program()).args(test.get_args());
    for (name, value) in test.get_envs() {
        command.env(name, value.unwrap());
    }
    command
        .current_dir(test.get_current_dir().unwrap())
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave);
    let run = Process::start(&mut command);
    drop(command);
    // What is shown must be read, or the terminal's buffer fills up.
    let mut shown = fs::File::from(master.try_clone().unwrap());
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&said).contains("0_t/one") {
            let count = shown.read(&mut buffer).unwrap();
            said.extend(&buffer[..count]);
        }
    });
    wait_for_the_first_case(&board);
    reader.join().unwrap();
    drop(master);
    let run = board.ended(run.output());
    assert_eq!(run.code, 4);
    assert_eq!(run.failure()["class"], "cancelled");
    assert_eq!(run.cases(), ["one=pass"]);
    for name in ["junit.xml", "report.tap", "report.html", "console.log"] {
        assert!(
            run.directory.join(name).metadata().unwrap().len() > 0,
            "{name}"
        );
    }
}

#[test]
fn a_full_disk_costs_neither_the_result_nor_the_report() {
    // Some 2 MB of console, on a file system of 1 MB.
    let board = Board::new("boot");
    let test = board.command(
        "set +x\nlava-test-case one --result pass\nseq 200000\nlava-test-case two --result pass",
    );
    let directory = board.path("report");
    fs::create_dir(&directory).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=1m full report && \"$@\"; code=$?; df report; ls -l report; exit $code");
    command
        .arg("sh")
        .arg(test.get_program())
        .args(test.get_args());
    for (name, value) in test.get_envs() {
        command.env(name, value.unwrap());
    }
    command.env("TMPDIR", board.path(""));
    command.current_dir(test.get_current_dir().unwrap());
    let run = board.ended(common::run(&mut command));
    assert_eq!(run.code, 0, "{}", run.said);
    assert!(
        run.said.contains("the console log ends here"),
        "{}",
        run.said
    );
    let place = run
        .said
        .lines()
        .find_map(|line| line.strip_prefix("report in "))
        .unwrap_or_else(|| panic!("no report: {}", run.said));
    assert!(
        run.said
            .contains("the report could not be written to report"),
        "{}",
        run.said
    );
    let report = hearth::job::report::load(Path::new(place)).unwrap();
    let cases: Vec<&str> = report.suites[0]
        .cases
        .iter()
        .map(|case| case.id.as_str())
        .collect();
    assert_eq!(cases, ["one", "two"]);
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
    // Beside the lab's queue, with the board reserved: the lab only serves.
    let run = spawn(
        board
            .command(&format!(
                "{CASE}\nsleep 4\nlava-test-case two --result pass"
            ))
            .arg("--direct"),
    );
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
fn an_unknown_board_is_offered_for_adoption_and_is_known_then() {
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
    let _unknown = Process::start(board.agent().stdout(output).stderr(Stdio::null()));
    let adopt = |words: &[&str]| {
        let mut command = board.hearth();
        command.args(["lab", "adopt"]).args(words);
        command
    };
    wait_for("the board in the list", || {
        let listed = String::from_utf8(succeed(&mut adopt(&[])).stdout).unwrap();
        listed.contains(MAC) && listed.contains("neo9")
    });
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
    // No run waits for it, so that it is told to power off.
    wait_for("an answer", || shows(&said, "nothing to do: powering off"));
}

#[test]
fn a_board_that_a_user_has_booted_is_known_by_its_console_and_stays_on_without_a_job() {
    let board = Board::new("uboot; linux; systemd; printf 'fake1 login: '; sleep 1; echo; agent");
    let mut command = board.hearth();
    command.args(["boot", "fake1", "--image", "out/img"]);
    let run = Process::start(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let log = board.path("out/boot/fake1/console.log");
    wait_for("the check-in", || shows(&log, "checked in as fake1"));
    // Longer than a board without work stays on, and than the agent asks for a job at first.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(!shows(&log, "nothing to do"));
    assert!(board.has_power());
    // Standard input ends.
    let output = run.output();
    assert!(output.status.success(), "{output:?}");
    assert!(!board.has_power());
}
