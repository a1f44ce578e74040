//! Owns a small image of real packages, without a kernel; it is built once, and its stages are in the default cache.
//! Never changes it: a test that wants another makes a workshop of its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::NamedTempFile;

use super::{hearth, lasting, succeed};

pub const SMALL: &str = r#"
description = "The smallest image that APT works in"
arch = "armhf"
packages = ["apt", "iputils-ping", "systemd-sysv"]

[archive]
suites = ["trixie"]

[strip]
docs = true
locales = true

[[user]]
name = "board"
authorized-keys = ["ssh-ed25519 AAAA test"]

[[file]]
path = "/etc/motd"
source = "motd"

[[file]]
path = "/srv/secret"
content = "s"
owner = "board"
mode = "0400"

[[command]]
run = "echo made > /srv/made"
"#;

/// A directory of this test run's own, with a recipe in it that the others do not touch.
pub fn workshop(name: &str) -> PathBuf {
    let directory = lasting(&format!("build/{name}"));
    write(&directory.join("small.toml"), SMALL);
    write(&directory.join("motd"), "hello\n");
    directory
}

/// Whole or not at all: tests of other processes may be reading it.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return;
    }
    let mut file = NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    // For other users as well, unlike a temporary file.
    let readable = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(readable).unwrap();
    file.persist(path).unwrap();
}

/// The small image, built once: the recipe's path and the output directory.
pub fn small() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = workshop("shared");
        let (recipe, out) = (directory.join("small.toml"), directory.join("out"));
        succeed(hearth().arg("build").arg(&recipe).arg("-o").arg(&out));
        (recipe, out)
    })
}
