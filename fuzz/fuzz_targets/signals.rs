//! What a job prints, with LAVA's signals in it, over two channels: no panic, every line once and in order, and no result
//! that is lost behind others.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hearth::job::{Collector, Merger, NumberedLine, Outcome, Parsed, Pattern, has_signal, scan};
use libfuzzer_sys::fuzz_target;

/// Much as the definitions in fixtures/ have it.
static PATTERN: LazyLock<Pattern> = LazyLock::new(|| {
    let text = r"^(?P<test_case_id>[\w. -]*):\s*(?P<result>\w+)?(\s+(?P<measurement>\S+) (?P<units>\S+))?$";
    let fixups = BTreeMap::from([("ok".to_string(), "pass".to_string())]);
    Pattern::new(text, fixups).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines {
        let found = scan(line);
        assert_eq!(found.is_empty(), !has_signal(line), "{line:?}");
        for parsed in found {
            if let Parsed::Bad(bad) = parsed {
                assert!(line.contains(&bad.raw), "{line:?}: {bad:?}");
            }
        }
    }
    merged(&lines);
    forged(&lines);
    for strict in [false, true] {
        collected(&lines, BTreeMap::new(), strict);
        collected(&lines, patterns(), strict);
    }
});

fn patterns() -> BTreeMap<String, Pattern> {
    ["0_t", "1_last"]
        .map(|suite| (suite.to_string(), PATTERN.clone()))
        .into()
}

fn collected(lines: &[&str], patterns: BTreeMap<String, Pattern>, strict: bool) {
    let expected = vec!["0_t".into(), "1_last".into()];
    let mut collector = Collector::new(patterns, expected).strict(strict);
    collector.line("<LAVA_SIGNAL_STARTRUN 0_t u>", 0.0);
    for line in lines {
        collector.line(line, 1.0);
    }
    for line in [
        "<LAVA_SIGNAL_STARTRUN 1_last u>",
        "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=last RESULT=fail>",
        "<LAVA_SIGNAL_ENDRUN 1_last u>",
        "<LAVA_TEST_RUNNER EXIT>",
    ] {
        collector.line(line, 2.0);
    }
    assert!(collector.exited());
    let (suites, _) = collector.finish(3.0);
    for name in ["0_t", "1_last"] {
        assert!(suites.iter().any(|suite| suite.name == name), "{name}");
    }
    // LAVA's dispatcher may have given up before.
    if !strict {
        let last = suites.iter().rfind(|suite| suite.name == "1_last").unwrap();
        assert!(last.duration.is_some());
        let [case] = last.cases.as_slice() else {
            panic!("{:?}", last.cases);
        };
        assert_eq!((&*case.id, case.outcome), ("last", Outcome::Fail));
    }
}

/// What a job writes to the console itself may look like a line of its own with any number.
fn forged(lines: &[&str]) {
    let mut merger = Merger::default();
    let mut read = 0;
    for line in lines {
        let heard = NumberedLine::from_console(line.as_bytes());
        read += heard.map_or(0, |line| merger.add(line).len());
    }
    read += merger.finish().len();
    // Each may follow a note of what is missing before it.
    assert!(read <= 2 * lines.len());
}

/// Of each line, the first byte says which channel brings it, and when.
fn merged(lines: &[&str]) {
    let mut merger = Merger::default();
    let mut read = Vec::new();
    let mut late = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let number = index as u64 + 1;
        let console = format!("noise hearth:{number}:{}:{line}", line.len());
        let heard = NumberedLine::from_console(console.as_bytes());
        let sent = NumberedLine {
            number,
            text: (*line).to_string(),
        };
        match line.bytes().next().unwrap_or_default() % 3 {
            0 => {
                // A line that holds a whole numbered line is one for the network.
                read.extend(
                    heard
                        .filter(|heard| *heard == sent)
                        .into_iter()
                        .flat_map(|line| merger.add(line)),
                );
                read.extend(merger.add(sent));
            }
            1 => read.extend(merger.add(sent)),
            _ => late.push(sent),
        }
    }
    for line in late.into_iter().rev() {
        read.extend(merger.add(line));
    }
    read.extend(merger.finish());
    assert_eq!(read, lines);
    assert_eq!(merger.lost(), 0);
}
