//! What is made of TAP and KTAP in all their forms.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Vec<KtapCase> {
    let mut ktap = Ktap::default();
    let mut cases: Vec<KtapCase> = text
        .lines()
        .flat_map(|line| ktap.line(line).unwrap_or_default())
        .collect();
    cases.extend(ktap.finish());
    cases
}

/// The cases as `id=outcome`.
fn told(text: &str) -> Vec<String> {
    read(text)
        .into_iter()
        .map(|case| format!("{}={}", case.id, case.outcome.name()))
        .collect()
}

#[test]
fn nested_kunit_output_is_read_with_the_path_of_its_suites() {
    let text = "\
[    1.000000] KTAP version 1
[    1.000000] 1..2
[    1.000001]     KTAP version 1
[    1.000002]     # Subtest: time
[    1.000002]     1..2
[    1.000003]     ok 1 leap_years
usb 1-1: a message of the kernel in between
[    1.000004]     # why: because
[    1.000004]     not ok 2 - month_days
[    1.000005] # time: pass:1 fail:1
[    1.000005] not ok 1 time
[    1.000006] ok 2 - lists # SKIP not built";
    let expected = ["time.leap_years=pass", "time.month_days=fail", "lists=skip"];
    assert_eq!(told(text), expected);
    for prefix in [
        "[    1.000000][    T1] ",
        "<6>[    1.000000] ",
        "<6>",
        "[1.0][   C0] ",
    ] {
        let text = text
            .lines()
            .map(|line| match line.split_once("] ") {
                Some((_, rest)) if line.starts_with('[') => format!("{prefix}{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect::<String>();
        assert_eq!(told(&text), expected, "{prefix}");
    }
}

#[test]
fn every_form_of_a_document_is_read() {
    for (form, text, expected) in [
        (
            "TAP 12",
            "1..2\nok 1 a\nnot ok 2 b",
            &["a=pass", "b=fail"][..],
        ),
        (
            "plan last",
            "TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\nok then\nok",
            &["a=pass", "b=fail"],
        ),
        (
            "TAP 12, plan last",
            "ok 1 a\nok 2 b\n1..2",
            &["a=pass", "b=pass"],
        ),
        (
            "TAP 12, no numbers",
            "1..2\nok - a\nnot ok",
            &["a=pass", "unnamed=fail"],
        ),
        (
            "TAP 14, comments at the parent's indent",
            "TAP version 14\n1..2\n# Subtest: net\n    ok 1 - link\n    not ok 2 - ping\n    1..2\nnot ok 1 - net\nok 2 - clock",
            &["net.link=pass", "net.ping=fail", "clock=pass"],
        ),
        (
            "TAP 14, bare subtests",
            "TAP version 14\n1..1\n    ok 1 - a\n        not ok 1 - deep\n        1..1\n    not ok 2 - b\n    1..2\nnot ok 1 - top",
            &["top.a=pass", "top.b.deep=fail"],
        ),
        (
            "tabs",
            "TAP version 14\n1..1\n\t# Subtest: s\n\t1..1\n\tnot ok 1 - t\nnot ok 1 - s",
            &["s.t=fail"],
        ),
        (
            "kselftest",
            "TAP version 13\n1..2\n# timeout set to 45\n# selftests: net: a\n# TAP version 13\n# 1..2\n# ok 1 x\n# # a note\n# not ok 2 y\n# # Totals: pass:1 fail:1\nnot ok 1 selftests: net: a # exit=1\nok 2 selftests: net: b",
            &[
                "selftests:-net:-a.x=pass",
                "selftests:-net:-a.y=fail",
                "selftests:-net:-b=pass",
            ],
        ),
        ("skip all", "1..0 # SKIP no device", &["all=skip"]),
        (
            "skip all, other spelling",
            "TAP version 13\n1..0 # skipped: no device",
            &["all=skip"],
        ),
        (
            "a subtest that skips all",
            "TAP version 14\n1..1\n    1..0 # SKIP no bus\nok 1 - i2c",
            &["i2c=skip"],
        ),
        (
            "two documents",
            "TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..1\nnot ok 1 b\n1..1\nok 1 c",
            &["a=pass", "b=fail", "c=pass"],
        ),
        (
            "the second cuts the first one off",
            "TAP version 13\n1..2\nok 1 a\nTAP version 13\n1..1\nok 1 b",
            &["a=pass", "missing=fail", "b=pass"],
        ),
        (
            "kselftest of a program that prints results alone",
            "TAP version 13\n1..2\n# selftests: net: a\n# ok 1 x\n# not ok 2 y\nok 1 selftests: net: a\nok 2 selftests: net: b",
            &[
                "selftests:-net:-a.x=pass",
                "selftests:-net:-a.y=fail",
                "selftests:-net:-b=pass",
            ],
        ),
        (
            "a diff after a result",
            "TAP version 13\n1..3\nok 1 a\n--- a/file\n+++ b/file\nnot ok 2 b\nok 3 c",
            &["a=pass", "b=fail", "c=pass"],
        ),
        (
            "out of order",
            "1..3\nok 3 c\nok 1 a\nok 2 b",
            &["c=pass", "a=pass", "b=pass"],
        ),
    ] {
        assert_eq!(told(text), expected, "{form}");
    }
}

#[test]
fn directives_count_in_every_spelling_and_only_as_directives() {
    for (line, expected) in [
        ("ok 1 - a #skip no device", "a=skip"),
        ("ok 1 a # SKIP", "a=skip"),
        ("ok 1 a # Skipped: no device", "a=skip"),
        ("ok 1 # SKIP e no device", "1=skip"),
        ("not ok 1 - a #TODO not written", "a=skip"),
        ("not ok 1 - a # todo: not written", "a=skip"),
        ("not ok 1 a # XFAIL known", "a=skip"),
        ("not ok 1 a # TIMEOUT 45 seconds", "a=fail"),
        ("ok 1 a # ERROR could not start", "a=fail"),
        ("not ok 1 - a # SKIP contradicts itself", "a=fail"),
        (
            "not ok 1 - a \\# TODO is part of the name",
            "a-#-TODO-is-part-of-the-name=fail",
        ),
        ("not ok 1 - a \\\\# TODO not escaped", "a-\\=skip"),
        ("not ok 1 - a # todos are many", "a=fail"),
        ("not ok 1 - issue #12 is back", "issue-#12-is-back=fail"),
        ("not ok 1 - a # 3 # TODO later", "a=fail"),
        ("not ok 1 - issue #3 # TODO later", "issue-#3=fail"),
        ("ok 1 a # 1.2 s", "a=pass"),
    ] {
        assert_eq!(told(&format!("1..1\n{line}")), [expected], "{line}");
    }
}

#[test]
fn what_is_planned_and_does_not_come_has_failed() {
    for (text, expected) in [
        (
            "TAP version 13\n1..3\nok 1 a",
            &["a=pass", "missing=fail"][..],
        ),
        (
            "1..3\nok\nBail out! no disk",
            &["unnamed=pass", "bail-out=fail", "missing=fail"],
        ),
        (
            "1..3\nok 1 a\nok 1 a\nok 3 c",
            &["a=pass", "a=pass", "c=pass", "missing=fail"],
        ),
        ("TAP version 13\nok 1 a", &["a=pass", "plan=fail"]),
        (
            "1..3\nok 1 a\nok 2 b\nok 7 c",
            &["a=pass", "b=pass", "c=pass", "missing=fail"],
        ),
        ("1..1\nok 0 a", &["a=pass", "missing=fail"]),
        (
            "1..3\nok 1 a\nok 1 a\nok 2 b\nok 3 c",
            &["a=pass", "a=pass", "b=pass", "c=pass", "plan=fail"],
        ),
        (
            "1..1\nok 1 a\nok 2 b\nok 3 - c",
            &["a=pass", "b=pass", "plan=fail", "c=pass", "plan=fail"],
        ),
        // Another document, and prose.
        ("1..1\nok 1 a\nok 1 b\n1..1", &["a=pass", "b=pass"]),
        ("1..1\nok 1 a\nok 50 files copied", &["a=pass"]),
        (
            "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: s\nok 1 s",
            &["s=fail"],
        ),
        (
            "KTAP version 1\n1..1\n    KTAP version 1\nok 1 s # SKIP no device",
            &["s=skip"],
        ),
        ("KTAP version 1", &["plan=fail"]),
        (
            "ok 1 a\nok 2 b\nok 3 c\n1..2",
            &["a=pass", "b=pass", "c=pass", "plan=fail"],
        ),
        (
            "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: s\n    1..3\n    ok 1 a",
            &["s.a=pass", "s.missing=fail", "missing=fail"],
        ),
        (
            "KTAP version 1\n1..1\n    # Subtest: s\n    1..2\n    ok 1 a\nok 1 s",
            &["s.a=pass", "s.missing=fail"],
        ),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
    let missing = &read("1..3\nok 1 a")[1];
    assert_eq!(
        missing.problem.as_deref(),
        Some("the plan was 3 tests, and 1 reported")
    );
}

#[test]
fn a_summary_that_says_worse_than_its_subtests_is_a_case() {
    assert_eq!(
        told("1..1\n    ok 1 a\n    1..1\nnot ok 1 s"),
        ["s.a=pass", "s=fail"]
    );
    assert_eq!(told("1..1\n    not ok 1 a\n    1..1\nok 1 s"), ["s.a=fail"]);
}

#[test]
fn nothing_in_a_yaml_block_counts() {
    let text = "TAP version 13\n1..2\nnot ok 1 - compare\n  ---\n  found: |\n    ok 7 - looks like one\n    not ok 8 - too\n  ...\nok 2 - rest";
    assert_eq!(told(text), ["compare=fail", "rest=pass"]);
    // One without an end hides nothing that stands outside of it, and is told.
    assert_eq!(
        told("1..2\nok 1 a\n  ---\n  x: 1\nnot ok 2 b"),
        ["a=pass", "b=fail"]
    );
    assert_eq!(
        told("1..2\nok 1 a\n  ---\n  x: 1"),
        ["a=pass", "yaml=fail", "missing=fail"]
    );
}

#[test]
fn prose_is_no_document() {
    for text in [
        "okay then",
        "ok, next",
        "ok 5 files copied",
        "all is ok",
        "1..2..3",
        "from 1..5",
        "# not ok 1",
        "notok 1",
        "--- a/file\n+++ b/file",
    ] {
        assert_eq!(told(text), Vec::<String>::new(), "{text}");
    }
    let mut ktap = Ktap::default();
    ktap.line("TAP version 14");
    assert_eq!(ktap.line("usb 1-1: new device"), None);
}

/// A result line, and whether it fails.
fn result() -> impl Strategy<Value = (String, bool)> {
    let directive = prop_oneof![
        4 => Just(("", false)),
        1 => Just((" # TODO later", true)),
        1 => Just((" # todo: later", true)),
        1 => Just((" # SKIP no device", false)),
        1 => Just((" \\# TODO escaped", false)),
        1 => Just((" # exit=1", false)),
        1 => Just((" # TIMEOUT", false)),
    ];
    (any::<bool>(), "[a-z]{1,8}", any::<bool>(), directive).prop_map(
        |(passed, name, dash, (directive, todo))| {
            let not = if passed { "" } else { "not " };
            let dash = if dash { "- " } else { "" };
            (
                format!("{not}ok {{}} {dash}{name}{directive}"),
                !passed && !todo,
            )
        },
    )
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(KTAP version 1|TAP version 13|1\\.\\.[0-9]{1,20}|ok|not ok|# Subtest: x|Bail out!|#| |\n|    |  ---\n|  \\.\\.\\.\n|\\[ 1\\.0\\] |<6>|[0-9a-zé\\[\\]]){0,60}") {
        read(&text);
    }

    #[test]
    fn no_failure_outside_a_todo_ever_passes(
        results in proptest::collection::vec((result(), 0usize..3), 1..12),
        version in 0usize..4,
        plan in 0usize..3,
        prefix in 0usize..5,
        hashes in any::<bool>(),
        cut in any::<bool>(),
    ) {
        let mut fails = cut;
        let mut lines = Vec::new();
        let mut number = [0u32; 3];
        let last = results.len() - 1;
        for (index, ((line, failing), depth)) in results.iter().enumerate() {
            // Subtests come before the result of the test that they are part of.
            let depth = if index == last { &0 } else { depth };
            // A result further out ends what is further in.
            number[depth + 1..].fill(0);
            number[*depth] += 1;
            fails |= failing;
            lines.push(format!("{}{}", "    ".repeat(*depth), line.replace("{}", &number[*depth].to_string())));
        }
        let planned = number[0] + u32::from(cut);
        let versions = ["", "TAP version 13", "TAP version 14", "KTAP version 1"];
        match plan {
            0 => lines.insert(0, format!("1..{planned}")),
            1 => lines.push(format!("1..{planned}")),
            _ => fails |= version > 0,
        }
        if plan == 2 && version == 0 {
            // Nothing tells that it was cut off.
            fails = results.iter().any(|((_, failing), _)| *failing);
        }
        if version > 0 {
            lines.insert(0, versions[version].into());
        }
        let nested = hashes && (version > 0 || plan == 0);
        let prefix = ["", "[    1.000000] ", "[    1.000000][    T1] ", "<6>", "<6>[    1.000000] "][prefix];
        let text: String = lines
            .iter()
            .map(|line| format!("{prefix}{}{line}\n", if nested { "# " } else { "" }))
            .collect();
        let failed = read(&text).iter().any(|case| case.outcome == Outcome::Fail);
        prop_assert!(failed || !fails, "{}", text);
    }
}
