//! Owns what the tests of the sandbox share: the callers, a small root file system, programs that run in it.
//! Never asserts what the sandbox must do.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hearth::archive::{Cache, Fetcher, Limits, Mirrors};
use hearth::progress::NoProgress;
use hearth::recipe::{Lock, Role};

use common::{oracle, repository, succeed};

/// For what takes a moment on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const USER: &str = "hearth-test";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Caller {
    Root,
    Ordinary,
}

/// Both where the tests are run by root, else the one there is.
pub fn callers() -> Vec<Caller> {
    if nix::unistd::geteuid().is_root() {
        vec![Caller::Root, Caller::Ordinary]
    } else {
        vec![Caller::Ordinary]
    }
}

/// hearth as `caller`. An ordinary user gets a copy that it can surely reach.
pub fn hearth(caller: Caller) -> Command {
    if caller == Caller::Root || !nix::unistd::geteuid().is_root() {
        return common::hearth();
    }
    let mut command = oracle("setpriv");
    command.args(as_user()).arg(copy_of_hearth());
    command
}

pub fn as_user() -> [String; 3] {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        if nix::unistd::User::from_name(USER).unwrap().is_none() {
            succeed(oracle("useradd").args(["--create-home", USER]));
        }
        let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
        if !ranges
            .lines()
            .any(|line| line.starts_with(&format!("{USER}:")))
        {
            succeed(oracle("usermod").args([
                "--add-subuids",
                "700000-765535",
                "--add-subgids",
                "700000-765535",
                USER,
            ]));
        }
    });
    ["--reuid", "--regid", "--init-groups"].map(|option| match option {
        "--init-groups" => option.to_owned(),
        _ => format!("{option}={USER}"),
    })
}

pub fn copy_of_hearth() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let beside =
            tempfile::NamedTempFile::with_prefix_in("hearth-test-", std::env::temp_dir()).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_hearth"), beside.path()).unwrap();
        fs::set_permissions(beside.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = std::env::temp_dir().join(format!("hearth-test-{}", nix::unistd::geteuid()));
        fs::rename(beside.into_temp_path().keep().unwrap(), &place).unwrap();
        place
    })
}

/// A root file system of libc6, dash and busybox, out of a shipped recipe's lock; made once and kept.
pub fn tree(arch: &str) -> PathBuf {
    static ARMHF: OnceLock<PathBuf> = OnceLock::new();
    static ARM64: OnceLock<PathBuf> = OnceLock::new();
    let made = match arch {
        "armhf" => &ARMHF,
        _ => &ARM64,
    };
    made.get_or_init(|| make_tree(arch)).clone()
}

pub fn make_tree(arch: &str) -> PathBuf {
    let mut lock = Lock::load(&repository().join(format!("recipes/trixie-{arch}.lock"))).unwrap();
    lock.packages.retain(|package| {
        package.role == Role::Root
            && ["libc6", "libgcc-s1", "dash", "busybox"].contains(&package.name.as_str())
    });
    let digest = lock.digest();
    let kept = std::env::temp_dir().join(format!(
        "hearth-test-{arch}-{}-{}",
        &digest[..12],
        nix::unistd::geteuid()
    ));
    if kept.is_dir() {
        return kept;
    }
    let fetcher = Fetcher::new(
        Cache::default(),
        Mirrors::find(None, None),
        Limits::default(),
    );
    let debs = fetcher
        .packages(&lock, repository(), &NoProgress)
        .expect("the packages of the lock can be fetched");
    let beside = tempfile::tempdir().unwrap();
    let root = beside.path().join("root");
    for directory in ["bin", "lib", "sbin"] {
        fs::create_dir_all(root.join("usr").join(directory)).unwrap();
        symlink(format!("usr/{directory}"), root.join(directory)).unwrap();
    }
    for deb in debs {
        let mut list = oracle("dpkg-deb");
        list.arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped());
        let mut list = list.spawn().unwrap();
        let mut untar = oracle("tar");
        untar
            .args([
                "--extract",
                "--keep-directory-symlink",
                "--no-same-owner",
                "--directory",
            ])
            .arg(&root)
            .stdin(list.stdout.take().unwrap());
        succeed(&mut untar);
        assert!(list.wait().unwrap().success());
    }
    for directory in ["dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    // Another test process may have been faster.
    if let Err(error) = fs::rename(&root, &kept) {
        assert!(kept.is_dir(), "{error}");
    }
    kept
}

/// What a shell script in the image writes.
pub fn output_of(caller: Caller, arch: &str, script: &str) -> String {
    let output = succeed(
        hearth(caller)
            .arg("run")
            .arg(tree(arch))
            .args(["--", "sh", "-c", script]),
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn in_armhf(caller: Caller, arguments: &[&str]) -> Command {
    let mut command = hearth(caller);
    command.arg("run").arg(tree("armhf")).args(arguments);
    command
}

/// A program that has begun, and can be found among the processes by a name that nobody else has.
pub struct Running {
    pub child: Child,
    pub name: String,
}

pub fn start(caller: Caller, script: &str, name: &str) -> Running {
    let name = format!("hearth-test-{name}-{caller:?}-{}", std::process::id());
    let mut command = hearth(caller);
    let mut child = command
        .arg("run")
        .arg(tree("armhf"))
        .args(["--", "sh", "-c", script, &name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready\n");
    Running { child, name }
}

impl Running {
    /// Waits until none of its processes is left.
    pub fn await_end(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "{:?} run", self.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processes on the host whose command line has the name.
    pub fn processes(&self) -> Vec<u32> {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&self.name))
            })
            .collect()
    }
}

/// Mounts of this namespace that have something to do with these tests.
pub fn mounts_of_tests() -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("hearth-test"))
        .map(str::to_owned)
        .collect()
}
