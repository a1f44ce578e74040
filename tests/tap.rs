//! TAP as hearth reads it, beside the reference: Perl's TAP::Parser.

use std::fs;
use std::path::Path;
use std::process::Command;

use hearth::job::{Ktap, Outcome};

/// Prints the results of the outermost tests as `ok` and `not ok`, and whether TAP::Parser has problems with the log.
const REFERENCE: &str = r#"
use TAP::Parser; local $/; open my $f, "<", $ARGV[0]; my $p = TAP::Parser->new({ tap => <$f> });
while (my $r = $p->next) { }
print $p->has_problems ? "problems" : "good";
"#;

#[test]
fn what_the_reference_has_problems_with_does_not_pass_and_the_rest_does() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tap");
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "tap") {
            continue;
        }
        let output = Command::new("perl")
            .args(["-e", REFERENCE])
            .arg(&path)
            .output()
            .expect("perl, which Debian always has");
        let reference = String::from_utf8(output.stdout).unwrap();
        let mut ktap = Ktap::default();
        let text = fs::read_to_string(&path).unwrap();
        let mut cases: Vec<_> = text.lines().filter_map(|line| ktap.line(line)).collect();
        cases.push(ktap.finish());
        let cases: Vec<_> = cases.into_iter().flatten().collect();
        let ours = if cases.iter().any(|case| case.outcome == Outcome::Fail) {
            "problems"
        } else {
            "good"
        };
        assert!(!cases.is_empty(), "{}", path.display());
        assert_eq!(ours, reference, "{}: {cases:?}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 15);
}
