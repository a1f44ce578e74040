//! What programs of an image get and what becomes of what they do.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::fixture::*;
use common::{fail, oracle, run, succeed};

#[test]
fn programs_of_other_architectures_run_for_root_and_for_an_ordinary_user() {
    for caller in callers() {
        assert_eq!(output_of(caller, "armhf", "busybox uname -m"), "armv7l\n");
        assert_eq!(output_of(caller, "arm64", "busybox uname -m"), "aarch64\n");
    }
}

#[test]
fn every_id_of_an_image_can_own_a_file() {
    let script = "busybox id -u; : >/f; busybox chown 42:65534 /f; busybox stat -c %u:%g /f; busybox chown 65535 /f";
    for caller in callers() {
        assert_eq!(output_of(caller, "armhf", script), "0\n42:65534\n");
    }
}

#[test]
fn there_is_no_network_unless_it_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepting = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for stream in listener.incoming().take(callers().len()) {
            let mut text = String::new();
            stream.unwrap().read_to_string(&mut text).unwrap();
            heard.push(text);
        }
        heard
    });
    let script = format!("echo hello | busybox nc 127.0.0.1 {port}");
    for caller in callers() {
        let refused = run(&mut in_armhf(caller, &["--", "sh", "-c", &script]));
        assert!(!refused.status.success());
        assert_eq!(
            output_of(caller, "armhf", "busybox ip -o link | busybox wc -l"),
            "1\n"
        );
        succeed(&mut in_armhf(
            caller,
            &["--network", "--", "sh", "-c", &script],
        ));
    }
    assert_eq!(accepting.join().unwrap(), vec!["hello\n"; callers().len()]);
}

#[test]
fn what_a_program_writes_is_gone() {
    for caller in callers() {
        let script = "echo x >/etc/passwd; busybox rm -r /usr/share; : >/new; busybox ls /new";
        assert_eq!(output_of(caller, "armhf", script), "/new\n");
    }
    let root = tree("armhf");
    assert!(root.join("usr/share").is_dir() && !root.join("new").exists());
    assert!(
        fs::read_to_string(root.join("etc/passwd"))
            .unwrap()
            .starts_with("root:")
    );
}

#[test]
fn the_exit_code_is_the_program_s() {
    for caller in callers() {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 255", 255),
            ("kill -TERM $$", 143),
        ] {
            let output = run(&mut in_armhf(caller, &["--", "sh", "-c", script]));
            assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
        }
        fail(
            &mut in_armhf(caller, &["--", "no-such-program"]),
            2,
            "the image has no program no-such-program",
        );
    }
}

#[test]
fn standard_input_and_output_are_passed_on() {
    let mut command = in_armhf(Caller::Ordinary, &["--", "busybox", "sha256sum"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"abc").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output
            .stdout
            .starts_with(b"ba7816bf8f01cfea414140de5dae2223"),
        "{output:?}"
    );
}

#[test]
fn what_is_no_root_file_system_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = common::hearth();
    command.arg("run").arg(empty.path()).args(["--", "true"]);
    fail(
        &mut command,
        2,
        "is no root file system that hearth can run",
    );

    let hostile = tempfile::tempdir().unwrap();
    let root = hostile.path().join("root");
    succeed(oracle("cp").arg("-a").arg(tree("armhf")).arg(&root));
    fs::remove_dir(root.join("dev")).unwrap();
    symlink("/etc", root.join("dev")).unwrap();
    let mut command = common::hearth();
    command.arg("run").arg(&root).args(["--", "true"]);
    fail(&mut command, 2, "the image's /dev is not a directory");
}
