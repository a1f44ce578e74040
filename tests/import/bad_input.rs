//! Inputs that are cut short, damaged, unreadable or of no use: one clear sentence each, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::{fail, oracle, succeed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fixture::Bench;

#[test]
fn whatever_is_cut_short_is_refused() {
    let bench = Bench::new();
    bench.shell(
        "tar -C tree -cf a.tar . && gzip -k a.tar && xz -k a.tar && zstd -q a.tar && \
         (cd tree && find . -print0 | cpio -0 -o -H newc --quiet > ../a.cpio) && gzip -k a.cpio && \
         mksquashfs tree a.sqfs -quiet -no-progress && truncate -s 32M a.ext4 && mke2fs -q -t ext4 -d tree a.ext4",
    );
    for name in [
        "a.tar",
        "a.tar.gz",
        "a.tar.xz",
        "a.tar.zst",
        "a.cpio",
        "a.cpio.gz",
        "a.sqfs",
        "a.ext4",
    ] {
        let whole = fs::read(bench.path(name)).unwrap();
        // Just before its end, where tars and squashfs images are padded, and in its middle.
        let end = match name {
            "a.tar" => whole.len() - 10240,
            "a.cpio" => whole.iter().rposition(|&byte| byte != 0).unwrap() - 5,
            "a.sqfs" => whole.iter().rposition(|&byte| byte != 0).unwrap() - 100,
            _ => whole.len() - 5,
        };
        for length in [whole.len() / 2, end, 2000] {
            fs::write(bench.path("cut"), &whole[..length]).unwrap();
            let output = common::run(&mut bench.import("cut", "refused"));
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{name} at {length}: {told}");
            let says = ["cut short", "cut off", "damaged"];
            assert!(
                says.iter().any(|says| told.contains(says)),
                "{name} at {length}: {told}"
            );
            assert!(!bench.path("refused").exists());
        }
    }
}

#[test]
fn what_is_no_root_file_system_is_named() {
    let bench = Bench::new();
    bench.shell("mkfifo pipe; : > empty; echo text > text; truncate -s 1M zeros; bzip2 -c text > text.bz2; \
                 truncate -s 64M x.btrfs; printf '_BHRfS_M' | dd of=x.btrfs bs=1 seek=65600 conv=notrunc status=none; \
                 printf '\\047\\005\\031\\126rest' > u.img; ln -s nowhere dangling");
    let begun = Instant::now();
    for (name, says) in [
        ("pipe", "it is a named pipe, not a regular file"),
        ("missing", "No such file"),
        ("dangling", "No such file"),
        ("/dev/zero", "it is a device"),
        ("empty", "it is empty"),
        ("text", "none of the formats that hearth knows"),
        ("zeros", "nothing but zeros"),
        ("text.bz2", "compressed with bzip2"),
        ("x.btrfs", "it is btrfs, which hearth cannot read"),
        ("u.img", "hearth image extract"),
    ] {
        bench.refuses(name, says);
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn features_and_compressors_that_cannot_be_read_are_named() {
    let bench = Bench::new();
    for feature in [
        "inline_data",
        "encrypt",
        "mmp",
        "ea_inode",
        "casefold",
        "large_dir",
    ] {
        bench.shell(&format!(
            "rm -f f.ext4; truncate -s 16M f.ext4; mke2fs -q -t ext4 -O {feature} f.ext4"
        ));
        bench.refuses(
            "f.ext4",
            &format!("features that hearth cannot read: {feature}"),
        );
    }
    for compressor in ["lzo", "lzma"] {
        bench.shell(&format!(
            "rm -f c.sqfs; mksquashfs tree c.sqfs -comp {compressor} -quiet -no-progress"
        ));
        bench.refuses(
            "c.sqfs",
            &format!("its compressor {compressor} cannot be read"),
        );
    }
}

#[test]
fn damaged_file_systems_end_with_a_sentence_and_never_with_a_panic() {
    let bench = Bench::new();
    bench.shell("truncate -s 8M a.ext4 && mke2fs -q -t ext4 -b 1024 -d tree a.ext4 && mksquashfs tree a.sqfs -quiet -no-progress");
    for name in ["a.ext4", "a.sqfs"] {
        let whole = fs::read(bench.path(name)).unwrap();
        // A fixed walk over the metadata: bytes of the superblock, the groups, the inodes and the tables.
        for step in 0..40usize {
            let mut damaged = whole.clone();
            let at = match name {
                "a.ext4" => 1024 + step * 1237 % 400_000,
                _ => damaged.len() - 1 - step * 211 % damaged.len().min(8000),
            };
            for byte in &mut damaged[at..(at + 16).min(whole.len())] {
                *byte = byte.wrapping_add(113);
            }
            fs::write(bench.path("damaged"), &damaged).unwrap();
            let output = common::run(bench.import("damaged", "maybe").args(["--arch", "armhf"]));
            let told = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code();
            assert!(
                matches!(code, Some(0 | 2)),
                "{name} at {at}: {code:?} {told}"
            );
            assert!(!told.contains("panicked"), "{name} at {at}: {told}");
        }
    }
}

#[test]
fn files_that_this_user_may_not_read_are_named_all_together() {
    let bench = Bench::new();
    fs::write(bench.path("tree/etc/shadow"), "secret").unwrap();
    fs::create_dir(bench.path("tree/root")).unwrap();
    for (name, mode) in [("tree/etc/shadow", 0o000), ("tree/root", 0o000)] {
        fs::set_permissions(bench.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = bench.import("tree", "refused");
    if nix::unistd::geteuid().is_root() {
        // As somebody who is not root, where the bench may be entered.
        fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut other = oracle("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        other.arg(command.get_program());
        other.args(command.get_args());
        for (name, value) in command.get_envs() {
            other.env(name, value.unwrap_or_default());
        }
        command = other;
        command
            .env("HOME", bench.path("home"))
            .current_dir(bench.dir.path());
    }
    let output = fail(
        &mut command,
        2,
        "this user cannot read all of tree: /etc/shadow, /root",
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("help: "));
    assert!(!bench.path("refused").exists());
}

#[test]
fn a_full_disk_leaves_nothing_and_is_the_hosts_fault() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    bench.shell("head -c 20M /dev/urandom > tree/usr/lib/random && tar -C tree -cf a.tar . && gzip -1 -k a.tar");
    for (name, cache, out) in [
        ("a.tar", "/mnt/cache", "/mnt/out"),
        ("a.tar.gz", "/mnt/cache", "/mnt/out"),
        ("a.tar", "cache", "/mnt/out"),
    ] {
        let script = format!(
            "mount -t tmpfs -o size=8m none /mnt && {} import it --rootfs {name} -o {out}; code=$?; \
             test -e {out} && echo left; ls -A /mnt | grep -v '^cache$'; exit $code",
            env!("CARGO_BIN_EXE_hearth")
        );
        let mut command = oracle("unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .env("HEARTH_CACHE", cache)
            .current_dir(bench.dir.path());
        let output = fail(&mut command, 3, "No space left on device");
        assert!(output.stdout.is_empty(), "{name}: {output:?}");
    }
}

#[test]
fn an_interrupted_import_leaves_nothing_and_the_next_one_works() {
    let bench = Bench::new();
    bench.shell(
        "head -c 400M /dev/zero | tr '\\0' x > tree/usr/lib/much && tar -C tree -cf a.tar .",
    );
    let mut child = bench.import("a.tar", "out").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert!(!bench.path("out").exists());
    let beside = fs::read_dir(bench.dir.path()).unwrap().flatten();
    let mut beside = beside.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert!(!beside.any(|name| name.starts_with(".hearth-")));
    succeed(&mut bench.import("a.tar", "out"));
    let work = fs::read_dir(bench.path("cache/tmp")).unwrap().count();
    assert_eq!(work, 0, "what the first one left is gone");
}

#[test]
fn names_and_options_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    bench.shell("tar -C tree -cf a.tar .");
    for name in ["../x", "a.b", ".x", "", "a b", "a/b"] {
        let mut command = common::hearth();
        command
            .args(["import", name, "--rootfs", "a.tar"])
            .current_dir(bench.dir.path());
        fail(&mut command, 2, "cannot be the name of an image");
    }
    let mut owner = bench.import("a.tar", "refused");
    bench.refuses_with(
        owner.arg("--owner-root"),
        2,
        "--owner-root is for a directory",
    );
    let mut partition = bench.import("tree", "refused");
    bench.refuses_with(
        partition.args(["--partition", "1"]),
        2,
        "is a directory, which has no partitions",
    );
    let mut arch = bench.import("a.tar", "refused");
    bench.refuses_with(
        arch.args(["--arch", "arm64"]),
        2,
        "are for armhf, not for arm64",
    );
    bench.shell("mkdir foreign && echo x > foreign/x && mkdir refused");
    fs::write(bench.path("refused/mine"), "x").unwrap();
    fail(
        &mut bench.import("a.tar", "refused"),
        2,
        "not an output of hearth's",
    );
    assert!(bench.path("refused/mine").exists());
}

#[test]
fn a_root_of_another_architecture_or_of_none_is_told() {
    let bench = Bench::new();
    bench.shell(
        "mkdir -p pc/bin && cp /bin/true pc/bin/sh && mkdir -p none/etc && echo x > none/etc/x",
    );
    bench.refuses("pc", "its programs are for x86-64");
    bench.refuses("none", "no program that tells its architecture");
    succeed(bench.import("none", "out").args(["--arch", "riscv64"]));
    let output = succeed(bench.import("none", "out").args(["--arch", "riscv64"]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no init"));
}
