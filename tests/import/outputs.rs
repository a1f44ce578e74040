//! What else an import makes of a root, and that the other commands take its output.

use std::fs;

use common::{hearth, oracle, run, succeed};
use hearth::image::Manifest;

use super::fixture::Bench;

#[test]
fn kernel_and_device_trees_come_from_the_root_or_from_files() {
    let bench = Bench::new();
    bench.shell(
        "cd tree && mkdir -p boot usr/lib/linux-image-6.1.0-1-armmp/sub lib && ln -sfn ../usr/lib/modules lib/modules; \
         echo kernel > boot/vmlinuz-6.1.0-1-armmp && echo dtb > usr/lib/linux-image-6.1.0-1-armmp/a.dtb && \
         echo neo > usr/lib/linux-image-6.1.0-1-armmp/sub/sun8i-h3-nanopi-neo.dtb",
    );
    let made = bench.imported("tree", "out");
    assert_eq!(made.kernel.as_deref(), Some("6.1.0-1-armmp"));
    assert_eq!(fs::read(bench.path("out/vmlinuz")).unwrap(), b"kernel\n");
    assert_eq!(fs::read(bench.path("out/dtb/a.dtb")).unwrap(), b"dtb\n");
    // Under the place where the board type looks for it, too.
    assert_eq!(
        fs::read(bench.path("out/dtb/sun8i-h3-nanopi-neo.dtb")).unwrap(),
        b"neo\n"
    );

    // Enough of a zImage for its magic number (arch/arm/boot/compressed/head.S).
    bench.shell(
        "head -c 36 /dev/zero > zImage; printf '\\030\\050\\157\\001' >> zImage; gzip -k zImage; \
         echo tree > b.dtb; mkdir trees && cp b.dtb trees/c.dtb",
    );
    succeed(bench.import("tree", "out").args([
        "--kernel",
        "zImage",
        "--release",
        "6.6.6",
        "--dtb",
        "b.dtb",
    ]));
    let given = Manifest::load(&bench.path("out")).unwrap();
    assert_eq!(given.kernel.as_deref(), Some("6.6.6"));
    let zimage = fs::read(bench.path("zImage")).unwrap();
    assert_eq!(fs::read(bench.path("out/vmlinuz")).unwrap(), zimage);
    assert_eq!(fs::read_dir(bench.path("out/dtb")).unwrap().count(), 1);
    assert_eq!(given.sources["kernel"].sha256, common::sha256(&zimage));
    assert_eq!(given.sources["dtb"].path, "b.dtb");
    assert_ne!(given.image, made.image);
    succeed(bench.import("tree", "out").args(["--dtb", "trees"]));
    assert!(bench.path("out/dtb/c.dtb").exists());

    bench.shell("cp tree/boot/vmlinuz-6.1.0-1-armmp tree/boot/vmlinuz-6.1.0-2-armmp");
    bench.refuses("tree", "has 2 kernels: 6.1.0-1-armmp, 6.1.0-2-armmp");
    succeed(
        bench
            .import("tree", "out")
            .args(["--release", "6.1.0-2-armmp"]),
    );
    // The usual link says which is the default one.
    bench.shell("ln -s boot/vmlinuz-6.1.0-1-armmp tree/vmlinuz");
    assert_eq!(
        bench.imported("tree", "out").kernel.as_deref(),
        Some("6.1.0-1-armmp")
    );

    bench.shell(
        "cp /bin/true vmlinux; printf '\\047\\005\\031\\126' > uImage; echo x > text; mkdir none",
    );
    for (option, file, says) in [
        ("--kernel", "vmlinux", "it is an ELF file such as vmlinux"),
        ("--kernel", "uImage", "cannot use uImage as a kernel"),
        ("--kernel", "text", "it is no kernel that hearth knows"),
        ("--modules", "none", "has no kernel modules"),
        ("--kernel", "none", "it is a directory"),
        ("--dtb", "none", "has no device tree"),
        ("--initrd", "text", "cannot use text as an initrd"),
        ("--bootloader", "none", "no bootloader of any board type"),
    ] {
        bench.refuses_with(
            bench.import("tree", "refused").args([option, file]),
            2,
            says,
        );
    }
}

#[test]
fn an_initrd_is_taken_or_it_is_told_what_the_root_lacks_for_one() {
    let bench = Bench::new();
    bench.shell("mkdir -p tree/boot tree/usr/lib/modules/6.1.0 && ln -s usr/lib tree/lib && echo kernel > tree/boot/vmlinuz-6.1.0");
    let output = succeed(&mut bench.import("tree", "out"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("there is no initrd") && told.contains("--initrd"),
        "{told}"
    );
    assert!(!bench.path("out/initrd.img").exists());
    bench.shell("mkdir i && echo x > i/init && (cd i && find . | cpio -o -H newc --quiet | gzip > ../given.img)");
    succeed(bench.import("tree", "out").args(["--initrd", "given.img"]));
    assert_eq!(
        fs::read(bench.path("out/initrd.img")).unwrap(),
        fs::read(bench.path("given.img")).unwrap()
    );
    // As U-Boot's own program sees it.
    let listed = succeed(oracle("dumpimage").arg("-l").arg(bench.path("out/uInitrd")));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("RAMDisk Image"));
}

#[test]
fn what_belongs_to_the_caller_becomes_roots_when_asked() {
    let bench = Bench::new();
    succeed(bench.import("tree", "out").arg("--owner-root"));
    let listed = bench.listed(&bench.path("out/rootfs.tar"));
    assert!(
        listed.lines().all(|line| line.contains(" 0/0 ")),
        "{listed}"
    );
    bench.imported("tree", "other");
    let owner = format!(" {}/{} ", nix::unistd::geteuid(), nix::unistd::getegid());
    let listed = bench.listed(&bench.path("other/rootfs.tar"));
    assert!(listed.lines().all(|line| line.contains(&owner)), "{listed}");
}

#[test]
fn an_older_output_is_replaced_whole_and_diff_provision_and_media_take_it() {
    let bench = Bench::new();
    let first = bench.imported("tree", "out/it");
    fs::write(bench.path("tree/etc/motd"), "changed\n").unwrap();
    let second = bench.imported("tree", "out/it");
    assert_ne!(first.image, second.image);
    bench.imported("tree", "same");
    let diff = |from: &str, to: &str| {
        run(hearth()
            .args(["diff", from, to])
            .current_dir(bench.dir.path()))
    };
    assert_eq!(diff("same", "out/it").status.code(), Some(0));
    if !common::runs_as_root() {
        return;
    }
    let mut provision = hearth();
    provision
        .args(["provision", "it", "--to"])
        .arg(bench.path("nfs"))
        .current_dir(bench.dir.path());
    succeed(&mut provision);
    let laid_out = bench.path("nfs").join(&second.image);
    assert_eq!(fs::read(laid_out.join("etc/motd")).unwrap(), b"changed\n");
    succeed(provision.arg("--check"));
}

#[test]
fn it_is_served_by_nfs_as_libnfs_reads_it() {
    let bench = Bench::new();
    bench.imported("tree", "out/it");
    let image = Manifest::load(&bench.path("out/it")).unwrap().image;
    let port = 20000 + (std::process::id() % 20000) as u16;
    fs::write(
        bench.path("lab.toml"),
        format!(
            "[lab]\nname = \"t\"\naddress = \"127.0.0.1\"\nallow = [\"127.0.0.0/8\"]\n\
             ports = {{ tftp = {}, http = {}, nfs = {}, mount = {}, portmap = 0 }}\n\
             [[board]]\nname = \"b\"\ntype = \"nanopi-neo\"\nmac = \"02:00:5e:10:00:01\"\nrecipe = \"it\"\n",
            port,
            port + 1,
            port + 2,
            port + 3
        ),
    )
    .unwrap();
    let mut server = hearth()
        .args(["serve", "--lab", "lab.toml", "--images", "out"])
        .env("HEARTH_STATE", bench.path("state"))
        .current_dir(bench.dir.path())
        .spawn()
        .unwrap();
    let url = |path: &str| {
        format!(
            "nfs://127.0.0.1/{image}{path}?nfsport={}&mountport={}&version=3",
            port + 2,
            port + 3
        )
    };
    let listing = || run(oracle("nfs-ls").arg(url("/etc")));
    common::wait_for("the server", || listing().status.success());
    let told = String::from_utf8_lossy(&listing().stdout).into_owned();
    let content = succeed(oracle("nfs-cat").arg(url("/etc/motd")));
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(told.contains("motd"), "{told}");
    assert_eq!(content.stdout, b"hello\n");
}
