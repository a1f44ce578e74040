//! Owns the tests of the initrd's shell functions, run by busybox on files that look like `/sys` and `/dev`. Never boots.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use common::{oracle, succeed};
use tempfile::TempDir;

/// The programs that the scripts call.
const APPLETS: [&str; 9] = [
    "awk", "blkid", "cat", "dd", "hexdump", "ipcalc", "readlink", "sed", "tr",
];

/// What a shell that sourced one of the initrd's scripts prints; its programs are busybox's, as in the initrd.
fn run(script: &str, commands: &str) -> String {
    let script = common::repository().join("src/initrd").join(script);
    let programs = tempfile::tempdir().unwrap();
    for applet in APPLETS {
        symlink("/bin/busybox", programs.path().join(applet)).unwrap();
    }
    let text = format!(". {}\n{commands}", script.display());
    let output = Command::new("/bin/busybox")
        .args(["sh", "-euc", &text])
        .env("PATH", programs.path())
        .output()
        .expect("busybox is not installed: run `make deps`");
    assert!(
        output.stderr.is_empty(),
        "{commands}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// What `ip=TEXT` means: method, address with prefix, server, gateway, host, device and name servers.
fn ip(text: &str) -> String {
    let show = "if [ -n \"$wrong\" ]; then echo \"wrong: $wrong\"; else \
                echo \"$method $client/$prefix s=$server g=$gateway h=$hostname.$domain d=$device n=$dns t=$ntp\"; fi";
    run("ip.sh", &format!("read_ip '{text}'\n{show}"))
}

/// The right values are the kernel's (net/ipv4/ipconfig.c), and for the last ones klibc's ipconfig and dracut's.
#[test]
fn ip_is_read_as_the_kernel_reads_it() {
    for (text, expected) in [
        ("", "dhcp / s= g= h=. d= n= t="),
        ("dhcp", "dhcp / s= g= h=. d= n= t="),
        ("on", "dhcp / s= g= h=. d= n= t="),
        ("any", "dhcp / s= g= h=. d= n= t="),
        ("both", "dhcp / s= g= h=. d= n= t="),
        ("bootp", "dhcp / s= g= h=. d= n= t="),
        ("dhcp,0,abc", "dhcp / s= g= h=. d= n= t="),
        ("off", "none / s= g= h=. d= n= t="),
        ("none", "none / s= g= h=. d= n= t="),
        ("static", "none / s= g= h=. d= n= t="),
        (":::::eth0:off", "none / s= g= h=. d=eth0 n= t="),
        (":::::eth0:none", "none / s= g= h=. d=eth0 n= t="),
        ("::::neo1:eth0:dhcp", "dhcp / s= g= h=neo1. d=eth0 n= t="),
        (
            "::::neo1.lab.example::on",
            "dhcp / s= g= h=neo1.lab.example d= n= t=",
        ),
        ("::::neo1", "dhcp / s= g= h=neo1. d= n= t="),
        (
            "10.0.2.50:10.1.2.3:::neo1:eth0:off",
            "static 10.0.2.50/8 s=10.1.2.3 g= h=neo1. d=eth0 n= t=",
        ),
        ("126.1.2.3:::::", "static 126.1.2.3/8 s= g= h=. d= n= t="),
        (
            "172.16.5.9::::::off",
            "static 172.16.5.9/16 s= g= h=. d= n= t=",
        ),
        (
            "191.255.0.1::::::",
            "static 191.255.0.1/16 s= g= h=. d= n= t=",
        ),
        (
            "192.168.7.9:::255.255.255.255:::",
            "static 192.168.7.9/24 s= g= h=. d= n= t=",
        ),
        ("223.0.0.1::", "static 223.0.0.1/24 s= g= h=. d= n= t="),
        (
            "10.0.2.50:10.0.2.2:10.0.2.2:255.255.255.0",
            "static 10.0.2.50/24 s=10.0.2.2 g=10.0.2.2 h=. d= n= t=",
        ),
        (
            "10.0.2.50::0.0.0.0:255.255.252.0:::any:9.9.9.9:8.8.8.8:10.0.0.1",
            "static 10.0.2.50/22 s= g= h=. d= n=9.9.9.9 8.8.8.8 t=10.0.0.1",
        ),
        (
            "0.0.0.0:0.0.0.0:::::dhcp::9.9.9.9",
            "dhcp / s= g= h=. d= n=9.9.9.9 t=",
        ),
        ("10.0.2.50", "static 10.0.2.50/8 s= g= h=. d= n= t="),
        (
            "10.0.2.50:::24::eth0:off",
            "static 10.0.2.50/24 s= g= h=. d=eth0 n= t=",
        ),
        (
            "10.0.2.50/20::::::off",
            "static 10.0.2.50/20 s= g= h=. d= n= t=",
        ),
        ("eth0:dhcp", "dhcp / s= g= h=. d=eth0 n= t="),
        ("eth0:off", "none / s= g= h=. d=eth0 n= t="),
        ("end0", "dhcp / s= g= h=. d=end0 n= t="),
    ] {
        assert_eq!(ip(text), expected, "ip={text}");
    }
    for text in [
        "10.0.2.300::::::off",
        "neo1::::::off",
        "10.0.2.5:::33:::",
        "10.0.2.5:::255.x:::",
        "224.0.0.1::::::",
        "10.0.2.5::gateway::::",
        ":::::eth0:sometimes",
        "eth0:sometimes",
        "ibft",
    ] {
        assert!(ip(text).starts_with("wrong: "), "ip={text}: {}", ip(text));
    }
}

#[test]
fn a_boot_interface_is_a_mac_with_or_without_its_type() {
    for text in [
        "01-AA-bb-CC-dd-ee-0F",
        "AA:BB:CC:DD:EE:0F",
        "aa-bb-cc-dd-ee-0f",
    ] {
        assert_eq!(run("ip.sh", &format!("mac_of {text}")), "aa:bb:cc:dd:ee:0f");
    }
}

#[test]
fn the_lease_script_guesses_a_netmask_as_ip_does() {
    let script = fs::read_to_string(common::repository().join("src/initrd/udhcpc.sh")).unwrap();
    let function = script
        .split_once("class_prefix() {")
        .and_then(|(_, rest)| rest.split_once("\n}\n"))
        .unwrap()
        .0;
    for (address, prefix) in [
        ("10.0.0.5", "8"),
        ("172.16.0.1", "16"),
        ("192.168.1.1", "24"),
    ] {
        let own = format!("class_prefix() {{{function}\n}}\nclass_prefix {address}");
        assert_eq!(run("ip.sh", &own), prefix);
        assert_eq!(run("ip.sh", &format!("class_prefix {address}")), prefix);
    }
}

/// A disk in a directory that looks like `/sys` and `/dev`: its partitions by number.
struct Disk(TempDir);

impl Disk {
    /// Partitioned by sfdisk.
    fn new(table: &str, partitions: &[u32]) -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("dev")).unwrap();
        let image = path.join("dev/vda");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let text = path.join("table");
        fs::write(&text, table).unwrap();
        succeed(
            oracle("sfdisk")
                .args(["-q", "--no-reread", "--no-tell-kernel"])
                .arg(&image)
                .stdin(fs::File::open(text).unwrap()),
        );
        let disk = Disk(directory);
        disk.device("vda", "254:0", None);
        for number in partitions {
            disk.device(
                &format!("vda{number}"),
                &format!("254:{number}"),
                Some(*number),
            );
        }
        disk
    }

    fn device(&self, name: &str, number: &str, partition: Option<u32>) {
        let root = self.0.path();
        let disk = root.join("sys/devices/block/vda");
        let place = match partition {
            None => disk,
            Some(_) => disk.join(name),
        };
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("size"), "1000\n").unwrap();
        fs::write(place.join("dev"), format!("{number}\n")).unwrap();
        let label = format!("DEVNAME={name}\nPARTNAME=part {name}\n");
        fs::write(place.join("uevent"), label).unwrap();
        if let Some(partition) = partition {
            fs::write(place.join("partition"), format!("{partition}\n")).unwrap();
        }
        let class = root.join("sys/class/block");
        fs::create_dir_all(&class).unwrap();
        symlink(&place, class.join(name)).unwrap();
    }

    /// The device that `root=TEXT` finds; nothing if none. blkid is played, since partitions are no files here.
    fn find(&self, text: &str) -> String {
        self.run(&format!("find_root '{text}' || echo nothing"))
    }

    fn run(&self, commands: &str) -> String {
        let root = self.0.path().display();
        let played = "node() { if [ -e $sys/class/block/$1 ]; then echo $1; else return 1; fi; }\n\
            blkid() { case $1 in\n\
            */vda1) echo \"$1: LABEL=\\\"BOOT\\\" UUID=\\\"4777-5DC5\\\" TYPE=\\\"vfat\\\"\" ;;\n\
            */vda2) echo \"$1: LABEL=\\\"my root\\\" UUID=\\\"eda2ea07-e763-4394-84f0-467817360e33\\\" TYPE=\\\"ext4\\\"\" ;;\n\
            esac; }\n";
        run(
            "root.sh",
            &format!("sys={root}/sys dev={root}/dev\n{played}{commands}"),
        )
    }
}

/// The names are those that the kernel would give (block/early-lookup.c); sfdisk writes the tables.
#[test]
fn a_root_is_found_by_each_name_that_the_kernel_takes() {
    let disk = Disk::new(
        "label: dos\nlabel-id: 0xABCD0678\nsize=8M, type=c\nsize=16M\nsize=4M\nsize=20M, type=5\nsize=2M\n",
        &[1, 2, 3, 5],
    );
    for (root, found) in [
        ("PARTUUID=abcd0678-02", "vda2"),
        ("PARTUUID=ABCD0678-02", "vda2"),
        ("PARTUUID=abcd0678-05", "vda5"),
        ("PARTUUID=abcd0678-01/PARTNROFF=1", "vda2"),
        ("PARTUUID=abcd0678-01/PARTNROFF=9", "nothing"),
        ("PARTUUID=abcd0678-2", "nothing"),
        ("PARTUUID=00000000-02", "nothing"),
        ("/dev/disk/by-partuuid/abcd0678-02", "vda2"),
        ("PARTLABEL=part vda3", "vda3"),
        ("/dev/disk/by-partlabel/part\\x20vda3", "vda3"),
        ("LABEL=my root", "vda2"),
        ("LABEL=MY ROOT", "nothing"),
        ("LABEL=root", "nothing"),
        ("/dev/disk/by-label/my\\x20root", "vda2"),
        ("UUID=4777-5dc5", "vda1"),
        ("UUID=EDA2EA07-E763-4394-84F0-467817360E33", "vda2"),
        ("/dev/disk/by-uuid/4777-5DC5", "vda1"),
        ("/dev/vda2", "vda2"),
        ("/dev/sda2", "nothing"),
        ("254:2", "vda2"),
        ("0xfe02", "vda2"),
        ("fe02", "vda2"),
        ("FE05", "vda5"),
        ("b302", "nothing"),
    ] {
        assert_eq!(disk.find(root), found, "root={root}");
    }
    let told = disk.run("describe_devices");
    assert!(
        told.contains("vda2 (PARTUUID=abcd0678-02 PARTLABEL=\"part vda2\" LABEL=\"my root\""),
        "{told}"
    );
}

#[test]
fn a_partition_of_a_gpt_is_found_by_its_guid() {
    let disk = Disk::new(
        "label: gpt\nsize=8M, uuid=11111111-2222-3333-4444-555555555555\n\
         size=16M, uuid=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=\"root\"\nsize=4M\n",
        &[1, 2, 3],
    );
    for (root, found) in [
        ("PARTUUID=0fc63daf-8483-4772-8e79-3d69d8477de4", "vda2"),
        ("PARTUUID=0FC63DAF-8483-4772-8E79-3D69D8477DE4", "vda2"),
        (
            "PARTUUID=11111111-2222-3333-4444-555555555555/PARTNROFF=2",
            "vda3",
        ),
        ("PARTUUID=11111111-2222-3333-4444-555555555556", "nothing"),
    ] {
        assert_eq!(disk.find(root), found, "root={root}");
    }
}

/// As devt_from_devnum and new_decode_dev have it (include/linux/kdev_t.h).
#[test]
fn device_numbers_are_decimal_pairs_or_hexadecimal() {
    for (text, number) in [
        ("179:2", "179:2"),
        ("8:1", "8:1"),
        ("0xb302", "179:2"),
        ("b302", "179:2"),
        ("801", "8:1"),
        ("0x10fe05", "254:261"),
    ] {
        assert_eq!(run("root.sh", &format!("device_number {text}")), number);
    }
    for text in [
        "sda2",
        "/dev/vda2x",
        "8:",
        ":1",
        "8:1:2",
        "0x",
        "xb3",
        "mtd:root",
    ] {
        let told = run("root.sh", &format!("device_number {text} || echo none"));
        assert_eq!(told, "none", "{text}");
    }
    for (text, known) in [
        ("/dev/mmcblk0p2", "yes"),
        ("PARTUUID=x", "yes"),
        ("PARTUUID=", "no"),
        ("/dev/disk/by-id/mmc-x", "no"),
        ("ubi0:rootfs", "no"),
        ("b302", "yes"),
    ] {
        let told = run(
            "root.sh",
            &format!("if is_root_spec {text}; then echo yes; else echo no; fi"),
        );
        assert_eq!(told, known, "{text}");
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
