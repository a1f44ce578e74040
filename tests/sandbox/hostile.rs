//! Scripts that want more than they are given.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::fixture::*;
use common::{oracle, run, succeed};

/// Things that a maintainer script must not get done; each prints its line if it succeeds.
const ATTACKS: &str = r#"
busybox umount /proc/sys && echo GOT umount
busybox umount -l /proc/sys && echo GOT lazy-umount
busybox mount -o remount,rw,bind /proc/sys && echo GOT remount
busybox mount -t proc proc /tmp && echo GOT proc
busybox mount -t sysfs sysfs /tmp && echo GOT sysfs
busybox mount -t tmpfs tmpfs /proc/sys && echo GOT cover
busybox mount --bind /proc /tmp && echo GOT bind
busybox unshare -U -r true && echo GOT userns
busybox unshare -m true && echo GOT mntns
busybox unshare -U -r -m -p -f busybox mount -t proc proc /proc && echo GOT nested
busybox nsenter -t 1 -m true && echo GOT setns
busybox pivot_root / /tmp && echo GOT pivot
busybox mknod /tmp/mem c 1 1 && echo GOT mknod
busybox hostname owned && echo GOT hostname
# Pid 1 may be looked at, or nobody could tell a chroot by its root; it has what the script has, and no more.
busybox ls /proc/1/root/etc /proc/1/root/usr && echo GOT pid1-root
test "$(busybox grep ^CapEff: /proc/1/status)" = "$(busybox grep ^CapEff: /proc/self/status)" || echo GOT pid1-capabilities
busybox readlink /proc/1/fd/* | busybox grep -vE '^(pipe:|/dev/null|socket:)' && echo GOT pid1-fd
{ echo x >/proc/1/exe; } && echo GOT pid1-program
for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger /sys/kernel/uevent_helper \
            /proc/sys/fs/binfmt_misc/register /proc/sys/user/max_user_namespaces; do
    { echo x >$file; } && echo GOT $file
done
for file in /proc/kcore /proc/kmsg /proc/1/mem /dev/tty /dev/mem /dev/kmsg; do
    busybox head -c 1 $file && echo GOT $file
done
busybox ls /proc/self/fd/ | busybox grep -qx 7 && echo GOT inherited-descriptor
busybox grep -q . /proc/keys && echo GOT keys
busybox grep -q . /proc/key-users && echo GOT key-users
true
"#;

#[test]
fn the_kernel_s_settings_cannot_be_changed() {
    for caller in callers() {
        for file in [
            "/proc/sys/kernel/hostname",
            "/proc/sysrq-trigger",
            "/sys/kernel/uevent_helper",
        ] {
            let script = format!("if [ -e {file} ]; then echo x >{file}; else exit 9; fi");
            let output = run(&mut in_armhf(caller, &["--", "sh", "-c", &script]));
            assert!(!output.status.success(), "{caller:?} wrote {file}");
        }
    }
}

#[test]
fn hostile_scripts_get_nothing() {
    for caller in callers() {
        // A descriptor that hearth's caller has left open.
        let mut command = oracle("sh");
        let hearth = hearth(caller);
        command
            .args(["-c", "exec 7</etc/passwd; exec \"$@\"", "sh"])
            .arg(hearth.get_program())
            .args(hearth.get_args())
            .arg("run")
            .arg(tree("armhf"))
            .args(["--", "sh", "-c", ATTACKS])
            .stdin(Stdio::null());
        let output = String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned();
        assert!(!output.contains("GOT"), "{caller:?}: {output}");
    }
}

#[test]
fn the_caller_s_keys_are_not_in_reach() {
    // Whoever has a key in possession sees it in /proc/keys, and may read it.
    let script = "keyctl add user hearth-test-key secret @s >/dev/null; grep hearth-test-key /proc/keys >&2; exec \"$@\"";
    for caller in callers() {
        let hearth = hearth(caller);
        let mut command = oracle("keyctl");
        command
            .args(["session", "-", "sh", "-c", script, "sh"])
            .arg(hearth.get_program())
            .args(hearth.get_args())
            .arg("run")
            .arg(tree("armhf"))
            .args(["--", "busybox", "cat", "/proc/keys", "/proc/key-users"]);
        let output = succeed(&mut command);
        assert!(String::from_utf8_lossy(&output.stderr).contains("hearth-test-key"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{caller:?}");
    }
}

#[test]
fn the_session_keyring_is_a_new_one() {
    let mut command = oracle("keyctl");
    let hearth = hearth(Caller::Root);
    command
        .args([
            "session",
            "-",
            "sh",
            "-c",
            "keyctl rdescribe @s; exec \"$@\"",
            "sh",
        ])
        .arg(oracle("strace").get_program())
        .args([
            "-f",
            "-e",
            "trace=keyctl",
            "-e",
            "signal=none",
            "-o",
            "/dev/stdout",
        ])
        .arg(hearth.get_program())
        .arg("run")
        .arg(tree("armhf"))
        .args(["--", "busybox", "true"]);
    let said = String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned();
    assert!(
        said.contains("keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL) = "),
        "{said}"
    );
}

#[test]
fn programs_have_no_id_of_the_host_s_users() {
    for caller in callers() {
        let running = start(caller, "echo ready; read line", "ids");
        let script = running
            .processes()
            .into_iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
            .filter(|status| status.contains("NoNewPrivs:\t1"))
            .collect::<Vec<_>>();
        assert!(!script.is_empty(), "no confined process");
        for status in script {
            let uid = status
                .lines()
                .find_map(|line| line.strip_prefix("Uid:"))
                .and_then(|ids| ids.split_whitespace().next()?.parse::<u32>().ok())
                .unwrap();
            assert!(uid >= 65536, "{caller:?}: uid {uid}");
            // CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_NET_ADMIN, CAP_SYS_RESOURCE, CAP_MKNOD, CAP_DAC_READ_SEARCH
            let forbidden: u64 = [21, 19, 12, 24, 27, 2].iter().map(|bit| 1 << bit).sum();
            let bounds = status
                .lines()
                .find_map(|line| line.strip_prefix("CapBnd:"))
                .map(|bits| u64::from_str_radix(bits.trim(), 16).unwrap())
                .unwrap();
            assert_eq!(bounds & forbidden, 0, "{bounds:x}");
        }
        drop(running);
    }
}

#[test]
fn a_fork_bomb_is_bounded() {
    for caller in callers() {
        let script =
            "echo ready; i=0; while [ $i -lt 3000 ]; do busybox sleep 30 & i=$((i+1)); done; wait";
        let mut running = start(caller, script, "bomb");
        std::thread::sleep(Duration::from_secs(4));
        let sleeping = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
            .filter(|line| {
                let line = String::from_utf8_lossy(line);
                line.contains("busybox") && line.contains("sleep\x0030\0")
            })
            .count();
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running.await_end();
        assert!(sleeping <= 1024, "{sleeping} processes");
    }
}
