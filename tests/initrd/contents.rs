//! What is in an initrd, as cpio, lsinitramfs and modprobe see it.

use std::fs;

use common::{fail, hearth, oracle, remove, run, succeed};
use nix::unistd::getuid;

use crate::{built, initrd, native, recipe, show, work};

#[test]
fn the_same_image_gives_the_same_bytes_and_other_programs_read_them() {
    let one = initrd("armhf", "nanopi-neo", "one.img");
    let two = initrd("armhf", "nanopi-neo", "two.img");
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
    let listed = succeed(oracle("lsinitramfs").arg(&one));
    let mut theirs: Vec<String> = String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .map(str::to_string)
        .collect();
    let shown = show(&one);
    let mut ours: Vec<String> = shown["files"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    theirs.sort();
    ours.sort();
    assert_eq!(ours, theirs);
    let module = &shown["modules"]["dwmac_sun8i"]["why"];
    assert_eq!(module, "named by the board type nanopi-neo");
}

#[test]
fn gnu_cpio_unpacks_what_hearth_unpacks() {
    let initrd = initrd("armhf", "qemu-virt-arm", "cpio.img");
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (
        directory.path().join("ours"),
        directory.path().join("theirs"),
    );
    succeed(hearth().args(["initrd", "extract"]).arg(&initrd).arg(&ours));
    fs::create_dir(&theirs).unwrap();
    let script = format!(
        "gzip -dc {} | cpio -idm --quiet --no-preserve-owner",
        initrd.display()
    );
    // Only root may make dev/console, which `hearth initrd extract` leaves out; cpio then ends with 2 and has the rest.
    let unpacked = run(oracle("sh").args(["-c", &script]).current_dir(&theirs));
    let code = if getuid().is_root() { 0 } else { 2 };
    assert_eq!(unpacked.status.code(), Some(code), "{unpacked:?}");
    remove(&theirs.join("dev/console"));
    succeed(
        oracle("diff")
            .args(["-r", "--no-dereference"])
            .arg(&ours)
            .arg(&theirs),
    );
}

#[test]
fn modules_are_complete_as_modprobe_sees_it() {
    let initrd = initrd("armhf", "nanopi-neo", "modprobe.img");
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("ours");
    succeed(hearth().args(["initrd", "extract"]).arg(&initrd).arg(&ours));
    let all = directory.path().join("all");
    fs::create_dir(&all).unwrap();
    succeed(
        oracle("tar")
            .arg("-xf")
            .arg(built("armhf").join("rootfs.tar"))
            .arg("-C")
            .arg(&all)
            .args(["--wildcards", "*usr/lib/modules"]),
    );
    std::os::unix::fs::symlink("usr/lib", all.join("lib")).unwrap();
    let release = fs::read_dir(all.join("usr/lib/modules"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    for module in ["dwmac_sun8i", "nfsv3", "overlay", "ext4", "sunxi_mmc"] {
        let shown = succeed(
            oracle("modprobe")
                .arg("-d")
                .arg(&all)
                .arg("-S")
                .arg(&release)
                .args(["--show-depends", "--ignore-install", module]),
        );
        for line in String::from_utf8(shown.stdout)
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("insmod"))
        {
            let (_, path) = line.split_once("/kernel/").unwrap();
            let place = ours
                .join("usr/lib/modules")
                .join(&release)
                .join("kernel")
                .join(path.trim());
            assert!(
                place.is_file(),
                "{module} needs {path}, which is not in the initrd"
            );
        }
    }
}

#[test]
fn a_module_that_the_kernel_lacks_is_named_with_who_asks_for_it() {
    let directory = work("armhf");
    let text = fs::read_to_string(recipe("armhf", &directory)).unwrap();
    let wrong = directory.join("wrong.toml");
    fs::write(
        &wrong,
        format!("{text}\n[initrd]\nmodules = [\"warp-drive\"]\n"),
    )
    .unwrap();
    let out = directory.join("wrong.img");
    fail(
        &mut native(
            "qemu-virt-arm",
            &built("armhf").join("rootfs.tar"),
            &wrong,
            &out,
        ),
        2,
        "has no module warp_drive, which the recipe asks for",
    );
    assert!(!out.exists());
}

#[test]
fn firmware_comes_with_the_module_that_names_it() {
    let directory = work("firmware");
    let name = "usr/lib/firmware/rtl_nic/rtl8168d-1.fw";
    let file = directory.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "firmware").unwrap();
    fs::write(file.with_file_name("other.fw"), "nobody's").unwrap();
    let tar = directory.join("rootfs.tar");
    fs::copy(built("armhf").join("rootfs.tar"), &tar).unwrap();
    succeed(
        oracle("tar")
            .arg("-rf")
            .arg(&tar)
            .arg("-C")
            .arg(&directory)
            .arg("usr/lib/firmware"),
    );
    let text = fs::read_to_string(recipe("armhf", &directory)).unwrap();
    let with_module = directory.join("firmware.toml");
    fs::write(
        &with_module,
        format!("{text}\n[initrd]\nmodules = [\"r8169\"]\n"),
    )
    .unwrap();
    let out = directory.join("firmware.img");
    succeed(&mut native("qemu-virt-arm", &tar, &with_module, &out));
    let listed = succeed(oracle("lsinitramfs").arg(&out));
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|line| line == name), "{listed}");
    assert!(!listed.contains("other.fw"), "{listed}");
}

#[test]
fn an_initrd_for_fewer_roots_is_smaller() {
    let directory = work("armhf");
    let text = fs::read_to_string(recipe("armhf", &directory)).unwrap();
    let small = directory.join("small.toml");
    fs::write(&small, format!("{text}\n[initrd]\nroots = [\"nfs3\"]\n")).unwrap();
    let out = directory.join("small.img");
    succeed(&mut native(
        "qemu-virt-arm",
        &built("armhf").join("rootfs.tar"),
        &small,
        &out,
    ));
    let shown = show(&out);
    let modules = &shown["modules"];
    for (name, there) in [
        ("nfsv3", true),
        ("overlay", true),
        ("virtio_net", true),
        ("nfsv4", false),
        ("ext4", false),
        ("jbd2", false),
    ] {
        assert_eq!(modules[name].is_object(), there, "{name}");
    }
}
