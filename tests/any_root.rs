//! hearth test with roots that have no agent, on emulated boards: a busybox initramfs without a network, a root with busybox's
//! init over NFS, and Debian's systemd without curl. Kernel, initrd and programs are those of the shipped image for 32-bit boards.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{hearth, lasting, oracle, remove, repository, run, sha256, succeed};
use serde_json::Value;

const DEFINITION: &str = "
metadata: {format: Lava-Test Test Definition 1.0, name: t}
run:
  steps:
    - lava-test-case passes --shell 'CHECK'
    - lava-test-case fails --shell false
    - lava-test-case skips --result skip
    - lava-test-case uptime --result pass --measurement \"$(cut -d ' ' -f 1 /proc/uptime)\" --units s
    - seq 300
";

/// The directory of one test, with the shipped image in `out/trixie-armhf`; its logs stay there.
fn workshop(name: &str) -> PathBuf {
    remove(&lasting("any-root").join(name));
    let directory = lasting(&format!("any-root/{name}"));
    succeed(
        hearth()
            .current_dir(&directory)
            .env("HEARTH_DATA", repository())
            .args(["build", "trixie-armhf"]),
    );
    directory
}

/// A root with busybox and the libraries that it needs out of the image, its applets by name, and mount points.
fn busybox_root(directory: &Path) -> PathBuf {
    let root = directory.join("root");
    fs::create_dir(&root).unwrap();
    let library = "usr/lib/arm-linux-gnueabihf";
    let names = ["ld-linux-armhf.so.3", "libc.so.6", "libresolv.so.2"]
        .map(|name| format!("{library}/{name}"));
    let image = directory.join("out/trixie-armhf/rootfs.tar");
    succeed(
        oracle("tar")
            .arg("-xf")
            .arg(image)
            .arg("-C")
            .arg(&root)
            .args(["usr/bin/busybox", "usr/lib/ld-linux-armhf.so.3"])
            .args(names),
    );
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib")] {
        symlink(target, root.join(link)).unwrap();
    }
    let listed = succeed(
        oracle("qemu-arm-static")
            .arg("-L")
            .arg(&root)
            .arg(root.join("usr/bin/busybox"))
            .arg("--list"),
    );
    for applet in String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("usr/bin").join(applet)).unwrap();
    }
    for name in ["proc", "sys", "dev", "run", "tmp", "etc/init.d", "sbin"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    symlink("../bin/busybox", root.join("sbin/init")).unwrap();
    fs::write(
        root.join("etc/inittab"),
        "::sysinit:/etc/init.d/rcS\n::askfirst:-/bin/sh\n",
    )
    .unwrap();
    let script = root.join("etc/init.d/rcS");
    fs::write(
        &script,
        "#!/bin/sh\nmount -t proc proc /proc 2>/dev/null\nmount -t devtmpfs dev /dev 2>/dev/null\nmount -t tmpfs tmp /tmp\nsleep 2\necho done >/run/rcS\n",
    )
    .unwrap();
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// An output directory as that of the shipped image, with these artifacts in the place of its own.
fn output(directory: &Path, name: &str, own: &[(&str, Vec<u8>)]) -> PathBuf {
    let (from, to) = (
        directory.join("out/trixie-armhf"),
        directory.join("roots").join(name),
    );
    fs::create_dir_all(&to).unwrap();
    succeed(
        oracle("cp")
            .arg("-a")
            .args(["vmlinuz", "bootloader", "initrd.img", "uInitrd"].map(|part| from.join(part)))
            .arg(&to),
    );
    let text = fs::read_to_string(from.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    let known = manifest["artifacts"].as_object().unwrap().clone();
    let mut artifacts: BTreeMap<String, Value> = known
        .into_iter()
        .filter(|(name, _)| to.join(name).is_file())
        .collect();
    let mut root = String::new();
    for (name, data) in own {
        fs::write(to.join(name), data).unwrap();
        let hash = sha256(data);
        root.clone_from(&hash);
        artifacts.insert(
            (*name).into(),
            serde_json::json!({ "sha256": hash, "size": data.len() }),
        );
    }
    manifest["artifacts"] = serde_json::json!(artifacts);
    manifest["recipe"]["name"] = name.into();
    manifest["image"] = format!("{name}-{}", &root[..12]).into();
    fs::write(to.join("manifest.json"), manifest.to_string()).unwrap();
    to
}

fn tar(root: &Path) -> Vec<u8> {
    succeed(
        oracle("tar")
            .args([
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "-cf",
                "-",
                "-C",
            ])
            .arg(root)
            .arg("."),
    )
    .stdout
}

/// Runs the definition on an emulated board, and has its results.
fn has_results(directory: &Path, image: &Path, check: &str, options: &[&str]) -> String {
    fs::write(directory.join("t.yaml"), DEFINITION.replace("CHECK", check)).unwrap();
    let output = run(hearth()
        .current_dir(directory)
        .env("HEARTH_DATA", repository())
        .env("HEARTH_STATE", directory.join("state"))
        .args(["test", "qemu-virt-arm", "t.yaml", "-o", "report", "--image"])
        .arg(image)
        .args(options));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let text = fs::read_to_string(directory.join("report/report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["attempts"][0]["failure"].is_null(), "{said}");
    let cases = report["suites"][0]["cases"].as_array().unwrap();
    let outcomes: Vec<String> = cases
        .iter()
        .map(|case| {
            format!(
                "{}={}",
                case["id"].as_str().unwrap(),
                case["outcome"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        outcomes,
        ["passes=pass", "fails=fail", "skips=skip", "uptime=pass"],
        "{said}"
    );
    assert_eq!(cases[3]["units"], "s");
    let console = fs::read(directory.join("report/console.log")).unwrap();
    String::from_utf8_lossy(&console).into_owned()
}

/// The kernel starts `/init`; the board has no network but a card that leads nowhere.
const NO_NETWORK: &str =
    "! grep -q nfsroot /proc/cmdline && ! ip route | grep -q . && test -e /init";

#[test]
fn a_busybox_initramfs_without_a_network_runs_tests_over_its_console() {
    let directory = workshop("initrd");
    let root = busybox_root(&directory);
    symlink("sbin/init", root.join("init")).unwrap();
    let cpio = directory.join("root.cpio.gz");
    let pack = format!(
        "cd {} && find . | cpio -o -H newc --quiet | gzip >{}",
        root.display(),
        cpio.display()
    );
    succeed(oracle("sh").args(["-c", &pack]));
    let image = directory.join("out/trixie-armhf");
    let options = [
        "--boot",
        "ramdisk",
        "--prompt",
        "# $",
        "--initrd",
        "root.cpio.gz",
    ];
    let console = has_results(&directory, &image, NO_NETWORK, &options);
    assert!(
        console.contains("Please press Enter to activate this console"),
        "{console}"
    );
}

#[test]
fn an_imported_initramfs_is_booted_from_memory_and_a_debian_root_cannot_be() {
    let directory = workshop("ramdisk");
    let root = busybox_root(&directory);
    symlink("sbin/init", root.join("init")).unwrap();
    let image = output(&directory, "ramdisk", &[("rootfs.tar", tar(&root))]);
    let path = image.join("manifest.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest["sources"] = serde_json::json!({ "rootfs": { "path": "root.cpio", "sha256": "" } });
    fs::write(&path, manifest.to_string()).unwrap();
    has_results(&directory, &image, NO_NETWORK, &[]);

    let debian = [
        "test",
        "qemu-virt-arm",
        "t.yaml",
        "--boot",
        "ramdisk",
        "--image",
        "out/trixie-armhf",
    ];
    let mut command = hearth();
    command
        .current_dir(&directory)
        .env("HEARTH_DATA", repository())
        .args(debian);
    common::fail(&mut command, 2, "has no /init to be one");
}

#[test]
fn the_agent_runs_beside_busyboxs_init_over_nfs_with_busyboxs_wget() {
    let directory = workshop("busybox");
    let image = output(
        &directory,
        "busybox",
        &[("rootfs.tar", tar(&busybox_root(&directory)))],
    );
    // Init is process 1 under its own name, and its script has ended before a test begins.
    let check = "grep -q init /proc/1/cmdline && grep -q done /run/rcS && ! command -v curl";
    let console = has_results(&directory, &image, check, &[]);
    assert!(console.contains("hearth: check-in"), "{console}");
}

#[test]
fn the_agent_is_a_unit_in_a_debian_root_that_has_busybox_and_no_curl() {
    let directory = workshop("debian");
    let tar = directory.join("debian.tar");
    fs::copy(directory.join("out/trixie-armhf/rootfs.tar"), &tar).unwrap();
    succeed(oracle("tar").arg("--delete").arg("-f").arg(&tar).args([
        "usr/lib/hearth",
        "usr/lib/systemd/system/hearth-agent.service",
        "etc/systemd/system/multi-user.target.wants/hearth-agent.service",
        "usr/bin/curl",
    ]));
    let image = output(
        &directory,
        "debian",
        &[("rootfs.tar", fs::read(&tar).unwrap())],
    );
    remove(&tar);
    let check = "systemctl is-active hearth-agent.service && ! command -v curl";
    has_results(&directory, &image, check, &[]);
}
