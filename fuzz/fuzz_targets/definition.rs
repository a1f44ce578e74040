//! Test definitions and what a board prints for them: no panic, an end in time, and no suite that is forgotten.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use hearth::job::{Collector, Definition};
use libfuzzer_sys::fuzz_target;

const PLAIN: &str = "metadata: {format: f, name: t}\n";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // YAML's end of a document; what follows is what the board prints.
    let (text, log) = text.split_once("\n...\n").unwrap_or((&text, &text));
    // As it is, and with what every definition has, so that the rest is what is tried.
    for text in [text.to_string(), format!("{PLAIN}{text}")] {
        let definition = match Definition::parse(Path::new("fuzz.yaml"), &text) {
            Ok((definition, _)) => definition,
            Err(error) => {
                assert!(error.text.get(error.span.clone()).is_some(), "{error}");
                continue;
            }
        };
        for strict in [true, false] {
            run(&definition, log, strict);
        }
    }
});

fn run(definition: &Definition, log: &str, strict: bool) {
    let pattern = definition.pattern.clone();
    let patterns: BTreeMap<_, _> = pattern
        .map(|pattern| ("0_t".to_string(), pattern))
        .into_iter()
        .collect();
    let mut collector = Collector::new(patterns, vec!["0_t".into()]).strict(strict);
    collector.line("<LAVA_SIGNAL_STARTRUN 0_t u>", 0.0);
    for line in log.lines() {
        collector.line(line, 1.0);
    }
    collector.line("<LAVA_TEST_RUNNER EXIT>", 2.0);
    let (suites, _) = collector.finish(3.0);
    assert!(suites.iter().any(|suite| suite.name == "0_t"));
}
