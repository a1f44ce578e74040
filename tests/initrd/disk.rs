//! Boots from disks and cards.

use std::fs;
use std::path::{Path, PathBuf};

use common::emulator::{self, Emulator};
use common::{hearth, oracle, remove, succeed};

use crate::{NANOPI_NEO, VIRT_ARM, alone, built, initrd, work};

/// A file system of ext4 whose only program is the initrd's own shell, which runs this as its init.
fn disk(directory: &Path, initrd: &Path, init: &str) -> PathBuf {
    let (root, unpacked) = (directory.join("root"), directory.join("unpacked"));
    let disk = directory.join("disk.ext4");
    // Of the last run.
    for left in [&root, &unpacked, &disk] {
        remove(left);
    }
    for below in ["sbin", "dev", "proc", "sys", "run"] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    succeed(
        hearth()
            .args(["initrd", "extract"])
            .arg(initrd)
            .arg(&unpacked),
    );
    succeed(
        oracle("cp")
            .arg("-a")
            .arg(unpacked.join("usr"))
            .arg(unpacked.join("lib"))
            .arg(unpacked.join("bin"))
            .arg(&root),
    );
    fs::write(root.join("sbin/init"), init).unwrap();
    succeed(oracle("chmod").arg("755").arg(root.join("sbin/init")));
    succeed(
        oracle("mke2fs")
            .args(["-q", "-t", "ext4", "-L", "my-root", "-d"])
            .arg(&root)
            .arg(&disk)
            .arg("32M"),
    );
    disk
}

#[test]
fn a_disk_by_label_an_interface_by_mac_and_a_shell_before_a_stage() {
    let initrd = initrd("armhf", "qemu-virt-arm", "disk.img");
    let init = "#!/bin/sh\nmount >/dev/kmsg\necho reached >/marker && echo the init of the disk >/dev/kmsg\nreboot -f\n";
    let disk = disk(&work("disk"), &initrd, init);
    let before = fs::read(&disk).unwrap();
    let drive = format!("if=none,id=card,format=raw,file={}", disk.display());
    let devices = [
        // Not the first interface: the command line chooses it by its MAC.
        "-nic",
        "user,model=virtio-net-pci,mac=52:54:00:00:00:99",
        "-drive",
        &drive,
        "-device",
        "virtio-blk-pci,drive=card",
    ];
    let arguments = "root=LABEL=my-root ip=dhcp BOOTIF=01-52-54-00-00-00-99 hearth.break=overlay \
                     hearth.panic=2";
    let _alone = alone();
    let mut guest = VIRT_ARM.boot(&initrd, arguments, &devices, "native-disk");
    guest.expect("hearth: eth1 has 10.0.2.15/24 (dhcp)");
    guest.expect("hearth: mounting /dev/vda (ext4)");
    guest.expect("hearth: a shell before stage 'overlay'");
    guest.insist(
        "cat /sys/class/net/eth1/address /etc/hearth/modules; exit",
        "52:54:00:00:00:99",
    );
    guest.expect("the init of the disk");
    guest.expect_end();
    assert!(guest.text().contains("overlay on / type overlay"));
    assert!(
        fs::read(&disk).unwrap() == before,
        "the disk was written to"
    );
}

#[test]
fn a_partition_of_a_card_is_written_to_when_the_command_line_says_so() {
    let initrd = initrd("armhf", "nanopi-neo", "card.img");
    let directory = work("card");
    let init = "#!/bin/sh\ncat /proc/mounts >/dev/kmsg\necho written >/marker\nmount -o remount,ro /\n\
                echo the init of the card >/dev/kmsg\nreboot -f\n";
    let disk = disk(&directory, &initrd, init);
    let card = directory.join("card.img");
    let mut whole = fs::read(&disk).unwrap();
    // The first partition is a megabyte; a card's size is a power of two.
    whole.splice(0..0, std::iter::repeat_n(0, 2 << 20));
    whole.resize(64 << 20, 0);
    fs::write(&card, whole).unwrap();
    let table = directory.join("table");
    let partitions =
        "label-id: 0x1234ABCD\nstart=2048,size=2048,type=c\nstart=4096,size=65536,type=83\n";
    fs::write(&table, partitions).unwrap();
    let table = fs::File::open(&table).unwrap();
    succeed(oracle("sfdisk").arg("-q").arg(&card).stdin(table));
    let drive = format!("if=sd,format=raw,file={}", card.display());
    let arguments = "root=PARTUUID=1234abcd-02 rw hearth.overlay=none hearth.panic=2";
    let _alone = alone();
    let devices = ["-drive", &drive];
    let mut guest = NANOPI_NEO.boot(&initrd, arguments, &devices, "native-card");
    guest.expect("hearth: mounting /dev/mmcblk0p2 (ext4)");
    guest.expect("/dev/mmcblk0p2 / ext4 rw");
    guest.expect("the init of the card");
    guest.expect_end();
    fs::write(&disk, &fs::read(&card).unwrap()[2 << 20..34 << 20]).unwrap();
    let marker = succeed(oracle("debugfs").args(["-R", "cat /marker"]).arg(&disk));
    assert_eq!(marker.stdout, b"written\n");
}

/// A card as docs/boot-scripts.md has it for the `local` script: that script on a small FAT, and the image with kernel and
/// initrd in the second partition.
fn local_card(directory: &Path) -> PathBuf {
    let image = built("armhf");
    let script = ["bootscript", "qemu-virt-arm", "-t", "local", "-o", "boot"];
    succeed(hearth().args(script).current_dir(directory));
    let root = directory.join("root");
    fs::create_dir_all(&root).unwrap();
    succeed(
        oracle("tar")
            .arg("-C")
            .arg(&root)
            .args(["--numeric-owner", "-xpf"])
            .arg(image.join("rootfs.tar")),
    );
    for file in ["vmlinuz", "uInitrd"] {
        fs::copy(image.join(file), root.join(file)).unwrap();
    }
    let commands = "truncate -s 1200M card.img; truncate -s 1180M p2; rm -f fat.img
        printf 'label: dos\\nlabel-id: 0x12345678\\nstart=2048, size=16384, type=e, bootable\\nstart=20480, type=83\\n' | sfdisk -q card.img
        mkfs.vfat -F 16 -s 1 -C fat.img 8192; mcopy -i fat.img boot/boot.scr ::boot.scr
        mkfs.ext4 -q -d root p2
        dd if=fat.img of=card.img bs=1M seek=1 conv=notrunc,sparse; dd if=p2 of=card.img bs=1M seek=10 conv=notrunc,sparse
        rm -rf root p2";
    succeed(oracle("sh").args(["-euc", commands]).current_dir(directory));
    directory.join("card.img")
}

#[test]
fn the_local_script_boots_a_card_to_a_login() {
    let directory = tempfile::tempdir_in(work("local")).unwrap();
    let drive = format!(
        "if=none,id=card,format=raw,file={}",
        local_card(directory.path()).display()
    );
    let uboot = built("armhf").join("bootloader/qemu-virt-arm/usr/lib/u-boot/qemu_arm/u-boot.bin");
    let _alone = alone();
    let mut guest = Emulator::start(
        emulator::VIRT_ARM
            .command()
            .args(["-nic", "none", "-drive", &drive])
            .args(["-device", "virtio-blk-device,drive=card", "-bios"])
            .arg(uboot),
        "initrd/native-local",
    );
    guest.expect("hearth: qemu-virt-arm boots /vmlinuz from virtio 0:2");
    guest.expect("root=PARTUUID=12345678-02 rootwait");
    guest.expect("hearth: mounting /dev/vda2 (ext4)");
    guest.expect("qemu-virt-arm login:");
}
