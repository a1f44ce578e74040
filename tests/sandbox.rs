//! Programs of an image in the sandbox: for root and for an ordinary user, with nothing of the host's in
//! reach and nothing left behind. Needs qemu-user, uidmap, dpkg-deb, util-linux and a mirror (or a cache that has the
//! packages of the shipped locks). Run by root, it makes the user `hearth-test`.
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::{fail, oracle, repository, run, succeed};
use hearth::archive::{Cache, Fetcher, Limits, Mirrors};
use hearth::progress::NoProgress;
use hearth::recipe::{Lock, Role};

/// For what takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
const USER: &str = "hearth-test";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Root,
    Ordinary,
}

/// Both where the tests are run by root, else the one there is.
fn callers() -> Vec<Caller> {
    if nix::unistd::geteuid().is_root() {
        vec![Caller::Root, Caller::Ordinary]
    } else {
        vec![Caller::Ordinary]
    }
}

/// hearth as `caller`. An ordinary user gets a copy that it can surely reach.
fn hearth(caller: Caller) -> Command {
    if caller == Caller::Root || !nix::unistd::geteuid().is_root() {
        return common::hearth();
    }
    let mut command = oracle("setpriv");
    command.args(as_user()).arg(copy_of_hearth());
    command
}

fn as_user() -> [String; 3] {
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

fn copy_of_hearth() -> &'static Path {
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
fn tree(arch: &str) -> PathBuf {
    static ARMHF: OnceLock<PathBuf> = OnceLock::new();
    static ARM64: OnceLock<PathBuf> = OnceLock::new();
    let made = match arch {
        "armhf" => &ARMHF,
        _ => &ARM64,
    };
    made.get_or_init(|| make_tree(arch)).clone()
}

fn make_tree(arch: &str) -> PathBuf {
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
fn output_of(caller: Caller, arch: &str, script: &str) -> String {
    let output = succeed(
        hearth(caller)
            .arg("run")
            .arg(tree(arch))
            .args(["--", "sh", "-c", script]),
    );
    String::from_utf8(output.stdout).unwrap()
}

fn in_armhf(caller: Caller, arguments: &[&str]) -> Command {
    let mut command = hearth(caller);
    command.arg("run").arg(tree("armhf")).args(arguments);
    command
}

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

/// Mounts of this namespace that have something to do with these tests.
fn mounts_of_tests() -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("hearth-test"))
        .map(str::to_owned)
        .collect()
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

/// A program that has begun, and can be found among the processes by a name that nobody else has.
struct Running {
    child: Child,
    name: String,
}

fn start(caller: Caller, script: &str, name: &str) -> Running {
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
    /// Processes on the host whose command line has the name.
    fn processes(&self) -> Vec<u32> {
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
        let deadline = Instant::now() + PATIENCE;
        while !running.processes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "{:?} still run",
                running.processes()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
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

#[test]
fn a_shell_has_the_terminal() {
    for caller in callers() {
        let mut shell = hearth(caller);
        shell.arg("shell").arg(tree("armhf"));
        let line: Vec<String> = std::iter::once(shell.get_program())
            .chain(shell.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        // script(1) has a terminal, and gives it to what it runs.
        let mut terminal = oracle("script");
        terminal.args([
            "--quiet",
            "--return",
            "--command",
            &line.join(" "),
            "/dev/null",
        ]);
        let output = typed(
            &mut terminal,
            "busybox tty; [ -t 2 ] && echo TERM=$TERM\nexit 5\n",
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("/dev/console") && said.contains("TERM=vt102"),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(5), "{said}");
    }
}

fn typed(command: &mut Command, keys: &str) -> Output {
    let mut child = command
        .env("TERM", "vt102")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(keys.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    output
}

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
true
"#;

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
        assert!(sleeping <= 1024, "{sleeping} processes");
    }
}
