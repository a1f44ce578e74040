//! TAP and KTAP, and a console with a job's numbered lines, of arbitrary bytes: no panic, no failure that is lost, and
//! nothing that a job prints is judged as the board's.
#![no_main]

use hearth::board::{ConsoleEvent, ConsoleParser};
use hearth::job::{Ktap, Outcome};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    read(&text);
    fails_with(&text);
    judge(data);
});

fn read(text: &str) -> bool {
    let mut ktap = Ktap::default();
    let mut cases: Vec<_> = text.lines().filter_map(|line| ktap.line(line)).collect();
    cases.push(ktap.finish());
    assert!(!ktap.is_open());
    cases
        .iter()
        .flatten()
        .any(|case| case.outcome == Outcome::Fail)
}

/// A failure that follows is never lost, whatever came before it.
fn fails_with(text: &str) {
    assert!(read(&format!("{text}\nnot ok 1 - last\n")), "{text:?}");
}

/// The same text as a job's lines, some of them without their last byte.
fn judge(data: &[u8]) {
    let mut parser = ConsoleParser::default();
    let text = String::from_utf8_lossy(data).replace("hearth:", "");
    for (number, line) in text.split('\n').enumerate() {
        let line = line.replace(['\r', '\0'], "");
        let mut console = format!("hearth:{}:{}:", number + 1, line.len()).into_bytes();
        console.extend(line.bytes());
        if line.starts_with('x') {
            console.pop();
        }
        console.push(b'\n');
        for event in parser.feed(&console) {
            assert!(matches!(event, ConsoleEvent::Line { .. }), "{event:?}");
        }
    }
}
