//! Files that a user or a recipe names, and that are none: pipes, devices, sockets, directories. Nothing is waited for,
//! opened or replaced. No namespaces and no network are needed.
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{oracle, succeed};
use hearth::archive::deb::Deb;
use tempfile::TempDir;

const RECIPE: &str = r#"description = "d"
arch = "armhf"
[archive]
suites = ["trixie"]
[[file]]
path = "/f"
source = "source"
"#;

/// A directory with one thing of each kind.
struct Desk {
    directory: TempDir,
    _socket: UnixListener,
}

const KINDS: [(&str, &str); 6] = [
    ("pipe", "a named pipe"),
    ("to-pipe", "a named pipe"),
    ("socket", "a socket"),
    ("directory", "a directory"),
    ("to-zero", "a device"),
    ("to-tty", "a device"),
];

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| directory.path().join(name);
        succeed(oracle("mkfifo").arg(at("pipe")));
        fs::create_dir(at("directory")).unwrap();
        for (link, target) in [
            ("to-pipe", "pipe"),
            ("to-zero", "/dev/zero"),
            ("to-tty", "/dev/tty"),
        ] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        let socket = UnixListener::bind(at("socket")).unwrap();
        Desk {
            _socket: socket,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// hearth here, which has a minute: who waits for a pipe waits for ever.
    fn hearth(&self, arguments: &[&str]) -> Output {
        let mut command = oracle("timeout");
        command
            .arg("60")
            .arg(env!("CARGO_BIN_EXE_hearth"))
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    fn refused(&self, arguments: &[&str], says: &str) {
        let output = self.hearth(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }

    fn link(&self, name: &str, target: &str) {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    }
}

#[test]
fn what_is_read_is_a_regular_file() {
    let desk = Desk::new();
    fs::write(desk.path("r.toml"), RECIPE).unwrap();
    for (kind, says) in KINDS {
        let named = format!("./{kind}");
        desk.refused(&["build", &named], says);
        desk.refused(&["lock", &named], says);
        desk.refused(&["boards", "--lab", &named], says);
        desk.refused(
            &["test", "qemu-virt-arm", &named],
            if kind == "directory" {
                "definition"
            } else {
                "regular"
            },
        );
        desk.refused(&["initrd", "show", &named], says);
        desk.refused(
            &["initrd", "trixie-armhf", "--root", &named, "-o", "i"],
            says,
        );
        if kind != "directory" {
            desk.refused(&["report", "show", &named], says);
        }
        // Named by a recipe, by a directory, or found beside one.
        let error = Deb::open(&desk.path(kind)).err().unwrap();
        assert!(format!("{error:#}").contains(says), "{error:#}");
        desk.link("r.lock", kind);
        desk.refused(&["build", "./r.toml"], says);
        fs::remove_file(desk.path("r.lock")).unwrap();
        fs::create_dir_all(desk.path("out")).unwrap();
        desk.link("out/manifest.json", &format!("../{kind}"));
        desk.refused(&["diff", "./out", "./out"], says);
    }
    desk.refused(&["build", "/dev/zero"], "a device");
}

#[test]
fn what_the_caller_has_opened_is_read() {
    let desk = Desk::new();
    let lab = "[lab]\nname = \"desk\"\naddress = \"192.168.7.1\"\n";
    fs::write(desk.path("lab.toml"), lab).unwrap();
    for script in [
        "\"$0\" boards --lab <(cat lab.toml)",
        "cat lab.toml | \"$0\" boards --lab /dev/stdin",
        "\"$0\" boards --lab /dev/fd/0 <lab.toml",
    ] {
        let mut command: Command = oracle("bash");
        command
            .args(["-c", script])
            .arg(env!("CARGO_BIN_EXE_hearth"))
            .current_dir(desk.directory.path());
        succeed(&mut command);
    }
    let endless = "cat /dev/zero | \"$0\" boards --lab /dev/stdin";
    let mut command = oracle("bash");
    command
        .args(["-c", endless])
        .arg(env!("CARGO_BIN_EXE_hearth"));
    common::fail(&mut command, 2, "it is larger than 64 MiB");
}

#[test]
fn what_is_written_replaces_files_only_and_no_input() {
    let desk = Desk::new();
    fs::write(desk.path("data"), "data").unwrap();
    fs::write(desk.path("report.json"), REPORT).unwrap();
    desk.link("dangling", "nowhere");
    desk.link("same", "data");
    for (kind, says) in KINDS {
        desk.refused(&wrapped(kind), says);
        desk.refused(
            &[
                "report",
                "convert",
                "report.json",
                "--to",
                "tap",
                "-o",
                kind,
            ],
            says,
        );
        desk.refused(&["media", "cubieboard", "-o", kind], "");
    }
    let thesis = ["media", "cubieboard", "-o", "data"];
    desk.refused(&thesis, "is no card image: it is not replaced");
    desk.refused(&wrapped("dangling"), "leads nowhere");
    desk.refused(&wrapped("same"), "is read and cannot be written as well");
    let own = [
        "report",
        "convert",
        "report.json",
        "--to",
        "tap",
        "-o",
        "./report.json",
    ];
    desk.refused(&own, "is read and cannot be written as well");
    assert_eq!(fs::read(desk.path("data")).unwrap(), b"data");
    assert_eq!(
        fs::read_to_string(desk.path("report.json")).unwrap(),
        REPORT
    );
    assert!(!desk.path("nowhere").exists());
    let image = desk.hearth(&wrapped("image"));
    assert!(image.status.success(), "{image:?}");
    let own = ["image", "extract", "image", "-o", "image"];
    desk.refused(&own, "is read and cannot be written as well");
    // A link to a file keeps its place; standard output is the caller's.
    desk.link("link", "image");
    assert!(desk.hearth(&wrapped("link")).status.success());
    assert!(desk.path("link").is_symlink());
    assert_eq!(
        desk.hearth(&wrapped("/dev/stdout")).stdout,
        fs::read(Path::new(&desk.path("image"))).unwrap()
    );
}

fn wrapped(output: &str) -> [&str; 9] {
    [
        "mkimage", "-A", "arm", "-T", "ramdisk", "-q", "-d", "data", output,
    ]
}

const REPORT: &str = r#"{"version": 1, "hearth": "0", "board": "b", "board_type": "t", "image": "i", "started": "2026-01-01T00:00:00Z", "duration": 1.0, "identity": {}, "attempts": [], "suites": [], "problems": [], "warnings": []}"#;
