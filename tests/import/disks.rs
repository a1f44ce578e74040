//! Whole disk images, partitioned by sfdisk.

use common::succeed;

use super::fixture::Bench;

/// A disk of 80 MiB: a FAT, then the partitions given, each with a file of the bench in it.
fn disk(bench: &Bench, label: &str, parts: &[&str]) {
    let types = match label {
        "gpt" => "linux",
        _ => "83",
    };
    let mut table = format!(
        "label: {label}\\nstart=2048,size=16384,type={}\\n",
        match label {
            "gpt" => "uefi",
            _ => "c",
        }
    );
    for number in 0..parts.len() {
        table += &format!(
            "start={},size=40960,type={types}\\n",
            18432 + number * 40960
        );
    }
    bench.shell(&format!(
        "truncate -s 80M disk.img && printf '{table}' | sfdisk -q disk.img && \
         truncate -s 8M fat.img && mkfs.fat fat.img >/dev/null && dd if=fat.img of=disk.img bs=1M seek=1 conv=notrunc status=none"
    ));
    for (number, part) in parts.iter().enumerate() {
        let seek = (18432 + number * 40960) / 2048;
        bench.shell(&format!(
            "dd if={part} of=disk.img bs=1M seek={seek} conv=notrunc status=none"
        ));
    }
}

fn file_systems(bench: &Bench) {
    bench.shell(
        "mksquashfs tree root.sqfs -quiet -no-progress && \
         truncate -s 20M root.ext4 && mke2fs -q -t ext4 -d tree root.ext4 && \
         mkdir data && echo x > data/x && truncate -s 20M data.ext4 && mke2fs -q -t ext4 -d data data.ext4",
    );
}

#[test]
fn the_only_root_of_a_disk_is_found_whatever_the_table_and_the_compression() {
    let bench = Bench::new();
    file_systems(&bench);
    let alone = bench.imported("root.sqfs", "out");
    for label in ["dos", "gpt"] {
        disk(&bench, label, &["data.ext4", "root.sqfs"]);
        assert_eq!(
            bench.imported("disk.img", "other").image,
            alone.image,
            "{label}"
        );
    }
    bench.shell("xz -k -0 disk.img && gzip -k -1 disk.img && zstd -q disk.img");
    for name in ["disk.img.xz", "disk.img.gz", "disk.img.zst"] {
        let output = succeed(&mut bench.import(name, "other"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("squashfs in partition 3"), "{told}");
    }
    let alone = bench.imported("root.ext4", "out");
    disk(&bench, "gpt", &["root.ext4"]);
    assert_eq!(bench.imported("disk.img", "other").image, alone.image);
}

#[test]
fn two_roots_are_listed_and_one_is_chosen() {
    let bench = Bench::new();
    file_systems(&bench);
    disk(&bench, "gpt", &["root.ext4", "root.sqfs"]);
    bench.refuses("disk.img", "2 partitions that may be the root: partition 2 (ext4, 20 MiB), partition 3 (squashfs, 20 MiB)");
    bench.refuses("disk.img", "--partition NUMBER");
    let of = |number: &str| {
        succeed(
            bench
                .import("disk.img", "other")
                .args(["--partition", number]),
        );
        hearth::image::Manifest::load(&bench.path("other"))
            .unwrap()
            .image
    };
    assert_eq!(of("2"), bench.imported("root.ext4", "out").image);
    assert_eq!(of("3"), bench.imported("root.sqfs", "out").image);
    let mut missing = bench.import("disk.img", "refused");
    bench.refuses_with(
        missing.args(["--partition", "7"]),
        2,
        "no partition 7, but partition 1 (FAT",
    );
    let mut fat = bench.import("disk.img", "refused");
    bench.refuses_with(
        fat.args(["--partition", "1"]),
        2,
        "it is FAT, which hearth cannot read",
    );
}

#[test]
fn a_disk_without_a_root_lists_what_it_has() {
    let bench = Bench::new();
    file_systems(&bench);
    disk(&bench, "dos", &["data.ext4"]);
    bench.refuses("disk.img", "none of its partitions has a root file system that can be read: partition 1 (FAT, 8 MiB), partition 2 (ext4, 20 MiB)");
    bench.shell("truncate -s 20M disk.img");
    bench.refuses("disk.img", "it is cut short: partition 2");
    bench.shell("truncate -s 4M empty.img && echo 'label: dos' | sfdisk -q empty.img");
    bench.refuses("empty.img", "no partitions");
    let mut of_tar = bench.import("root.sqfs", "refused");
    bench.refuses_with(
        of_tar.args(["--partition", "1"]),
        2,
        "no disk image with partitions, but: squashfs",
    );
}

#[test]
fn logical_partitions_are_counted_as_the_kernel_counts_them() {
    let bench = Bench::new();
    file_systems(&bench);
    bench.shell(
        "truncate -s 80M disk.img && printf 'label: dos\\nstart=2048,size=16384,type=c\\nstart=18432,type=5\\nstart=20480,size=40960,type=83\\n' \
         | sfdisk -q disk.img && dd if=root.sqfs of=disk.img bs=512 seek=20480 conv=notrunc status=none",
    );
    let output = succeed(&mut bench.import("disk.img", "other"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("squashfs in partition 5"), "{told}");
}
