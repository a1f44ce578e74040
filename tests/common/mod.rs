//! What the end-to-end tests share: running hearth and its oracles, and saying what is missing.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod archive;
pub mod emulator;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Packs a directory with a `DEBIAN` in it into the package `deb`, whose files are root's.
pub fn pack(tree: &Path, deb: &Path) {
    succeed(
        oracle("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(tree)
            .arg(deb),
    );
}

/// The hearth under test.
pub fn hearth() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
}

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The MAC that the agent finds in `interfaces`.
pub const MAC: &str = "52:54:00:12:34:56";

/// What stands for /sys/class/net under the agent: one interface, with `MAC`.
pub fn interfaces(directory: &Path) -> PathBuf {
    let net = directory.join("net");
    std::fs::create_dir_all(net.join("eth0")).unwrap();
    std::fs::write(net.join("eth0/address"), format!("{MAC}\n")).unwrap();
    net
}

/// A program that nobody here wrote. Panics where it is missing: a test never passes by skipping.
pub fn oracle(program: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{program} is missing: run `make deps`"));
    Command::new(found)
}

/// Runs to the end; panics with the output if it fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        text(&output)
    );
    output
}

/// Runs to the end and asserts the exit code and a part of what is said on standard error.
pub fn fail(command: &mut Command, code: i32, says: &str) -> Output {
    let output = run(command);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}\n{}",
        text(&output)
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains(says),
        "{command:?} does not say {says:?} but:\n{stderr}"
    );
    output
}

pub fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(output: &Output) -> String {
    format!(
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The `manifest.json` of an image that a test made up.
pub fn manifest(image: &str) -> String {
    serde_json::json!({
        "hearth": "0", "recipe": {"name": "test", "sha256": ""}, "lock": {"sha256": ""}, "arch": "armhf",
        "epoch": 0, "kernel": null, "image": image, "artifacts": {},
    })
    .to_string()
}
