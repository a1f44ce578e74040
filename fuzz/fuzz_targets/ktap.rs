//! TAP and KTAP of arbitrary bytes: no panic, an end in which nothing is open, and no failure that is lost, whatever stands
//! before and behind it.
#![no_main]

use hearth::job::{Ktap, Outcome};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    fails(&text);
    assert!(fails(&format!("{text}\nnot ok 1 - last\n")), "{text:?}");
    let middle = text.floor_char_boundary(text.len() / 2);
    if let Some(end) = text[middle..].find('\n').map(|end| middle + end + 1) {
        let (before, after) = text.split_at(end);
        let with = format!("{before}not ok 1 - middle\n{after}");
        assert!(fails(&with), "{with:?}");
    }
});

/// Whether anything in it has failed.
fn fails(text: &str) -> bool {
    let mut ktap = Ktap::default();
    let mut cases: Vec<_> = text.lines().filter_map(|line| ktap.line(line)).collect();
    cases.push(ktap.finish());
    assert!(!ktap.is_open());
    cases
        .iter()
        .flatten()
        .any(|case| case.outcome == Outcome::Fail)
}
