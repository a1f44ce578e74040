//! What of the host programs see, what the host must have, and what is left on it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::fixture::*;
use common::{fail, oracle, succeed};

/// A shell script on the host, in a mount namespace of its own, in which it may hide things.
fn hiding(script: &str) -> Command {
    let mut command = oracle("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-e", "-c", script, "sh"]);
    command
}

#[test]
fn the_host_s_registrations_and_mounts_are_not_touched() {
    let registered = || -> BTreeSet<String> {
        fs::read_dir("/proc/sys/fs/binfmt_misc")
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let before = registered();
    for caller in callers() {
        let mut running = start(caller, "echo ready; read line", "registrations");
        assert_eq!(registered(), before);
        assert_eq!(mounts_of_tests(), Vec::<String>::new());
        drop(running.child.stdin.take());
        running.child.wait().unwrap();
    }
    assert_eq!(registered(), before);
}

#[test]
fn nothing_of_the_host_is_seen() {
    let script = "busybox env; echo ==; busybox hostname; busybox ls /; busybox ls /dev /sys/class/net; \
                  for i in /proc/[0-9]*; do echo $i; done; busybox cat /proc/1/environ; busybox cat /proc/mounts; umask";
    for caller in callers() {
        let mut command = hearth(caller);
        command
            .env("HEARTH_SECRET", "1f3a9c")
            .env("TZ", "Asia/Kathmandu")
            .arg("run")
            .arg(tree("armhf"))
            .args(["--", "sh", "-c", script]);
        let output = String::from_utf8(succeed(&mut command).stdout).unwrap();
        let (environment, rest) = output.split_once("==\n").unwrap();
        let names: BTreeSet<&str> = environment
            .lines()
            .filter_map(|line| line.split_once('=').map(|(name, _)| name))
            .collect();
        for unwanted in [
            "HEARTH_SECRET",
            "TZ",
            "CARGO",
            "SUDO_USER",
            "XDG_RUNTIME_DIR",
        ] {
            assert!(!names.contains(unwanted), "{environment}");
        }
        assert!(environment.contains("LC_ALL=C.UTF-8") && environment.contains("HOME=/root"));
        assert!(
            !rest.contains("1f3a9c") && rest.starts_with("localhost\n"),
            "{rest}"
        );
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert!(host.trim() == "localhost" || !rest.contains(host.trim()));
        // pid 1, the shell, and no process of the host's
        assert!(
            rest.matches("/proc/").count() < 20 && rest.contains("/proc/1\n"),
            "{rest}"
        );
        assert!(
            !rest.contains("/dev/sda") && !rest.contains("eth0"),
            "{rest}"
        );
        assert!(
            rest.contains("\n0022\n") || rest.ends_with("0022\n"),
            "{rest}"
        );
    }
}

#[test]
fn kill_9_leaves_no_process_and_no_mount() {
    for caller in callers() {
        let script =
            "busybox setsid sh -c 'echo ready; busybox sleep 10000' \"$0\" & busybox sleep 10000";
        let mut running = start(caller, script, "kill");
        // hearth, pid 1 of the namespaces, of the program, two shells
        assert!(running.processes().len() >= 5, "{:?}", running.processes());
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running.await_end();
        assert_eq!(mounts_of_tests(), Vec::<String>::new());
        assert_eq!(output_of(caller, "armhf", "echo again"), "again\n");
    }
}

#[test]
fn what_a_program_leaves_running_ends_with_it() {
    let script = "busybox setsid busybox sleep 10000 \"$0\" 2>/dev/null & echo ready; read line";
    let mut running = start(Caller::Ordinary, script, "daemon");
    drop(running.child.stdin.take());
    running.child.wait().unwrap();
    assert_eq!(running.processes(), Vec::<u32>::new());
}

#[test]
fn a_missing_qemu_is_named_with_the_package_that_has_it() {
    let script =
        "for path in /usr/bin/qemu-arm /usr/bin/qemu-arm-static /usr/local/bin/qemu-arm; do
                      [ ! -e $path ] || mount --bind /dev/null $path
                  done
                  exec \"$@\"";
    let mut command = hiding(script);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(env!("CARGO_BIN_EXE_hearth"))
        .arg("run")
        .arg(tree("armhf"))
        .args(["--", "true"]);
    let output = fail(&mut command, 3, "qemu-arm-static is missing");
    assert!(String::from_utf8_lossy(&output.stderr).contains("package qemu-user-static"));
}

#[test]
fn missing_uidmap_and_missing_ranges_are_named_with_the_remedy() {
    let mut command = in_armhf(Caller::Ordinary, &["--", "true"]);
    let output = fail(
        command.env("PATH", "/nonexistent"),
        3,
        "newuidmap is missing",
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("package uidmap"));

    if nix::unistd::geteuid().is_root() {
        let mut command = hiding("mount --bind /dev/null /etc/subuid; exec \"$@\"");
        command
            .arg("setpriv")
            .args(as_user())
            .arg(copy_of_hearth())
            .arg("run")
            .arg(tree("armhf"))
            .args(["--", "true"]);
        let output = fail(&mut command, 3, "/etc/subuid gives hearth-test no range");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(
                "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 hearth-test"
            ),
            "{output:?}"
        );
    }
}
