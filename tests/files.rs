//! `hearth files`, and an installed hearth that has nothing but its binary and an empty home.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{fail, hearth, repository, succeed};

/// The binary alone, in an empty directory, with an empty home.
fn installed(home: &Path) -> Command {
    let binary = home.join("bin/hearth");
    if !binary.exists() {
        fs::create_dir(home.join("bin")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_hearth"), &binary).unwrap();
    }
    let mut command = Command::new(binary);
    command
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn every_shipped_file_can_be_listed_printed_and_copied() {
    let home = tempfile::tempdir().unwrap();
    let listed = succeed(installed(home.path()).arg("files")).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.lines().count() > 20, "{listed}");
    succeed(installed(home.path()).args(["files", "-o", "copies"]));
    for path in listed.lines() {
        let text = fs::read(repository().join(path)).unwrap();
        let printed = succeed(installed(home.path()).args(["files", path])).stdout;
        assert!(printed == text, "{path}");
        assert!(fs::read(home.path().join("copies").join(path)).unwrap() == text);
    }
}

#[test]
fn a_copy_takes_no_files_place_and_a_misspelt_path_is_recognised() {
    let home = tempfile::tempdir().unwrap();
    let own = home.path().join("examples/smoke.yaml");
    fs::create_dir(home.path().join("examples")).unwrap();
    fs::write(&own, "mine").unwrap();
    let error = "./examples/smoke.yaml exists already";
    fail(installed(home.path()).args(["files", "-o", "."]), 2, error);
    assert_eq!(fs::read(&own).unwrap(), b"mine");
    assert!(!home.path().join("boot-scripts").exists());
    let error = "did you mean `recipes/lab-example.toml`?";
    fail(
        hearth().args(["files", "recipes/lab-exmple.toml"]),
        2,
        error,
    );
}

#[test]
fn an_installed_hearth_finds_its_own_files_and_the_users() {
    let home = tempfile::tempdir().unwrap();
    let types = succeed(installed(home.path()).args(["boards", "show", "nanopi-neo"]));
    assert!(String::from_utf8_lossy(&types.stdout).contains("NanoPi NEO"));
    for (words, error) in [
        (
            ["power", "neo1", "on"],
            "no lab.toml here with a board `neo1`",
        ),
        (
            ["boards", "show", "nano-neo"],
            "did you mean the board type `nanopi-neo`?",
        ),
        (
            ["boot", "pandaboard", "-q"],
            "QEMU cannot emulate a pandaboard",
        ),
        (
            ["verify", "nope", "-q"],
            "known are bookworm-armhf, trixie-arm64, trixie-armhf",
        ),
        (["man", "tset", "-q"], "did you mean `test`?"),
    ] {
        fail(installed(home.path()).args(words), 2, error);
    }
    let script =
        succeed(installed(home.path()).args(["bootscript", "nanopi-neo", "-t", "card", "--print"]));
    assert!(String::from_utf8_lossy(&script.stdout).contains("dhcp"));

    // The user's own come first: $XDG_DATA_HOME, or its default.
    for data in [".local/share", "elsewhere"] {
        let directory = home.path().join(data).join("hearth/recipes/boards");
        fs::create_dir_all(&directory).unwrap();
        let shipped =
            fs::read_to_string(repository().join("recipes/boards/nanopi-neo.toml")).unwrap();
        let own = shipped.replace("FriendlyElec NanoPi NEO", &format!("from {data}"));
        fs::write(directory.join("nanopi-neo.toml"), own).unwrap();
    }
    let shown = |command: &mut Command| {
        let output = succeed(command.args(["boards", "show", "nanopi-neo"]));
        String::from_utf8(output.stdout).unwrap()
    };
    let elsewhere = home.path().join("elsewhere");
    assert!(shown(&mut installed(home.path())).contains("from .local/share"));
    assert!(
        shown(installed(home.path()).env("XDG_DATA_HOME", elsewhere)).contains("from elsewhere")
    );
}
