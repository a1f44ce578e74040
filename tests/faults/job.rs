//! Boards that come up, and fail while they run their tests.

use common::scripted::{Board, shows};

const CASE: &str = "lava-test-case one --result pass";

#[test]
fn a_good_run_passes_and_leaves_every_form_of_the_report() {
    let board = Board::new("boot");
    let run = board.test(CASE);
    run.passed();
    assert_eq!(run.cases(), ["one=pass"]);
    for (file, part) in [
        ("junit.xml", "<testcase classname=\"0_t\" name=\"one\""),
        ("report.tap", "1..1\nok 1 - 0_t.one\n"),
        (
            "report.html",
            "<td class=\"outcome pass\">pass</td><td>one</td>",
        ),
        ("console.log", "hearth: fake1 boots"),
    ] {
        assert!(shows(&run.directory.join(file), part), "{file}");
    }
    assert_eq!(run.report["identity"]["board"], "fake1");
}

#[test]
fn a_failed_case_is_a_test_failure() {
    let run = Board::new("boot")
        .test("lava-test-case bad --shell false\nlava-test-case good --shell true");
    assert_eq!(run.code, 1, "{}", run.said);
    assert_eq!(run.cases(), ["bad=fail", "good=pass"]);
    assert!(run.failure().is_null());
}

#[test]
fn unknown_and_torn_signals_are_kept_with_what_was_wrong() {
    let run = Board::new("boot").test(
        "set +x\n\
         echo '<LAVA_SIGNAL_NONSENSE x>'\n\
         echo '<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=torn RES'\n\
         echo '<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=odd RESULT=ok>'\n\
         lava-test-case one --result pass",
    );
    assert_eq!(run.code, 1, "{}", run.said);
    assert_eq!(run.cases(), ["torn=unknown", "odd=unknown", "one=pass"]);
    for said in [
        "unknown signal NONSENSE",
        "the signal is torn",
        "`ok` is not a result",
    ] {
        assert!(run.said.contains(said), "{said}: {}", run.said);
    }
}

#[test]
fn binary_noise_on_the_console_costs_nothing() {
    let run = Board::new(
        "uboot; head -c 300000 /dev/urandom; linux; systemd; \
         ( while sleep 0.1; do head -c 5000 /dev/urandom; done ) & agent",
    )
    .test("sleep 1\nlava-test-case one --result pass");
    run.passed();
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn a_flood_on_the_console_costs_nothing_and_is_cut_in_the_log() {
    let flood = "yes 'the quick brown fox jumps over the lazy dog' | head -c 100000000";
    let board = Board::new(&format!("uboot; linux; systemd; {flood}; agent"));
    let run = board.test(CASE);
    run.passed();
    let log = run.directory.join("console.log").metadata().unwrap();
    assert!(log.len() < 70 << 20, "{}", log.len());
    assert!(shows(
        &run.directory.join("console.log"),
        "the log ends here"
    ));
}

#[test]
fn a_board_that_hangs_is_told_from_tests_that_do_not_end() {
    // Its agent is frozen, and the tests are quiet.
    Board::with("boot", "timeouts = { silence = 20 }")
        .test("pkill -STOP -P $(cat $HEARTH_WORK/pid); sleep 60")
        .failed(
            4,
            "infrastructure",
            "running",
            "hangs: no heartbeat and no console output",
        );
    Board::with("boot", "timeouts = { running = 20 }")
        .test("for i in $(seq 60); do echo $i; sleep 1; done")
        .failed(1, "test", "running", "the tests did not end in 20 s");
}

#[test]
fn a_board_that_resets_or_crashes_is_told_from_tests_that_reboot_it() {
    // Only the console's script may write to it from outside the job.
    let after = |words: &str| format!("( until [ -e now ]; do sleep 0.1; done; {words} ) & boot");
    let steps = "lava-test-case one --result pass\nsleep 2\ntouch $HEARTH_WORK/../now\nsleep 20";
    let run = Board::new(&after("echo 'reboot: Restarting system'; uboot")).test(steps);
    run.failed(1, "test", "running", "the tests rebooted the board");
    assert_eq!(run.cases(), ["one=pass"]);
    let run = Board::new(&after("uboot")).test(steps);
    run.failed(4, "infrastructure", "running", "unexpected reset");
    let run = Board::new(&after("echo 'Kernel panic - not syncing: out of luck'")).test(steps);
    run.failed(4, "infrastructure", "running", "kernel panic: out of luck");
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn what_a_test_prints_is_not_judged_as_the_boards_console() {
    let run = Board::new("boot").test(
        "set +x\n\
         echo '[    0.000000] Linux version 6.12.48+deb13-armmp (builder@example.org)'\n\
         echo 'U-Boot SPL 2025.01 (Apr 01 2025)'\n\
         echo '[   12.000000] Kernel panic - not syncing: an old log'\n\
         echo '[   12.000000][    T1] BUG: sleeping function called from invalid context'\n\
         echo 'reboot: Restarting system'\n\
         printf 'neo1 login: '\n\
         lava-test-case one --result pass",
    );
    run.passed();
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn a_panic_that_tears_a_line_of_the_job_is_found() {
    let panic = "printf 'hearth:99:60:half of'; echo '[   99.0] Kernel panic - not syncing: torn'; echo '[   99.1] CPU: 0'";
    let script = format!("( until [ -e now ]; do sleep 0.1; done; {panic} ) & boot");
    Board::new(&script)
        .test("touch $HEARTH_WORK/../now\nsleep 20")
        .failed(4, "infrastructure", "running", "kernel panic: torn");
}

#[test]
fn a_failure_in_tap_fails_the_run_whatever_its_summary_says() {
    let run = Board::new("boot").test(
        "set +x\n\
         printf 'TAP version 13\\n1..1\\n# selftests: net: a\\n# not ok 1 inner\\nok 1 selftests: net: a\\n'\n\
         printf '1..1\\nok 1 a\\nok 2 b\\n'",
    );
    assert_eq!(run.code, 1, "{}", run.said);
    assert_eq!(
        run.cases(),
        [
            "selftests:-net:-a.inner=fail",
            "a=pass",
            "b=pass",
            "plan=fail"
        ]
    );
}

#[test]
fn a_full_overlay_is_not_the_tests_fault() {
    let script = "( until [ -e now ]; do sleep 0.1; done; echo 'hearth: the overlay is full: what the job wrote' ) & boot";
    let run = Board::new(script)
        .test("touch $HEARTH_WORK/../now\nsleep 6\nlava-test-case write --shell false");
    run.failed(4, "infrastructure", "running", "full overlay");
    // What came long after the message counts.
    assert_eq!(run.cases(), ["write=fail"]);
}

#[test]
fn a_console_that_is_lost_costs_no_result() {
    let script = "uboot; linux; systemd; command_line; HEARTH_CONSOLE=$PWD/tty setsid timeout -s KILL 90 sh \"$AGENT\" >/dev/null 2>&1 & until grep -s check-in tty; do sleep 0.1; done; until [ -e now ]; do sleep 0.1; done";
    let run = Board::with(script, "timeouts = { shutdown = 5 }")
        .test("touch $HEARTH_WORK/../now\nsleep 2\nlava-test-case one --result pass");
    run.passed();
    assert_eq!(run.cases(), ["one=pass"]);
    assert!(
        run.said.contains("warning: the console was"),
        "{}",
        run.said
    );
}

#[test]
fn an_agent_that_is_killed_costs_no_result_and_runs_nothing_twice() {
    // As systemd would, which starts it again.
    let board = Board::new("uboot; linux; systemd; command_line; while :; do sh \"$AGENT\"; done");
    let run = board.test(
        "echo run >>$HEARTH_WORK/../runs\n\
         kill -9 $(cut -d ' ' -f 4 /proc/$(cat $HEARTH_WORK/pid)/stat)\n\
         sleep 4\n\
         lava-test-case one --result pass",
    );
    run.passed();
    assert_eq!(run.cases(), ["one=pass"]);
    assert_eq!(
        std::fs::read_to_string(board.path("runs")).unwrap(),
        "run\n"
    );
}

#[test]
fn a_job_that_kills_everything_has_not_passed() {
    let run = Board::new("uboot; linux; systemd; command_line; while :; do sh \"$AGENT\"; done").test(
        "lava-test-case one --result pass\n\
         sleep 2\n\
         kill -9 $(cut -d ' ' -f 4 /proc/$(cat $HEARTH_WORK/pid)/stat) $(cat $HEARTH_WORK/pid) $PPID $$",
    );
    assert_eq!(run.code, 1, "{}", run.said);
    assert_eq!(run.cases(), ["one=pass"]);
    assert!(run.said.contains("did not run to its end"), "{}", run.said);
}
