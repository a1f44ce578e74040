//! Initrds against cpio, lsinitramfs, modprobe and Linux itself in QEMU.
//!
//! The boots need an image: that of `hearth build`, from its cache or the mirror.

mod common;
#[path = "common/guest.rs"]
mod guest;
#[path = "common/nfs.rs"]
mod nfs_server;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::{fail, hearth, oracle, succeed};
use guest::Guest;
use nfs_server::{ID, NfsServer};

/// A directory of the test run that lasts until the next.
fn work(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("initrd")
        .join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The directory of a built image of an architecture, in which root has no password.
fn built(arch: &'static str) -> PathBuf {
    static ARMHF: OnceLock<PathBuf> = OnceLock::new();
    static ARM64: OnceLock<PathBuf> = OnceLock::new();
    let cell = if arch == "armhf" { &ARMHF } else { &ARM64 };
    cell.get_or_init(|| {
        let directory = work(arch);
        let recipe = recipe(arch, &directory);
        let out = directory.join("out");
        succeed(hearth().arg("build").arg(&recipe).arg("-o").arg(&out));
        out
    })
    .clone()
}

/// A recipe as those that hearth ships, but with a root that anybody may be.
fn recipe(arch: &str, directory: &Path) -> PathBuf {
    let shipped = common::repository().join(format!("recipes/trixie-{arch}.toml"));
    let mut text = fs::read_to_string(shipped).unwrap();
    text.push_str("\n[[user]]\nname = \"root\"\npassword-hash = \"\"\n");
    let path = directory.join(format!("initrd-{arch}.toml"));
    fs::write(&path, text).unwrap();
    path
}

/// Builds the initrd of the built image for one board type; returns its path.
fn initrd(arch: &'static str, board_type: &str, name: &str) -> PathBuf {
    let directory = work(arch);
    let out = directory.join(name);
    let root = built(arch).join("rootfs.tar");
    succeed(&mut native(
        board_type,
        &root,
        &recipe(arch, &directory),
        &out,
    ));
    out
}

/// The command that builds a recipe's native initrd of an image's tar for one board type.
fn native(board_type: &str, root: &Path, recipe: &Path, out: &Path) -> Command {
    let mut command = hearth();
    command
        .args(["initrd", "--board", board_type, "--root"])
        .arg(root)
        .arg("-o")
        .arg(out)
        .arg(recipe);
    command
}

/// The distribution's initrd of the built image, for all board types; made once, since it takes minutes.
fn distribution_initrd(arch: &'static str) -> PathBuf {
    static ARMHF: OnceLock<PathBuf> = OnceLock::new();
    static ARM64: OnceLock<PathBuf> = OnceLock::new();
    let cell = if arch == "armhf" { &ARMHF } else { &ARM64 };
    cell.get_or_init(|| {
        let out = built(arch).with_file_name("distribution.img");
        succeed(
            hearth()
                .args(["initrd", "--builder", "chroot", "-o"])
                .arg(&out)
                .arg(recipe(arch, &work(arch))),
        );
        out
    })
    .clone()
}

/// The kernel arguments that name a server; 10.0.2.2 is the host's loopback in QEMU's user network.
fn nfs_arguments(server: &NfsServer) -> String {
    let port = server.address.port();
    format!(
        "root=/dev/nfs nfsroot=10.0.2.2:/{ID},vers=3,proto=tcp,nolock,port={port},mountport={port} \
         hearth.board=alpha {PATIENT}"
    )
}

/// An emulated board on a busy machine is slower than systemd and the kernel believe a board can be.
const PATIENT: &str = "systemd.default_timeout_start_sec=1800 systemd.default_device_timeout_sec=1800 \
                       rcupdate.rcu_cpu_stall_timeout=300 watchdog_thresh=60";

/// How an emulator starts a kernel directly, without a bootloader.
struct Emulator {
    program: &'static str,
    machine: &'static [&'static str],
    console: &'static str,
    device_tree: Option<&'static str>,
}

const VIRT_ARM: Emulator = Emulator {
    program: "qemu-system-arm",
    // Without LPAE the kernel cannot reach a PCI bus above 4 GiB.
    machine: &[
        "-M",
        "virt,highmem=off",
        "-cpu",
        "cortex-a15",
        "-m",
        "512",
        "-nic",
        "user,model=virtio-net-pci",
    ],
    console: "ttyAMA0",
    device_tree: None,
};
const VIRT_ARM64: Emulator = Emulator {
    program: "qemu-system-aarch64",
    machine: &[
        "-M",
        "virt",
        "-cpu",
        "cortex-a53",
        "-m",
        "512",
        "-nic",
        "user,model=virtio-net-pci",
    ],
    console: "ttyAMA0",
    device_tree: None,
};
const NANOPI_NEO: Emulator = Emulator {
    program: "qemu-system-arm",
    machine: &["-M", "orangepi-pc", "-m", "1024", "-nic", "user"],
    console: "ttyS0,115200",
    device_tree: Some("sun8i-h3-nanopi-neo.dtb"),
};

impl Emulator {
    fn boot(&self, arch: &'static str, initrd: &Path, arguments: &str, name: &str) -> Guest {
        self.boot_with(&[], arch, initrd, arguments, name)
    }

    /// With further devices.
    fn boot_with(
        &self,
        devices: &[&str],
        arch: &'static str,
        initrd: &Path,
        arguments: &str,
        name: &str,
    ) -> Guest {
        let image = built(arch);
        let mut command = oracle(self.program);
        command
            .args(self.machine)
            .args([
                "-display",
                "none",
                "-serial",
                "stdio",
                "-monitor",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!("console={} {arguments}", self.console));
        if let Some(tree) = self.device_tree {
            command.arg("-dtb").arg(image.join("dtb").join(tree));
        }
        command.args(devices);
        Guest::start(&mut command, "initrd", name)
    }
}

/// An emulated board has the machine to itself.
fn alone() -> MutexGuard<'static, ()> {
    static EMULATOR: Mutex<()> = Mutex::new(());
    EMULATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Boots to a login over NFS, looks around as root, and switches off.
fn boots_and_powers_off(emulator: &Emulator, arch: &'static str, initrd: &Path, name: &str) {
    boots_and_ends(emulator, arch, initrd, name, ("poweroff", "Power down"));
}

/// As [`boots_and_powers_off`], with what is typed at the end, and what the kernel then says last.
fn boots_and_ends(
    emulator: &Emulator,
    arch: &'static str,
    initrd: &Path,
    name: &str,
    (command, last): (&str, &str),
) {
    let _alone = alone();
    let server = NfsServer::start(&built(arch).join("rootfs.tar"), &["127.0.0.0/8"]);
    let arguments = format!("{} ip=dhcp", nfs_arguments(&server));
    let mut guest = emulator.boot(arch, initrd, &arguments, name);
    guest.expect(&format!("hearth: mounting 10.0.2.2:/{ID}"));
    guest.expect("alpha login:");
    guest.insist("root", "root@alpha:");
    // Written so that the echo of the line does not look like its answer.
    guest.insist(
        "echo root:$(findmnt -no FSTYPE /):$(echo new >/probe && cat /probe):end",
        "root:overlay:new:end",
    );
    guest.insist(
        "echo unit:$(grep -c KeepConfiguration=yes /run/systemd/network/05-hearth-root.network):end",
        "unit:1:end",
    );
    guest.insist(command, last);
    guest.expect_end();
}

#[test]
fn qemu_virt_arm_boots_over_nfs_and_powers_off() {
    let initrd = initrd("armhf", "qemu-virt-arm", "qemu-virt-arm.img");
    boots_and_powers_off(&VIRT_ARM, "armhf", &initrd, "native-qemu-virt-arm");
}

#[test]
fn a_server_that_does_not_answer_ends_in_a_message_and_a_reboot() {
    let initrd = initrd("armhf", "qemu-virt-arm", "broken-server.img");
    // Port 1 of loopback refuses connections.
    let arguments = "root=/dev/nfs nfsroot=10.0.2.2:/image,vers=3,proto=tcp,nolock,port=1,mountport=1 \
                     ip=10.0.2.15:::255.255.255.0::eth0:off hearth.panic=2";
    let _alone = alone();
    let mut guest = VIRT_ARM.boot("armhf", &initrd, arguments, "native-broken-server");
    guest.expect("hearth: eth0 has 10.0.2.15/24 (static)");
    guest.expect("again in 1 s");
    guest.expect("again in 13 s");
    guest.expect("hearth: FAILED in stage 'mount': ");
    guest.expect("hearth: rebooting in 2 s");
    // -no-reboot: the emulator ends where a board would start again.
    guest.expect_end();
    assert!(
        guest
            .text()
            .contains("mounting 10.0.2.2:/image on /lower failed")
    );
}

/// A file system of ext4 whose only program is the initrd's own shell, which runs this as its init.
fn disk(directory: &Path, initrd: &Path, init: &str) -> PathBuf {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    for below in ["sbin", "dev", "proc", "sys", "run"] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    let unpacked = directory.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
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
    let disk = directory.join("disk.ext4");
    let _ = fs::remove_file(&disk);
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
    let mut guest = VIRT_ARM.boot_with(&devices, "armhf", &initrd, arguments, "native-disk");
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
    let mut guest = NANOPI_NEO.boot_with(&devices, "armhf", &initrd, arguments, "native-card");
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
    let unpacked = oracle("tar")
        .arg("-C")
        .arg(&root)
        .args(["--numeric-owner", "-xpf"])
        .arg(image.join("rootfs.tar"))
        .status();
    assert!(unpacked.unwrap().success());
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
    let mut guest = Guest::start(
        oracle("qemu-system-arm")
            .args([
                "-M",
                "virt",
                "-cpu",
                "cortex-a15",
                "-m",
                "512",
                "-nic",
                "none",
            ])
            .args([
                "-display",
                "none",
                "-serial",
                "stdio",
                "-monitor",
                "none",
                "-no-reboot",
            ])
            .args([
                "-drive",
                &drive,
                "-device",
                "virtio-blk-device,drive=card",
                "-bios",
            ])
            .arg(uboot),
        "initrd",
        "native-local",
    );
    guest.expect("hearth: qemu-virt-arm boots /vmlinuz from virtio 0:2");
    guest.expect("root=PARTUUID=12345678-02 rootwait");
    guest.expect("hearth: mounting /dev/vda2 (ext4)");
    guest.expect("qemu-virt-arm login:");
}

#[test]
fn a_name_that_nobody_knows_is_told_and_a_shell_comes_before_the_reboot() {
    let initrd = initrd("armhf", "qemu-virt-arm", "unknown-server.img");
    let arguments = "root=/dev/nfs nfsroot=no-such-server.invalid:/image ip=dhcp hearth.break=panic \
                     hearth.panic=1";
    let _alone = alone();
    let mut guest = VIRT_ARM.boot("armhf", &initrd, arguments, "native-unknown-server");
    guest.expect(
        "hearth: FAILED in stage 'mount': the name of the NFS server, no-such-server.invalid, \
         cannot be resolved",
    );
    guest.expect("hearth: a shell before stage 'panic'");
    guest.insist("echo shell:$((40 + 2)); exit", "shell:42");
    guest.expect("hearth: rebooting in 1 s");
    guest.expect_end();
}

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
    let shown = succeed(hearth().args(["initrd", "show", "--json"]).arg(&one));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
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
    common::run(
        Command::new("sh")
            .args(["-c", &script])
            .current_dir(&theirs),
    );
    let _ = fs::remove_file(theirs.join("dev/console"));
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
    let shown = succeed(hearth().args(["initrd", "show", "--json"]).arg(&out));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
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

/// Name, mode, content; a link's content is its target.
type Member<'a> = (&'a str, u32, &'a [u8]);

/// A cpio archive of these names.
fn archive(entries: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, data) in entries {
        let builder = cpio::newc::Builder::new(name).mode(*mode);
        let mut writer = builder.write(out, data.len() as u32);
        writer.write_all(data).unwrap();
        out = writer.finish().unwrap();
    }
    cpio::newc::trailer(out).unwrap()
}

#[test]
fn nothing_escapes_the_directory_of_extract() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let link = outside.to_str().unwrap();
    let hostile: [(&[Member<'_>], &str); 3] = [
        (&[("../outside/a", 0o100_644, b"x")], "a name with `..`"),
        (
            &[
                ("way", 0o120_777, link.as_bytes()),
                ("way/a", 0o100_644, b"x"),
            ],
            "lies below `way`",
        ),
        (
            &[("d", 0o040_755, b""), ("d", 0o120_777, link.as_bytes())],
            "takes the place of a directory",
        ),
    ];
    for (number, (entries, says)) in hostile.iter().enumerate() {
        let file = directory.path().join(format!("{number}.img"));
        fs::write(&file, archive(entries)).unwrap();
        let target = directory.path().join("target");
        fail(
            hearth().args(["initrd", "extract"]).arg(&file).arg(&target),
            2,
            says,
        );
        assert!(!target.exists());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
    // An absolute name, and a link that something later replaces by a file, stay inside.
    let file = directory.path().join("tame.img");
    let entries: &[Member<'_>] = &[
        ("/etc/passwd", 0o100_644, b"mine"),
        ("link", 0o120_777, b"outside/b"),
        ("link", 0o100_644, b"file"),
    ];
    fs::write(&file, archive(entries)).unwrap();
    let target = directory.path().join("tame");
    succeed(hearth().args(["initrd", "extract"]).arg(&file).arg(&target));
    assert_eq!(fs::read(target.join("etc/passwd")).unwrap(), b"mine");
    assert_eq!(fs::read(target.join("link")).unwrap(), b"file");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_truncated_initrd_is_refused_by_show() {
    let directory = tempfile::tempdir().unwrap();
    let whole = archive(&[("a", 0o100_644, b"1234"), ("b", 0o100_644, b"12345")]);
    let file = directory.path().join("cut.img");
    for length in [0, 5, 100, 113, whole.len() - 40] {
        fs::write(&file, &whole[..length]).unwrap();
        fail(
            hearth().args(["initrd", "show"]).arg(&file),
            2,
            "cannot read the initrd",
        );
    }
}

#[test]
fn the_shell_scripts_are_clean() {
    let scripts = [
        "init.sh",
        "ip.sh",
        "root.sh",
        "udhcpc.sh",
        "initramfs/bottom.sh",
        "initramfs/functions.sh",
        "initramfs/hook.sh",
        "initramfs/init-top.sh",
        "initramfs/nfs.sh",
    ]
    .map(|name| common::repository().join("src/initrd").join(name));
    succeed(oracle("shellcheck").args(["-s", "sh"]).args(scripts));
}

/// A recipe whose initrd the distribution makes, with hooks and scripts of its own; small, so that it takes less long.
fn recipe_with_hooks(hook: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(recipe("armhf", directory.path())).unwrap();
    let path = directory.path().join("hooked.toml");
    let initrd = "builder = \"chroot\"\nmodule-set = \"list\"\n\
                  hooks = \"initramfs/hooks\"\nscripts = \"initramfs/scripts\"\n";
    fs::write(
        &path,
        format!("boards = [\"qemu-virt-arm\"]\n{text}\n[initrd]\n{initrd}"),
    )
    .unwrap();
    let own = directory.path().join("initramfs");
    for (name, text) in [("hooks/own", hook), ("scripts/init-top/own", "#!/bin/sh\n")] {
        let path = own.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    (directory, path)
}

#[test]
fn a_recipes_hooks_run_in_mkinitramfs_and_the_bytes_are_the_same_again() {
    let hook = "#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\nmkdir -p \"$DESTDIR/etc\"\ndate +%N >/tmp/x\n\
                echo \"$DPKG_ARCH\" >\"$DESTDIR/etc/own\"\n";
    let (directory, path) = recipe_with_hooks(hook);
    let build = |name: &str| {
        let out = directory.path().join(name);
        succeed(hearth().arg("initrd").arg(&path).arg("-o").arg(&out));
        out
    };
    let one = build("one.img");
    // No part of the initrd, but another input: mkinitramfs runs once more.
    fs::write(directory.path().join("initramfs/hooks/README"), "text\n").unwrap();
    let two = build("two.img");
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());

    let listed = succeed(oracle("lsinitramfs").arg(&one));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in [
        "etc/own",
        "scripts/init-top/own",
        "scripts/nfs-bottom/hearth",
    ] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
    let unpacked = directory.path().join("unpacked");
    succeed(
        hearth()
            .args(["initrd", "extract"])
            .arg(&one)
            .arg(&unpacked),
    );
    assert_eq!(fs::read(unpacked.join("etc/own")).unwrap(), b"armhf\n");
    let shown = succeed(hearth().args(["initrd", "show", "--json"]).arg(&one));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        shown["modules"]["virtio_net"]["why"],
        "named by the board type qemu-virt-arm"
    );
}

/// What takes minutes each: the other boards, and whatever runs mkinitramfs. For `make test-long`.
mod long {
    use super::*;

    #[test]
    fn nanopi_neo_boots_over_nfs_and_powers_off() {
        let initrd = initrd("armhf", "nanopi-neo", "nanopi-neo.img");
        boots_and_powers_off(&NANOPI_NEO, "armhf", &initrd, "native-nanopi-neo");
    }

    #[test]
    fn qemu_virt_arm64_boots_over_nfs_and_powers_off() {
        let initrd = initrd("arm64", "qemu-virt-arm64", "qemu-virt-arm64.img");
        boots_and_powers_off(&VIRT_ARM64, "arm64", &initrd, "native-qemu-virt-arm64");
    }

    #[test]
    fn a_reboot_ends_as_cleanly() {
        let initrd = initrd("armhf", "qemu-virt-arm", "reboot.img");
        let end = ("reboot", "reboot: Restarting system");
        boots_and_ends(&VIRT_ARM, "armhf", &initrd, "native-reboot", end);
    }

    #[test]
    fn the_distributions_initrd_boots_qemu_virt_arm_and_powers_off() {
        let initrd = distribution_initrd("armhf");
        boots_and_powers_off(&VIRT_ARM, "armhf", &initrd, "chroot-qemu-virt-arm");
    }

    #[test]
    fn the_distributions_initrd_boots_nanopi_neo_and_powers_off() {
        let initrd = distribution_initrd("armhf");
        boots_and_powers_off(&NANOPI_NEO, "armhf", &initrd, "chroot-nanopi-neo");
    }

    #[test]
    fn the_distributions_initrd_boots_qemu_virt_arm64_and_powers_off() {
        let initrd = distribution_initrd("arm64");
        boots_and_powers_off(&VIRT_ARM64, "arm64", &initrd, "chroot-qemu-virt-arm64");
    }

    #[test]
    fn the_distributions_initrd_says_so_as_well_and_reboots() {
        let initrd = distribution_initrd("armhf");
        let _alone = alone();
        let arguments = "root=/dev/nfs nfsroot=10.0.2.2:/image,vers=3,proto=tcp,nolock,port=1,mountport=1 \
                         ip=dhcp hearth.panic=2";
        let mut guest = VIRT_ARM.boot("armhf", &initrd, arguments, "chroot-broken-server");
        guest.expect("again in 13 s");
        guest.expect("hearth: FAILED in stage 'mount': ");
        guest.expect("hearth: rebooting in 2 s");
        guest.expect_end();
    }

    #[test]
    fn a_hook_that_fails_is_named_and_nothing_is_written() {
        let hook =
            "#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\necho the hook says why >&2\nexit 3\n";
        let (directory, path) = recipe_with_hooks(hook);
        let out = directory.path().join("none.img");
        let failed = fail(
            hearth().arg("initrd").arg(&path).arg("-o").arg(&out),
            2,
            "mkinitramfs failed in the image",
        );
        let failed = String::from_utf8(failed.stderr).unwrap();
        for part in ["the hook says why", "hooks/own failed"] {
            assert!(failed.contains(part), "{failed}");
        }
        assert!(!out.exists());
    }

    #[test]
    fn a_hook_that_takes_a_native_tool_along_runs_again_without() {
        let hook = "#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\nmkdir -p \"$DESTDIR/etc\"\n\
                    cp /bin/sed \"$DESTDIR/etc/own\"\n";
        let (directory, path) = recipe_with_hooks(hook);
        let out = directory.path().join("own.img");
        let output = succeed(hearth().arg("initrd").arg(&path).arg("-o").arg(&out));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("has taken the host's `etc/own`"), "{said}");
        let unpacked = directory.path().join("unpacked");
        succeed(
            hearth()
                .args(["initrd", "extract"])
                .arg(&out)
                .arg(&unpacked),
        );
        // e_machine of the ELF header: EM_ARM.
        assert_eq!(fs::read(unpacked.join("etc/own")).unwrap()[18..20], [40, 0]);
    }
}
