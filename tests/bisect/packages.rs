//! `hearth bisect packages`: a planted package between two locks of a small archive, built and tested on a scripted board.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::archive::Archive;
use common::process::spawn;
use common::scripted::Board;
use common::{fail, hearth, run, sha256, succeed, wait_for};
use hearth::recipe::{Lock, LockedPackage, Role};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The board boots whatever was built for the step.
const SCRIPT: &str = r#"
manifest=found/image/test/manifest.json
[ ! -e out/rerun/test/manifest.json ] || manifest=out/rerun/test/manifest.json
IMAGE=$(sed -n 's/.*"image": "\(.*\)".*/\1/p' $manifest)
boot
"#;

/// A board, and two locks of a recipe between which some packages come in version 2.
struct Bench {
    board: Board,
    archive: Archive,
    good: PathBuf,
    bad: PathBuf,
}

/// What each package needs of the others, in either version; `lib` and `dev` can only change together, and `app` after them.
const PACKAGES: [(&str, &str, &str); 8] = [
    ("lib", "", ""),
    ("dev", "Depends: lib (= 1)", "Depends: lib (= 2)"),
    ("app", "Depends: lib", "Depends: lib (>= 2)"),
    ("one", "", ""),
    ("two", "", ""),
    ("three", "", ""),
    ("four", "", ""),
    ("five", "", ""),
];

/// The smallest image; the planted packages come with the locks, not with the recipe.
const RECIPE: &str = "
description = 'test'
arch = 'armhf'
packages = []
[archive]
suites = ['trixie']
[strip]
docs = true
locales = true
";

impl Bench {
    /// Where `culprit` is bad in version 2.
    fn new(culprit: &str) -> Bench {
        Bench::with(culprit, ("", ""))
    }

    /// The same with a script of a package in version 2.
    fn with(culprit: &str, (scripted, postinst): (&str, &str)) -> Bench {
        let mut archive = Archive::new();
        fs::write(archive.path("test.toml"), RECIPE).unwrap();
        succeed(hearth().arg("lock").arg(archive.path("test.toml")));
        let base = Lock::load(&archive.path("test.lock")).unwrap();
        let mut plant = |version: &str| {
            let mut lock = base.clone();
            for (name, old, new) in PACKAGES {
                let state = match version == "2" && name == culprit {
                    true => "bad",
                    false => "good",
                };
                let (file, text) = (format!("srv/{name}"), format!("{state} {version}\n"));
                let mut files = vec![(file.as_str(), text.as_str())];
                if version == "2" && name == scripted {
                    files.push(("DEBIAN/postinst", postinst));
                }
                let fields = if version == "1" { old } else { new };
                let path = archive.add_deb(name, version, fields, &files);
                let deb = fs::read(archive.path(&path)).unwrap();
                lock.packages.push(LockedPackage {
                    name: name.into(),
                    version: version.into(),
                    arch: "armhf".into(),
                    size: deb.len() as u64,
                    sha256: sha256(&deb),
                    path,
                    suite: "planted-security".into(),
                    role: Role::Root,
                    local: false,
                    auto: true,
                });
            }
            let path = archive.path(&format!("{version}.lock"));
            lock.save(&path).unwrap();
            path
        };
        let (good, bad) = (plant("1"), plant("2"));
        let bench = Bench {
            board: Board::new(SCRIPT),
            good,
            bad,
            archive,
        };
        let tar = bench.board.path("found/image/test/rootfs.tar");
        let names = PACKAGES.map(|(name, _, _)| name);
        let files = names.map(|name| format!("srv/{name}")).join(" ");
        let tar = tar.display();
        let _ = bench.board.command(&format!(
            "lava-test-case reads --shell tar -xOf {tar} {files}\n\
             lava-test-case value --shell \"! tar -xOf {tar} {files} | grep bad\""
        ));
        bench
    }

    /// hearth with the planted packages on its mirror of security updates.
    fn hearth(&self) -> Command {
        let mut command = self.board.hearth();
        command.env("HEARTH_MIRROR_SECURITY", self.archive.address());
        command
    }

    /// The bisection, with further options before the board and behind it.
    fn command(&self, before: &[&str], behind: &[&str]) -> Command {
        let mut command = self.hearth();
        command
            .args(["bisect", "packages"])
            .arg(&self.good)
            .arg(&self.bad)
            .arg("--recipe")
            .arg(self.archive.path("test.toml"))
            .args(["-o", "found"])
            .args(before)
            .args(["fake1", "t.yaml"])
            .args(behind);
        command
    }

    fn report(&self, directory: &str) -> Value {
        let path = self.board.path(directory).join("report.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn tries(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.board.path("found/bisect.json")).unwrap_or_default();
        let journal: Value = serde_json::from_str(&text).unwrap_or_default();
        journal["tries"].as_array().cloned().unwrap_or_default()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_planted_package_is_found_with_the_one_that_goes_with_it() {
    let bench = Bench::new("dev");
    let output = run(&mut bench.command(&[], &["--timeout", "60"]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for part in [
        "8 packages differ, in 7 steps",
        "these 2 can only be installed together:\n  dev 1 → 2\n  lib 1 → 2\n",
        "good: found/good.lock\nbad:  found/bad.lock\n",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    // Both ends, and the logarithm of the steps.
    assert!(bench.tries().len() <= 5, "{told}");
    let changed = run(bench
        .board
        .hearth()
        .args(["diff", "found/good.lock", "found/bad.lock"]));
    assert_eq!(said(&changed), "dev  1  2\nlib  1  2\n");
    // Each step's report names the lock that it was built from.
    let step = bench.board.path("found/02");
    let of = |name: &str| fs::read_to_string(step.join(name)).unwrap();
    assert_eq!(of("image.lock"), fs::read_to_string(&bench.bad).unwrap());
    // Its image is gone, but not its lock: the run is had again with the same bytes.
    let rerun = run(bench.hearth().args(["rerun", "found/02", "-o", "again"]));
    let told = said(&rerun);
    assert!(
        told.contains("built again from the report's lock"),
        "{told}"
    );
    assert!(!told.contains("other hashes"), "{told}");
    assert_eq!(
        bench.report("again")["image"],
        bench.report("found/02")["image"]
    );
    assert_eq!(
        bench.report("again")["inputs"]["lock"],
        bench.report("found/02")["inputs"]["lock"]
    );
    // What is finished is told again, without a test.
    let begun = std::time::Instant::now();
    let again = succeed(&mut bench.command(&[], &["--timeout", "60"]));
    assert!(said(&again).contains("dev 1 → 2"));
    assert!(begun.elapsed().as_secs() < 3);
    // A definition that has changed asks another question.
    let text = fs::read_to_string(bench.board.path("t.yaml")).unwrap();
    fs::write(bench.board.path("t.yaml"), text + "\n").unwrap();
    fail(
        &mut bench.command(&[], &["--timeout", "60"]),
        2,
        "found holds another bisection",
    );
}

#[test]
fn a_bisection_that_is_killed_or_stopped_goes_on_where_it_was() {
    let bench = Bench::new("three");
    for (count, signal) in [(1, Signal::SIGKILL), (3, Signal::SIGINT)] {
        let bisection = spawn(&mut bench.command(&[], &[]));
        wait_for("a try", || {
            bench.tries().len() >= count && bench.board.has_power()
        });
        bisection.signal(signal);
        let output = bisection.output();
        assert_ne!(output.status.code(), Some(0));
        wait_for("the board to be off", || !bench.board.has_power());
        assert_eq!(bench.tries().len(), count, "{}", said(&output));
    }
    let output = run(&mut bench.command(&[], &[]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("going on after 3 tries"), "{told}");
    assert!(
        told.contains("the first bad package:\n  three 1 → 2\n"),
        "{told}"
    );
    let tries = bench.tries();
    let mut candidates: Vec<&str> = tries
        .iter()
        .map(|tried| tried["candidate"].as_str().unwrap())
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    assert_eq!(
        candidates.len(),
        tries.len(),
        "something was tried twice: {told}"
    );
}

#[test]
fn locks_that_are_not_what_they_are_said_to_be_are_refused() {
    let bench = Bench::new("none");
    let output = run(&mut bench.command(&[], &[]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("2.lock is not bad: its test passes"),
        "{told}"
    );
    assert_eq!(bench.tries().len(), 2);
    // The other way round, by the case that decides.
    fs::write(
        bench.board.path("t.yaml"),
        fs::read_to_string(bench.board.path("t.yaml"))
            .unwrap()
            .replace("! tar", "tar"),
    )
    .unwrap();
    let output = run(&mut bench.command(&["--restart"], &["--case", "t/value"]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("1.lock is not good: 0_t/value failed"),
        "{told}"
    );
}

#[test]
fn mistakes_are_told_before_anything_is_built() {
    let bench = Bench::new("one");
    let same = bench.good.clone();
    let mut equal = bench.hearth();
    equal
        .args(["bisect", "packages"])
        .args([&same, &same])
        .arg("--recipe")
        .arg(bench.archive.path("test.toml"))
        .args(["fake1", "t.yaml"]);
    fail(&mut equal, 2, "the two locks have the same packages");
    fail(
        &mut bench.command(&["--recipe", "trixie-armhf"], &[]),
        2,
        "cannot be used multiple times",
    );
    fail(
        &mut bench.command(&[], &["--nonsense"]),
        2,
        "unexpected argument",
    );
    fail(
        &mut bench.command(&[], &["--image", "out/img"]),
        2,
        "cannot be used multiple times",
    );
    fail(&mut bench.command(&[], &["none.yaml"]), 2, "none.yaml");
    fail(
        &mut bench.command(&[], &["--case", "u/x"]),
        2,
        "no definition here is named `u`",
    );
    let mut other = bench.hearth();
    other
        .args(["bisect", "packages"])
        .args([&bench.good, &bench.bad])
        .args(["--recipe", "trixie-armhf", "fake1", "t.yaml"]);
    fail(&mut other, 2, "is not a lock of the recipe trixie-armhf");
    fs::write(&bench.bad, "nothing").unwrap();
    fail(&mut bench.command(&[], &[]), 2, "2.lock");
    assert!(!bench.board.path("found/image").exists());
}

#[test]
fn what_cannot_be_built_is_skipped_and_told() {
    // It needs the new `three` and does not say so; the steps between them do not build.
    let postinst = "#!/bin/sh\nexec grep 2 /srv/three\n";
    let bench = Bench::with("one", ("four", postinst));
    let output = run(&mut bench.command(&[], &[]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("is skipped: it cannot be built: "), "{told}");
    for culprit in ["four 1 → 2", "one 1 → 2", "three 1 → 2"] {
        assert!(told.contains(&format!("\n  {culprit}\n")), "{told}");
    }
    assert!(told.contains("one of these 3 packages"), "{told}");
}
