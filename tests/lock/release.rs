//! Archives that are not what they should be.

use common::archive::Archive;
use common::{fail, hearth, succeed};
use std::fs;

use hearth::recipe::Lock;

use crate::{lock, locked};

#[test]
fn a_tampered_release_or_index_is_refused() {
    let (archive, before) = locked(&[10]);
    let recipe = archive.path("test.toml");
    let release = archive.path("dists/trixie/InRelease");
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, text.replace("Suite: stable", "Suite: stab1e")).unwrap();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "changed after it was signed",
    );

    archive.publish();
    let directory = archive.path("dists/trixie/main/binary-armhf");
    let index = directory.join("Packages.xz");
    let mut data = fs::read(&index).unwrap();
    data[20] ^= 1;
    fs::write(&index, &data).unwrap();
    fs::remove_dir_all(directory.join("by-hash")).unwrap();
    fs::remove_dir_all(archive.path("cache")).unwrap();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "trixie does not fit together",
    );
    assert_eq!(Lock::load(&recipe.with_extension("lock")).unwrap(), before);
}

#[test]
fn an_index_is_found_by_name_where_its_hash_is_not_served() {
    let (archive, _) = locked(&[10]);
    fs::remove_dir_all(archive.path("dists/trixie/main/binary-armhf/by-hash")).unwrap();
    fs::remove_dir_all(archive.path("cache")).unwrap();
    succeed(&mut lock(
        &archive,
        &archive.path("test.toml"),
        &archive.address(),
    ));
}

#[test]
fn an_expired_release_is_refused_unless_asked_for() {
    let (mut archive, _) = locked(&[10]);
    let recipe = archive.path("test.toml");
    archive.set("Valid-Until", "Sat, 19 Sep 2020 07:55:41 UTC");
    archive.publish();
    let output = fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "the release of trixie has expired",
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-expired"));
    succeed(lock(&archive, &recipe, &archive.address()).arg("--allow-expired"));
    archive.set("Codename", "bookworm");
    archive.publish();
    let mut command = lock(&archive, &recipe, &archive.address());
    fail(
        command.arg("--allow-expired"),
        4,
        "another suite in the place of trixie",
    );
}

#[test]
fn a_release_of_the_future_is_refused() {
    let (mut archive, _) = locked(&[10]);
    let recipe = archive.path("test.toml");
    archive.set("Date", "Sat, 19 Sep 2099 07:55:41 UTC");
    archive.publish();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "the release of trixie is of the future",
    );
}

/// Its signature is good and it has not expired, but it brings back packages with known holes.
#[test]
fn an_older_release_than_the_lock_s_is_refused_for_every_suite() {
    let (mut archive, _) = locked(&[10]);
    let recipe = archive.path("test.toml");
    let path = recipe.with_extension("lock");
    let suites = [
        "trixie",
        "trixie-updates",
        "trixie-security",
        "trixie-backports",
    ];
    let text = fs::read_to_string(&recipe).unwrap();
    let all = text.replace("[\"trixie\"]", &format!("{suites:?}"));
    fs::write(&recipe, all).unwrap();
    let publish = |archive: &mut Archive, suite: &str, date: &str| {
        archive.suite = suite.into();
        archive.set("Codename", suite);
        archive.set("Date", date);
        archive.publish();
    };
    let attempt = |archive: &Archive| {
        let mut command = lock(archive, &recipe, &archive.address());
        command.args(["--mirror-security", &archive.address()]);
        command
    };
    let (newer, older) = (
        "Sat, 12 Sep 2026 07:55:41 UTC",
        "Sat, 12 Sep 2026 07:55:40 UTC",
    );
    for suite in suites {
        publish(&mut archive, suite, newer);
    }
    succeed(&mut attempt(&archive));
    let seen = fs::read_to_string(&path).unwrap();
    for suite in suites {
        publish(&mut archive, suite, older);
        let says = format!("release of {suite} is of {older}, older than that of {newer}");
        let output = fail(&mut attempt(&archive), 4, &says);
        assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-rollback"));
        fail(attempt(&archive).arg("--update"), 4, &says);
        fail(attempt(&archive).arg("--allow-expired"), 4, &says);
        assert_eq!(fs::read_to_string(&path).unwrap(), seen);
        publish(&mut archive, suite, newer);
    }
    // A build that has to make the lock again.
    publish(&mut archive, "trixie", older);
    fs::write(&recipe, text).unwrap();
    let mut build = hearth();
    build
        .arg("build")
        .arg(&recipe)
        .args(["--mirror", &archive.address()])
        .arg("-o")
        .arg(archive.path("out"))
        .env("HEARTH_CACHE", archive.path("cache"));
    fail(&mut build, 4, "older than that of");
    assert_eq!(fs::read_to_string(&path).unwrap(), seen);
    let output = succeed(attempt(&archive).arg("--allow-rollback"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("older than that of"));
    // What was accepted is what counts from then on.
    let before = Lock::load(&path).unwrap();
    assert_eq!(before.releases[0].date, older);
    succeed(&mut attempt(&archive));
}

#[test]
fn an_old_release_that_does_not_say_until_when_it_counts_is_warned_of() {
    let mut archive = Archive::new();
    archive.set("Date", "Sat, 12 Sep 2020 07:55:41 UTC");
    archive.publish();
    let recipe = archive.recipe(&["base"]);
    let warning = "does not say until when it counts";
    let says = |after: &str| {
        let text = fs::read_to_string(&recipe).unwrap();
        let text = text.lines().filter(|line| !line.starts_with("warn-"));
        let text: String = text.flat_map(|line| [line, "\n"]).collect();
        fs::write(&recipe, format!("{text}{after}")).unwrap();
        let output = succeed(&mut lock(&archive, &recipe, &archive.address()));
        String::from_utf8_lossy(&output.stderr).contains(warning)
    };
    assert!(says(""));
    assert!(!says("warn-after-days = 0\n"));
    assert!(!says("warn-after-days = 9999\n"));
    assert!(says("warn-after-days = 30\n"));
    archive.set("Valid-Until", "Sat, 12 Sep 2099 07:55:41 UTC");
    archive.publish();
    let output = succeed(&mut lock(&archive, &recipe, &archive.address()));
    assert!(!String::from_utf8_lossy(&output.stderr).contains(warning));
}

#[test]
fn a_missing_suite_keyring_or_component_is_named() {
    let (archive, _) = locked(&[10]);
    let recipe = archive.path("test.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    let attempt = |from: &str, to: &str, code: i32, says: &str| {
        fs::write(&recipe, text.replace(from, to)).unwrap();
        fail(&mut lock(&archive, &recipe, &archive.address()), code, says);
    };
    attempt("\"trixie\"", "\"forky\"", 4, "cannot fetch the suite forky");
    attempt("keyring.gpg", "nowhere.gpg", 2, "nowhere.gpg");
    attempt("keyring.gpg", "test.toml", 2, "holds no OpenPGP key");
    attempt(
        "[archive]",
        "[archive]\ncomponents = [\"contrib\"]",
        2,
        "no component contrib",
    );
    attempt("armhf", "arm64", 2, "no packages for arm64");
}
