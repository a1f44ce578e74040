//! Owns what the end-to-end tests share: running hearth and its oracles, boards in QEMU and boards that a script plays,
//! small tars and archives. Never uses hearth's library, so that the library's unit tests may use this.

pub mod archive;
pub mod emulator;
pub mod process;
pub mod scripted;
pub mod small;
pub mod tarball;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// How long anything but an emulated board may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The SHA-256 of bytes, in hex.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// Packs a directory with a `DEBIAN` in it into the package `deb`, whose files are root's.
pub fn pack(tree: &Path, deb: &Path) {
    succeed(
        oracle("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(tree)
            .arg(deb),
    );
}

/// The hearth under test, of which cargo tells each integration test.
pub fn hearth() -> Command {
    let path = std::env::var_os("CARGO_BIN_EXE_hearth");
    Command::new(path.expect("cargo sets CARGO_BIN_EXE_hearth for integration tests"))
}

/// The repository.
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this is tests/common")
}

/// A directory for one area of tests that outlasts them: for what takes long to make, and for logs.
pub fn lasting(area: &str) -> PathBuf {
    let directory = repository().join("target/tmp").join(area);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Removes a file or a directory that a former run of the test may have left.
pub fn remove(path: &Path) {
    let removed = if path.is_dir() && !path.is_symlink() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            panic!("cannot remove {}: {error}", path.display())
        }
        _ => {}
    }
}

/// Waits for something, within reason.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The agent that hearth puts into images.
pub fn agent() -> PathBuf {
    repository().join("src/agent/hearth-agent")
}

/// Lets the agent, or what starts it, find in `directory` what a board has in /proc, /sys and /run.
pub fn set_agent_paths(command: &mut Command, directory: &Path) {
    command
        .env("HEARTH_CMDLINE", directory.join("cmdline"))
        .env("HEARTH_WORK", directory.join("work"))
        .env("HEARTH_NET", directory.join("net"));
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

/// Whether the calling test goes on: it is root's, who may give files away. Anybody else's has been run again as root of
/// a user namespace, and has passed there.
pub fn runs_as_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("the test runner names its threads");
    let again = succeed(
        oracle("unshare")
            .args(["--user", "--map-root-user", "--map-auto"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"]),
    );
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("1 passed"), "{test} was not run: {said}");
    false
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
