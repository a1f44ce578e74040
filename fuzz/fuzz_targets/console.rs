//! A board's console of arbitrary bytes: no panic, no byte that is lost, the same events however the bytes come, nothing of a
//! job's that is judged as the board's, and a real panic that is always found.
#![no_main]

use hearth::board::{ConsoleEvent, ConsoleParser};
use hearth::sanitise::is_unsafe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (whole, lines) = watched(&[data]);
    // Where the first byte of each piece is a digit.
    let pieces: Vec<&[u8]> = data.chunk_by(|_, next| !next.is_ascii_digit()).collect();
    assert_eq!(watched(&pieces).0, whole);
    let printed = |byte: &&u8| !matches!(byte, b'\r' | b'\n' | 0);
    assert_eq!(
        lines,
        data.iter().filter(printed).copied().collect::<Vec<u8>>()
    );
    panics(data);
    numbered(data);
});

/// What is seen, and the bytes of all lines. Prompts are left out: whether one is seen depends on where a piece ends.
fn watched(pieces: &[&[u8]]) -> (Vec<ConsoleEvent>, Vec<u8>) {
    let mut watch = ConsoleParser::default();
    let mut events: Vec<ConsoleEvent> = pieces.iter().flat_map(|piece| watch.feed(piece)).collect();
    events.extend(watch.finish());
    events.retain(|event| !matches!(event, ConsoleEvent::BootloaderPrompt | ConsoleEvent::Login));
    let mut lines = Vec::new();
    for event in &events {
        match event {
            ConsoleEvent::Line { text, raw, .. } => {
                assert!(!text.chars().any(|c| c != '\t' && is_unsafe(c)), "{text:?}");
                lines.extend(raw);
            }
            ConsoleEvent::Crash { message, .. } | ConsoleEvent::BootloaderTrouble(message) => {
                assert!(!message.chars().any(|c| c != '\t' && is_unsafe(c)));
            }
            _ => {}
        }
    }
    (events, lines)
}

/// The kernel's last words are found behind anything. One of the two may have the length of the rest of a torn line.
fn panics(data: &[u8]) {
    let mut watch = ConsoleParser::default();
    watch.feed(data);
    let last = b"\n[   99.000000] Kernel panic - not syncing: first\n\
        [   99.000001] ---[ end Kernel panic - not syncing: first ]---\n";
    let events = watch.feed(last);
    let found = |event: &ConsoleEvent| {
        matches!(
            event,
            ConsoleEvent::Crash {
                kind: "kernel panic",
                ..
            }
        )
    };
    assert!(events.iter().any(found), "{events:?}");
}

/// The same text as a job's lines, some of them without their last byte.
fn numbered(data: &[u8]) {
    let mut watch = ConsoleParser::default();
    let text = String::from_utf8_lossy(data).replace("hearth:", "");
    for (number, line) in text.split('\n').enumerate() {
        let line = line.replace(['\r', '\0'], "");
        let mut console = format!("hearth:{}:{}:", number + 1, line.len()).into_bytes();
        console.extend(line.bytes());
        if line.starts_with('x') {
            console.pop();
        }
        console.push(b'\n');
        for event in watch.feed(&console) {
            assert!(matches!(event, ConsoleEvent::Line { .. }), "{event:?}");
        }
    }
}
