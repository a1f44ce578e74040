//! The same tree through each format gives the same image.

use std::fs;

use common::{succeed, wait_for};

use super::fixture::Bench;

/// How each format is made of `tree`, and what it loses of it.
const FORMATS: [(&str, &str); 15] = [
    ("a.tar", "tar -C tree --numeric-owner -cf a.tar ."),
    (
        "b.tar",
        "tar -C tree --numeric-owner --format=pax -cf b.tar .",
    ),
    (
        "c.tar",
        "tar -C tree --numeric-owner --format=gnu -cf c.tar .",
    ),
    (
        "d.tar",
        "tar -C tree --numeric-owner --format=pax --sort=name -cf d.tar .",
    ),
    (
        "e.tar",
        "tar -C tree --numeric-owner --sparse --format=gnu -cf e.tar .",
    ),
    (
        "f.tar",
        "tar -C tree --numeric-owner --sparse --format=pax --sparse-version=0.0 -cf f.tar .",
    ),
    (
        "g.tar",
        "tar -C tree --numeric-owner --sparse --format=pax --sparse-version=0.1 -cf g.tar .",
    ),
    (
        "h.tar",
        "tar -C tree --numeric-owner --sparse --format=pax --sparse-version=1.0 -cf h.tar .",
    ),
    ("a.tar.gz", "gzip -k a.tar"),
    ("a.tar.xz", "xz -k a.tar"),
    ("a.tar.zst", "zstd -q a.tar"),
    (
        "a.cpio",
        "cd tree && find . -print0 | cpio -0 -o -H newc --quiet > ../a.cpio",
    ),
    ("a.cpio.gz", "gzip -k a.cpio"),
    ("a.sqfs", "mksquashfs tree a.sqfs -quiet -no-progress"),
    (
        "b.sqfs",
        "mksquashfs tree b.sqfs -comp xz -no-fragments -quiet -no-progress",
    ),
];

#[test]
fn every_archive_of_a_tree_gives_the_same_image_as_the_directory() {
    let bench = Bench::new();
    let of_directory = bench.imported("tree", "out");
    assert_eq!(of_directory.arch.debian(), "armhf");
    let tree = bench.tree();
    for (name, script) in FORMATS {
        bench.shell(script);
        let made = bench.imported(name, "out");
        assert_eq!(made.image, of_directory.image, "{name}\n{}", {
            let other = bench.imported("tree", "other");
            format!(
                "{}\n{}\n{}",
                bench.listed(&bench.path("out/rootfs.tar")),
                bench.listed(&bench.path("other/rootfs.tar")),
                other.image
            )
        });
        let hash = common::sha256(fs::read(bench.path(name)).unwrap());
        assert_eq!(made.sources["rootfs"].sha256, hash);
        assert_eq!(made.sources["rootfs"].path, name);
        assert!(made.lock.is_none());
    }
    // GNU tar makes the same tree of it.
    let back = bench.path("back");
    fs::create_dir(&back).unwrap();
    succeed(
        common::oracle("tar")
            .arg("-xpf")
            .arg(bench.path("out/rootfs.tar"))
            .arg("-C")
            .arg(&back),
    );
    let listing = |root: &std::path::Path| {
        let output = succeed(
            common::oracle("find")
                .args([".", "-printf", "%P %y %#m %U:%G %T@ %n %s %l\n"])
                .current_dir(root),
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<String> = text
            .lines()
            // Directories have sizes of their own on each file system.
            .filter(|line| !line.contains(" d "))
            .map(String::from)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(listing(&tree), listing(&back));
    succeed(
        common::oracle("diff")
            .args(["-r", "--no-dereference", "--exclude=pipe"])
            .arg(&tree)
            .arg(&back),
    );
}

#[test]
fn ext_file_systems_of_each_kind_give_the_same_files() {
    let bench = Bench::new();
    // Its owner and time are not taken from the tree's by mke2fs -d.
    let of_directory = bench.imported("tree", "out");
    for (name, options) in [
        ("a.ext4", "-t ext4"),
        ("b.ext4", "-t ext4 -b 1024 -O ^metadata_csum,^64bit"),
        (
            "c.ext4",
            "-t ext4 -b 4096 -I 128 -O ^metadata_csum,^dir_index",
        ),
        ("d.ext4", "-t ext3"),
        ("e.ext4", "-t ext2 -b 1024"),
    ] {
        bench.shell(&format!(
            "truncate -s 32M {name} && mke2fs -q {options} -d tree {name} && \
             debugfs -w -R 'set_inode_field / mtime @1500000000' {name} 2>/dev/null && e2fsck -fn {name} >/dev/null 2>&1"
        ));
        let made = bench.imported(name, "other");
        let diff = common::run(
            common::hearth()
                .args(["diff", "out", "other"])
                .current_dir(bench.dir.path()),
        );
        let told = String::from_utf8_lossy(&diff.stdout);
        assert_eq!(told, "", "{name}");
        assert_eq!(made.image, of_directory.image, "{name}");
    }
}

#[test]
fn capabilities_and_other_attributes_survive_where_the_format_has_them() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    fs::write(bench.path("tree/capable"), "x").unwrap();
    // A value with a line end in it, which would end a record for a reader that looks for lines.
    let value = b"\x01\x00\x00\x02\x0a\x20\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00";
    let long = vec![b'y'; 200];
    xattr::set(bench.path("tree/capable"), "security.capability", value).unwrap();
    let user = xattr::set(bench.path("tree/capable"), "user.a", b"1\n2");
    if user.is_ok() {
        xattr::set(bench.path("tree/capable"), "user.long", &long).unwrap();
    }
    bench.shell("find tree -exec touch -h -d @1500000000 {} +");
    let of_directory = bench.imported("tree", "out");
    bench.shell(
        "tar -C tree --xattrs --xattrs-include='*' -cf x.tar . && \
         mksquashfs tree x.sqfs -quiet -no-progress && \
         truncate -s 32M x.ext4 && mke2fs -q -t ext4 -d tree x.ext4 && \
         debugfs -w -R 'set_inode_field / mtime @1500000000' x.ext4 2>/dev/null",
    );
    for name in ["x.tar", "x.sqfs", "x.ext4"] {
        assert_eq!(
            bench.imported(name, "other").image,
            of_directory.image,
            "{name}"
        );
    }
    let back = bench.path("back");
    fs::create_dir(&back).unwrap();
    bench.shell("tar --xattrs --xattrs-include='*' -xpf out/rootfs.tar -C back");
    let read = |name: &str| xattr::get(back.join("capable"), name).unwrap();
    assert_eq!(read("security.capability").as_deref(), Some(&value[..]));
    if user.is_ok() {
        assert_eq!(read("user.a").as_deref(), Some(&b"1\n2"[..]));
        assert_eq!(read("user.long").as_deref(), Some(&long[..]));
    }
}

#[test]
fn devices_are_kept_with_their_numbers_and_sockets_are_told() {
    if !nix::unistd::geteuid().is_root() {
        // No user namespace makes devices: the other tests cover everything else.
        return;
    }
    let bench = Bench::new();
    let made = bench.shell(
        "cd tree/dev && (mknod c c 5 1 && mknod b b 8 300 && mknod m c 300 70000) 2>&1 || echo no",
    );
    if String::from_utf8_lossy(&made.stdout).contains("no") {
        return;
    }
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("tree/dev/log")).unwrap();
    bench.shell("find tree -exec touch -h -d @1500000000 {} +");
    let output = succeed(&mut bench.import("tree", "out"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("sockets, which no tar can hold, are left out: /dev/log"),
        "{told}"
    );
    let listed = bench.listed(&bench.path("out/rootfs.tar"));
    for device in ["5,1 ", "8,300 ", "300,70000 "] {
        assert!(listed.contains(device), "{device}: {listed}");
    }
    bench.shell(
        "cd tree && find . -print0 | cpio -0 -o -H newc --quiet > ../d.cpio && cd .. && \
         mksquashfs tree d.sqfs -quiet -no-progress && \
         truncate -s 32M d.ext4 && mke2fs -q -t ext4 -d tree d.ext4 && \
         debugfs -w -R 'set_inode_field / mtime @1500000000' d.ext4 2>/dev/null",
    );
    for name in ["d.cpio", "d.sqfs", "d.ext4"] {
        let output = succeed(&mut bench.import(name, "other"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("are left out: /dev/log"), "{name}: {told}");
        let (ours, others) = ("out/rootfs.tar", "other/rootfs.tar");
        assert_eq!(
            bench.listed(&bench.path(ours)),
            bench.listed(&bench.path(others)),
            "{name}"
        );
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_whatever_the_surroundings() {
    let bench = Bench::new();
    bench.shell("tar -C tree -cf a.tar .");
    let first = bench.imported("a.tar", "out");
    bench.shell("mkdir 'else where' && cp a.tar 'else where/b.tar'");
    let mut command = bench.import("else where/b.tar", "again");
    command
        .env("HEARTH_CACHE", bench.path("another cache"))
        .env("TZ", "Pacific/Kiritimati")
        .env("LC_ALL", "C")
        .env("SOURCE_DATE_EPOCH", "1");
    let program = command.get_program().to_os_string();
    let mut shell = common::oracle("sh");
    shell
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(program);
    shell.args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    succeed(shell.current_dir(bench.dir.path()));
    let again = hearth::image::Manifest::load(&bench.path("again")).unwrap();
    assert_eq!(first.image, again.image);
    assert_eq!(first.recipe.sha256, again.recipe.sha256);
    assert_eq!(
        fs::read(bench.path("out/rootfs.tar")).unwrap(),
        fs::read(bench.path("again/rootfs.tar")).unwrap()
    );
}

#[test]
fn an_import_again_comes_from_the_cache_and_a_changed_input_or_cache_does_not() {
    let bench = Bench::new();
    bench.shell("tar -C tree -cf a.tar .");
    let again = |out: &str| {
        let output = succeed(&mut bench.import("a.tar", out));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(again("out").contains("import "));
    let before = fs::read(bench.path("out/rootfs.tar")).unwrap();
    let told = again("out");
    assert!(
        told.contains("is up to date") && !told.contains("import  "),
        "{told}"
    );
    let told = again("out2");
    assert!(
        told.contains("wrote out2") && !told.contains("import  "),
        "{told}"
    );
    // Somebody writes into the output, which is a link to the cache's.
    let file = fs::File::options()
        .write(true)
        .open(bench.path("out/rootfs.tar"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"XXXX", 5000).unwrap();
    drop(file);
    again("out");
    assert_eq!(fs::read(bench.path("out/rootfs.tar")).unwrap(), before);
    // The file has another content under the same name and with the same size and time.
    let stamp = fs::metadata(bench.path("a.tar"))
        .unwrap()
        .modified()
        .unwrap();
    bench.shell("sed -i s/hello/HELLO/ a.tar");
    let file = fs::File::options()
        .write(true)
        .open(bench.path("a.tar"))
        .unwrap();
    file.set_modified(stamp).unwrap();
    drop(file);
    wait_for("another image", || !again("out").contains("is up to date"));
    assert_ne!(fs::read(bench.path("out/rootfs.tar")).unwrap(), before);
}
