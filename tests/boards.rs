//! hearth test with emulated boards, from the build to the report. Builds the shipped image for 32-bit boards, or takes it
//! from the cache; each boot takes minutes where nothing but software emulates the processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{lasting, remove, repository, succeed};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A board that may be quiet for long while its job deletes what there is.
const LAB: &str = "
[lab]
name = 'e2e'
address = '10.99.0.1'
recipe = 'trixie-armhf'

[[board]]
name = 'virt1'
type = 'qemu-virt-arm'
console = { driver = 'qemu' }
power = { driver = 'qemu' }
timeouts = { silence = 1800 }
";

/// Only what the shell itself can do is left in the end.
const DELETE_EVERYTHING: &str = "
metadata:
  format: Lava-Test Test Definition 1.0
  name: delete-everything
run:
  steps:
    - set +ex
    - rm -rf --no-preserve-root / 2>/dev/null
    - if [ -e /usr/bin/ls ]; then result=fail; else result=pass; fi
    - echo \"<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=everything-is-gone RESULT=$result>\"
";

/// The directory of one test, with the image in `out/`; its logs stay there.
fn workshop(name: &str) -> PathBuf {
    remove(&lasting("boards").join(name));
    lasting(&format!("boards/{name}"))
}

fn hearth(directory: &Path) -> Command {
    let mut command = common::hearth();
    command
        .current_dir(directory)
        .env("HEARTH_DATA", repository())
        .env("HEARTH_STATE", directory.join("state"));
    command
}

/// Runs a definition on a board and gives the report; the run must pass.
fn test(directory: &Path, board: &str, definition: &Path, report: &str) -> Value {
    succeed(
        hearth(directory)
            .args(["test", board])
            .arg(definition)
            .args(["-o", report]),
    );
    let text = fs::read_to_string(directory.join(report).join("report.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hash(file: &Path) -> String {
    hex::encode(Sha256::digest(fs::read(file).unwrap()))
}

fn cases(report: &Value) -> usize {
    report["suites"][0]["cases"].as_array().unwrap().len()
}

/// How many results a definition gives in which every step is a case at most once.
fn cases_of(definition: &Path) -> usize {
    let text = fs::read_to_string(definition).unwrap();
    let is_case = |line: &&str| line.trim_start().starts_with("- lava-test-case ");
    text.lines().filter(is_case).count()
}

#[test]
fn a_job_that_deletes_everything_leaves_the_master_image_as_it_was_and_the_next_job_passes() {
    let directory = workshop("delete");
    fs::write(directory.join("lab.toml"), LAB).unwrap();
    let definition = directory.join("delete.yaml");
    fs::write(&definition, DELETE_EVERYTHING).unwrap();
    succeed(hearth(&directory).args(["build", "trixie-armhf"]));
    let image = directory.join("out/trixie-armhf/rootfs.tar");
    let before = hash(&image);

    let report = test(&directory, "virt1", &definition, "first");
    assert_eq!(cases(&report), 1);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("over the console alone"), "{warnings}");
    assert_eq!(hash(&image), before, "the master image has changed");

    let smoke = repository().join("examples/smoke.yaml");
    let report = test(&directory, "virt1", &smoke, "second");
    assert_eq!(cases(&report), cases_of(&smoke));
    assert_eq!(hash(&image), before, "the master image has changed");
}

#[test]
fn a_nanopi_neo_boots_from_its_card_and_passes_the_smoke_test() {
    let directory = workshop("neo");
    let smoke = repository().join("examples/smoke.yaml");
    let report = test(&directory, "nanopi-neo", &smoke, "report");
    assert_eq!(cases(&report), cases_of(&smoke));
    assert_eq!(report["identity"]["board"], "nanopi-neo");
    let stages: Vec<&str> = report["attempts"][0]["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["name"].as_str().unwrap())
        .collect();
    for stage in ["bootloader", "kernel", "userspace", "checked-in", "running"] {
        assert!(stages.contains(&stage), "{stages:?}");
    }
    let console = fs::read(directory.join("report/console.log")).unwrap();
    let console = String::from_utf8_lossy(&console);
    for said in ["hearth: nanopi-neo boots", "Linux version"] {
        assert!(console.contains(said), "{said}");
    }
}
