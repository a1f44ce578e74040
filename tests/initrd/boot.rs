//! Boots over NFS, from `hearth serve`, to a login or to a message that says what is wrong.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use common::process::Process;
use common::{hearth, wait_for};

use crate::{
    Board, NANOPI_NEO, VIRT_ARM, VIRT_ARM64, alone, built, distribution_initrd, initrd, work,
};

/// `hearth serve` on loopback, with the built image; ended when dropped.
struct Server {
    _process: Process,
    image: String,
    nfs: u16,
}

impl Server {
    fn start(arch: &'static str) -> Server {
        let build = built(arch);
        let manifest = fs::read_to_string(build.join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let [tftp, nfs, http] = free_ports();
        let lab = format!(
            "[lab]\nname = 'initrd'\naddress = '127.0.0.1'\nrecipe = 'initrd-{arch}'\n\
             ports = {{ tftp = {tftp}, nfs = {nfs}, mount = {nfs}, portmap = 0, http = {http} }}\n"
        );
        let directory = work(arch);
        fs::write(directory.join("lab.toml"), lab).unwrap();
        let process = Process::start(
            hearth()
                .args(["serve", "--lab", "lab.toml"])
                .current_dir(&directory)
                .env("HEARTH_STATE", directory.join("state")),
        );
        wait_for("the server", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, nfs)).is_ok()
        });
        Server {
            _process: process,
            image: manifest["image"].as_str().unwrap().to_string(),
            nfs,
        }
    }

    /// The kernel arguments that name the server; 10.0.2.2 is the host's loopback in QEMU's user network.
    fn arguments(&self) -> String {
        let (image, port) = (&self.image, self.nfs);
        format!(
            "root=/dev/nfs nfsroot=10.0.2.2:/{image},vers=3,proto=tcp,nolock,port={port},mountport={port} \
             hearth.board=alpha {PATIENT}"
        )
    }
}

/// Ports that nothing listened on a moment ago.
fn free_ports() -> [u16; 3] {
    let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    [any(), any(), any()].map(|listener| listener.local_addr().unwrap().port())
}

/// An emulated board on a busy machine is slower than systemd and the kernel believe a board can be.
const PATIENT: &str = "systemd.default_timeout_start_sec=1800 systemd.default_device_timeout_sec=1800 \
                       rcupdate.rcu_cpu_stall_timeout=300 watchdog_thresh=60";

/// Boots to a login over NFS, looks around as root, and switches off.
fn boots_and_powers_off(board: &Board, initrd: &Path, name: &str) {
    boots_and_ends(board, initrd, name, ("poweroff", "Power down"));
}

/// As [`boots_and_powers_off`], with what is typed at the end, and what the kernel then says last.
fn boots_and_ends(board: &Board, initrd: &Path, name: &str, (command, last): (&str, &str)) {
    let _alone = alone();
    let server = Server::start(board.arch);
    let arguments = format!("{} ip=dhcp", server.arguments());
    let mut guest = board.boot(initrd, &arguments, &[], name);
    guest.expect(&format!("hearth: mounting 10.0.2.2:/{}", server.image));
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
    boots_and_powers_off(&VIRT_ARM, &initrd, "native-qemu-virt-arm");
}

#[test]
fn a_server_that_does_not_answer_ends_in_a_message_and_a_reboot() {
    let initrd = initrd("armhf", "qemu-virt-arm", "broken-server.img");
    // Port 1 of loopback refuses connections.
    let arguments = "root=/dev/nfs nfsroot=10.0.2.2:/image,vers=3,proto=tcp,nolock,port=1,mountport=1 \
                     ip=10.0.2.15:::255.255.255.0::eth0:off hearth.panic=2";
    let _alone = alone();
    let mut guest = VIRT_ARM.boot(&initrd, arguments, &[], "native-broken-server");
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

#[test]
fn a_name_that_nobody_knows_is_told_and_a_shell_comes_before_the_reboot() {
    let initrd = initrd("armhf", "qemu-virt-arm", "unknown-server.img");
    let arguments = "root=/dev/nfs nfsroot=no-such-server.invalid:/image ip=dhcp hearth.break=panic \
                     hearth.panic=1";
    let _alone = alone();
    let mut guest = VIRT_ARM.boot(&initrd, arguments, &[], "native-unknown-server");
    guest.expect(
        "hearth: FAILED in stage 'mount': the name of the NFS server, no-such-server.invalid, \
         cannot be resolved",
    );
    guest.expect("hearth: a shell before stage 'panic'");
    guest.insist("echo shell:$((40 + 2)); exit", "shell:42");
    guest.expect("hearth: rebooting in 1 s");
    guest.expect_end();
}

/// What takes minutes each. For `make test-long`.
mod long {
    use super::*;

    #[test]
    fn nanopi_neo_boots_over_nfs_and_powers_off() {
        let initrd = initrd("armhf", "nanopi-neo", "nanopi-neo.img");
        boots_and_powers_off(&NANOPI_NEO, &initrd, "native-nanopi-neo");
    }

    #[test]
    fn qemu_virt_arm64_boots_over_nfs_and_powers_off() {
        let initrd = initrd("arm64", "qemu-virt-arm64", "qemu-virt-arm64.img");
        boots_and_powers_off(&VIRT_ARM64, &initrd, "native-qemu-virt-arm64");
    }

    #[test]
    fn a_reboot_ends_as_cleanly() {
        let initrd = initrd("armhf", "qemu-virt-arm", "reboot.img");
        let end = ("reboot", "reboot: Restarting system");
        boots_and_ends(&VIRT_ARM, &initrd, "native-reboot", end);
    }

    #[test]
    fn the_distributions_initrd_boots_qemu_virt_arm_and_powers_off() {
        let initrd = distribution_initrd("armhf");
        boots_and_powers_off(&VIRT_ARM, &initrd, "chroot-qemu-virt-arm");
    }

    #[test]
    fn the_distributions_initrd_boots_nanopi_neo_and_powers_off() {
        let initrd = distribution_initrd("armhf");
        boots_and_powers_off(&NANOPI_NEO, &initrd, "chroot-nanopi-neo");
    }

    #[test]
    fn the_distributions_initrd_boots_qemu_virt_arm64_and_powers_off() {
        let initrd = distribution_initrd("arm64");
        boots_and_powers_off(&VIRT_ARM64, &initrd, "chroot-qemu-virt-arm64");
    }

    #[test]
    fn the_distributions_initrd_says_so_as_well_and_reboots() {
        let initrd = distribution_initrd("armhf");
        let _alone = alone();
        let arguments = "root=/dev/nfs nfsroot=10.0.2.2:/image,vers=3,proto=tcp,nolock,port=1,mountport=1 \
                         ip=dhcp hearth.panic=2";
        let mut guest = VIRT_ARM.boot(&initrd, arguments, &[], "chroot-broken-server");
        guest.expect("again in 13 s");
        guest.expect("hearth: FAILED in stage 'mount': ");
        guest.expect("hearth: rebooting in 2 s");
        guest.expect_end();
    }
}
