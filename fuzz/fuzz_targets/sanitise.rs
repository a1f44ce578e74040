//! The sanitiser on arbitrary bytes: nothing that controls a terminal comes through.
#![no_main]

use hearth::sanitise::{self, is_unsafe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    assert!(!sanitise::bytes(bytes).chars().any(is_unsafe));
    let shown = sanitise::Stream::default().feed(bytes);
    assert!(
        shown
            .chars()
            .all(|c| matches!(c, '\n' | '\r' | '\t' | '\u{8}') || !is_unsafe(c))
    );
});
