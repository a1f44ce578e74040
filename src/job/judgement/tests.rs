//! Tests of judgements: each kind of run, by the whole run and by one case.

use super::*;
use crate::board::RunFailure;
use crate::job::report::example::{broken, case, report};

fn by(case: &str) -> Criterion {
    Criterion {
        case: Some(case.parse().unwrap()),
        boot: false,
    }
}

fn whole() -> Criterion {
    Criterion::default()
}

fn failed(class: FailureClass, stage: &str) -> Report {
    let mut report = broken();
    report.suites.clear();
    report.attempts[0].failure = Some(RunFailure {
        class,
        stage: stage.into(),
        message: "no more".into(),
        console: Vec::new(),
    });
    report
}

#[test]
fn each_class_of_failure_has_the_code_that_git_expects() {
    let code = |class| whole().judge(&failed(class, "kernel")).exit_code();
    assert_eq!(code(FailureClass::Infrastructure), 125);
    assert_eq!(code(FailureClass::Bug), 125);
    assert_eq!(code(FailureClass::Test), 1);
    assert_eq!(code(FailureClass::Configuration), 129);
    assert_eq!(code(FailureClass::Job), 129);
    assert_eq!(code(FailureClass::Cancelled), 130);
    let of = |class| Judgement::of_error(class, String::new()).exit_code();
    assert_eq!(of(Class::Input), 129);
    assert_eq!(of(Class::Host), 125);
    assert_eq!(of(Class::Infrastructure), 125);
    assert_eq!(of(Class::Internal), 198);
}

#[test]
fn a_run_that_did_not_pass_is_bad_and_says_why() {
    assert_eq!(
        whole().judge(&report()),
        Judgement::Bad("0_smoke/net/ping and 1 others did not pass".into())
    );
    let mut good = report();
    good.suites[0].cases = vec![case("a", Outcome::Pass), case("b", Outcome::Skip)];
    assert_eq!(whole().judge(&good), Judgement::Good);
    good.suites[0].duration = None;
    assert_eq!(whole().judge(&good).exit_code(), 1);
}

#[test]
fn one_case_decides_whatever_else_failed() {
    assert_eq!(by("smoke/boot<time>").judge(&report()), Judgement::Good);
    assert_eq!(by("0_smoke/boot<time>").judge(&report()), Judgement::Good);
    // It had its result before the board failed.
    assert_eq!(by("smoke/boot<time>").judge(&broken()), Judgement::Good);
    for name in ["smoke/ping", "smoke/net/ping", "smoke/odd"] {
        assert_eq!(by(name).judge(&report()).exit_code(), 1, "{name}");
    }
    assert_eq!(by("smoke/later").judge(&report()).exit_code(), 125);
    let judgement = by("smoke/pong").judge(&report());
    assert_eq!(judgement.exit_code(), 125);
    assert!(judgement.sentence().contains("no result"), "{judgement:?}");
    assert!(judgement.sentence().contains("ping"), "{judgement:?}");
}

#[test]
fn of_two_results_of_a_case_the_failed_one_decides() {
    let mut twice = report();
    twice.suites[0].cases = vec![case("a", Outcome::Pass), case("a", Outcome::Fail)];
    assert_eq!(by("smoke/a").judge(&twice).exit_code(), 1);
    twice.suites[0].cases.reverse();
    assert_eq!(by("smoke/a").judge(&twice).exit_code(), 1);
}

#[test]
fn a_boot_that_fails_is_bad_where_that_is_hunted_and_the_kernel_ran() {
    let boot = Criterion {
        boot: true,
        case: None,
    };
    let infrastructure = FailureClass::Infrastructure;
    let code = |stage| boot.judge(&failed(infrastructure, stage)).exit_code();
    assert_eq!(code("bootloader"), 125);
    assert_eq!(code("power"), 125);
    assert_eq!(code("kernel"), 1);
    assert_eq!(code("userspace"), 1);
    let cancelled = boot.judge(&failed(FailureClass::Cancelled, "kernel"));
    assert_eq!(cancelled.exit_code(), 130);
}

#[test]
fn a_case_of_no_suite_is_refused_before_the_power_is_on() {
    let suites = ["0_smoke".to_string(), "1_net".to_string()];
    by("net/x").check(&suites).unwrap();
    by("1_net/x").check(&suites).unwrap();
    let error = by("smok/x").check(&suites).unwrap_err();
    assert!(error.help().unwrap().contains("smoke"), "{error}");
    assert!("smoke".parse::<CaseName>().is_err());
    assert!("/x".parse::<CaseName>().is_err());
}
