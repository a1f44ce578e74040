//! Archives that are not what they should be.

use std::fs;

use hearth::recipe::Lock;

use crate::{lock, locked};
use common::{fail, succeed};

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
