//! Owns the tree that is imported in every format, and running hearth on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{hearth, oracle, run, succeed};
use hearth::image::Manifest;
use tempfile::TempDir;

/// A directory with a tree in it, and a cache of its own.
pub struct Bench {
    pub dir: TempDir,
}

/// Makes a root file system with everything that a file system can hold, owned by whoever runs it; every time is fixed.
const TREE: &str = r#"
set -e
mkdir -p etc usr/bin usr/lib var/empty dev "na
me"
printf '\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\050\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\4\0\5' > usr/bin/init
head -c 100 /dev/zero >> usr/bin/init
mkdir sbin && ln -s ../usr/bin/init sbin/init
ln -s usr/bin bin
echo hello > etc/motd
ln etc/motd usr/lib/motd
ln -s /etc/motd usr/lib/absolute
seq 200000 > usr/lib/numbers
truncate -s 3M usr/lib/holes && echo end >> usr/lib/holes
: > var/empty/file
mkfifo var/pipe
chmod 4755 usr/bin/init
chmod 1777 var
printf x > "$(printf 'l%.0s' $(seq 200))"
printf x > "$(printf 'latin\351')"
"#;

impl Bench {
    pub fn new() -> Self {
        let bench = Bench {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(bench.tree()).unwrap();
        bench.shell(&format!(
            "cd tree\n{TREE}\ncd ..\nfind tree -exec touch -h -d @1500000000 {{}} +"
        ));
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// Runs lines of a shell in the bench's directory.
    pub fn shell(&self, script: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        succeed(
            oracle("bash")
                .args(["-ec", script])
                .env("PATH", format!("{path}:/usr/sbin:/sbin"))
                .current_dir(self.dir.path()),
        )
    }

    /// `hearth import` of a file or directory of the bench into `out`.
    pub fn import(&self, rootfs: &str, out: &str) -> Command {
        let mut command = hearth();
        command
            .args(["import", "it", "--rootfs", rootfs, "-o", out])
            .env("HEARTH_CACHE", self.path("cache"))
            .current_dir(self.dir.path());
        command
    }

    /// Imports, and gives what it made.
    #[track_caller]
    pub fn imported(&self, rootfs: &str, out: &str) -> Manifest {
        succeed(&mut self.import(rootfs, out));
        Manifest::load(&self.path(out)).unwrap()
    }

    /// Asserts that an import fails with this sentence in it, and leaves nothing.
    #[track_caller]
    pub fn refuses(&self, rootfs: &str, says: &str) {
        self.refuses_with(&mut self.import(rootfs, "refused"), 2, says);
    }

    #[track_caller]
    pub fn refuses_with(&self, command: &mut Command, code: i32, says: &str) {
        let output = run(command);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {told}");
        assert!(told.contains(says), "{says:?} is not in:\n{told}");
        assert!(!told.contains("panicked"), "{told}");
        let sentences = told.lines().filter(|line| line.starts_with("hearth: "));
        assert_eq!(sentences.count(), 1, "{told}");
        assert!(!self.path("refused").exists());
        let left = fs::read_dir(self.dir.path()).unwrap().flatten();
        for entry in left {
            let name = entry.file_name();
            assert!(!name.to_string_lossy().starts_with(".hearth-"), "{name:?}");
        }
    }

    /// What GNU tar says of a tar: kind, mode, owner, size, time, name, link.
    pub fn listed(&self, tar: &Path) -> String {
        let output = succeed(
            oracle("tar")
                .args([
                    "--utc",
                    "--full-time",
                    "--numeric-owner",
                    "--xattrs",
                    "-tvvf",
                ])
                .arg(tar),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
