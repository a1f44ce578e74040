//! Boards that do not come up.

use std::fs;
use std::time::Instant;

use common::scripted::Board;

const QUICK: &str =
    "timeouts = { power = 15, bootloader = 15, kernel = 15, userspace = 15, checked-in = 15 }";

/// Boots a board that must fail for the infrastructure's sake.
#[track_caller]
fn fails(script: &str, stage: &str, message: &str) {
    Board::with(script, QUICK)
        .test("true")
        .failed(4, "infrastructure", stage, message);
}

#[test]
fn a_console_that_stays_silent_is_told_from_one_that_shows_nothing_known() {
    fails("sleep 60", "power", "stayed silent after power-on");
    fails(
        "while :; do echo login:; sleep 0.5; done",
        "power",
        "no bootloader that hearth knows",
    );
}

#[test]
fn a_bootloader_at_its_prompt_is_named_with_what_it_said_before() {
    fails(
        "uboot; echo \"TFTP error: 'File not found' (1)\"; printf '=> '; sleep 60",
        "bootloader",
        "U-Boot stopped at its prompt (it said: TFTP error: 'File not found' (1))",
    );
}

#[test]
fn a_bootloader_that_goes_no_further_and_one_that_loops_are_told_apart() {
    fails(
        "uboot; sleep 60",
        "bootloader",
        "did not start a kernel in 15 s",
    );
    fails(
        "while :; do uboot; sleep 0.2; done",
        "bootloader",
        "starts over and over",
    );
}

#[test]
fn a_kernel_that_dies_is_named_with_its_last_words() {
    let board = Board::with(
        "uboot; linux; echo 'Kernel panic - not syncing: VFS: no root'; echo '---[ end'; sleep 60",
        QUICK,
    );
    let run = board.test("true");
    run.failed(4, "infrastructure", "kernel", "kernel panic: VFS: no root");
    let console = run.failure()["console"].to_string();
    assert!(console.contains("---[ end"), "{console}");
    fails(
        "uboot; linux; echo '[ 1.0] Internal error: Oops: 5 [#1]'; sleep 60",
        "kernel",
        "kernel oops: Internal error",
    );
    fails(
        "uboot; linux; sleep 60",
        "kernel",
        "did not reach userspace",
    );
}

#[test]
fn a_reset_that_nobody_asked_for_is_recognised() {
    fails(
        "uboot; linux; systemd; uboot; sleep 60",
        "userspace",
        "unexpected reset",
    );
}

#[test]
fn a_system_whose_agent_never_calls_is_told_from_one_that_has_no_kernel() {
    fails(
        "uboot; linux; systemd; sleep 60",
        "userspace",
        "its agent did not check in",
    );
}

#[test]
fn another_boards_card_and_another_image_are_seen_before_the_kernel_starts() {
    let begun = Instant::now();
    Board::new("uboot neo2; sleep 60").test("true").failed(
        2,
        "configuration",
        "bootloader",
        "calls itself `neo2`: does it have neo2's card?",
    );
    Board::new("uboot fake1 img-old; sleep 60")
        .test("true")
        .failed(2, "configuration", "bootloader", "and boots img-old");
    assert!(begun.elapsed().as_secs() < 60);
}

#[test]
fn an_identity_that_is_wrong_at_the_check_in_is_named() {
    Board::new("uboot; linux; systemd; agent neo2")
        .test("true")
        .failed(2, "configuration", "userspace", "calls itself `neo2`");
    Board::new("uboot; linux; systemd; agent fake1 img-other")
        .test("true")
        .failed(2, "configuration", "checked-in", "and runs img-other");
}

#[test]
fn a_boot_that_fails_once_is_tried_again_as_often_as_its_state_allows() {
    let board = Board::with("[ -e second ] && boot; touch second; uboot; exit", "");
    let lab = std::fs::read_to_string(board.path("lab.toml")).unwrap();
    std::fs::write(
        board.path("lab.toml"),
        lab.replace("bootloader = 0", "bootloader = 1"),
    )
    .unwrap();
    let run = board.test("lava-test-case one --result pass");
    run.passed();
    assert_eq!(run.report["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(run.cases(), ["one=pass"]);
}

#[test]
fn an_image_that_cannot_be_served_is_told_before_the_board_is_switched_on() {
    let board = Board::new("boot");
    std::fs::write(board.path("out/img/rootfs.tar"), "cut").unwrap();
    let run = board.test("true");
    assert_eq!(run.code, 2, "{}", run.said);
    assert!(
        run.said.contains("out/img/rootfs.tar has 3 bytes, but"),
        "{}",
        run.said
    );
    assert!(!board.path("ready").exists() && run.report.is_null());
}

#[test]
fn a_console_that_does_not_come_back_is_named() {
    let board = Board::with("uboot; touch lost; exit", QUICK);
    let lab = fs::read_to_string(board.path("lab.toml")).unwrap();
    let ends_at_once = "'sh', '-c', '[ -e lost ] && exit 1; exec setsid sh board.sh'";
    let lab = lab.replace("'setsid', 'sh', 'board.sh'", ends_at_once);
    fs::write(board.path("lab.toml"), lab).unwrap();
    let run = board.test("true");
    let told = "the console was lost: the console was closed by its other side (the program sh)";
    run.failed(4, "infrastructure", "bootloader", told);
    let message = run.failure()["message"].to_string();
    assert!(message.contains("did not start a kernel"), "{message}");
}
