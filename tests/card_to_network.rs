//! The way of an emulated board from its card, or from DHCP alone, to its own script in a netboot tree.

use std::fs;

use common::emulator::{Emulator, NANOPI_NEO, VIRT_ARM, disk, user_network};
use common::{fail, hearth, oracle, succeed};
use hearth::archive::{Cache, Fetcher, Limits, Mirrors};
use hearth::ops::bootloader;
use hearth::progress::NoProgress;
use hearth::recipe::{LoadedLab, RecipeFile};
use tempfile::TempDir;

/// A directory with the card of an emulated board, and a netboot tree in `tftp` for it.
fn card_and_tree(board: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    // This host, as QEMU's user network shows it.
    let lab = format!(
        "[lab]\nname = 'desk'\naddress = '10.0.2.2'\nrecipe = 'trixie-armhf'\n\
         [[board]]\nname = '{board}'\ntype = '{board}'\n"
    );
    fs::write(dir.path().join("lab.toml"), lab).unwrap();
    let command = || {
        let mut hearth = hearth();
        hearth.current_dir(dir.path()).env_remove("HEARTH_LAB");
        hearth
    };
    let card = ["--recipe", "trixie-armhf", "-o", "card.img"];
    succeed(command().args(["media", board]).args(card));
    let build = dir.path().join("build");
    for name in [
        "vmlinuz",
        "initrd.img",
        "uInitrd",
        "dtb/sun8i-h3-nanopi-neo.dtb",
    ] {
        fs::create_dir_all(build.join(name).parent().unwrap()).unwrap();
        fs::write(build.join(name), vec![0; 70_000]).unwrap();
    }
    fs::write(build.join("manifest.json"), common::manifest(IMAGE)).unwrap();
    let tree = ["--from", "build", "-o", "tftp", "--board", board];
    succeed(command().args(["netboot", "trixie-armhf"]).args(tree));
    dir
}

const IMAGE: &str = "trixie-armhf-0123456789ab";

/// Follows the board from its card to its own script on the network.
fn runs_its_own_script(board: &str, mut console: Emulator) {
    console.expect(&format!(
        "hearth: {board} asks 10.0.2.2 for its boot script"
    ));
    console.expect(&format!("hearth: {board} boots {IMAGE} from 10.0.2.2"));
    // What stands for the kernel is none: all was loaded, and U-Boot tried it.
    console.expect("hearth: bootz came back");
}

#[test]
fn nanopi_neo_goes_from_its_card_by_spl_and_u_boot_to_its_own_script() {
    let dir = card_and_tree("nanopi-neo");
    let card = dir.path().join("card.img").display().to_string();
    let tftp = dir.path().join("tftp").display().to_string();
    let mut command = NANOPI_NEO.command();
    command
        .args(["-drive", &format!("format=raw,if=sd,file={card}")])
        .args(["-nic", &format!("user,tftp={tftp}")]);
    runs_its_own_script("nanopi-neo", Emulator::start_bootloader(&mut command));
}

#[test]
fn a_virt_board_with_trixies_u_boot_runs_the_script_on_its_card() {
    let dir = card_and_tree("qemu-virt-arm");
    let (_, board) = hearth::recipe::board_or_type(None, "qemu-virt-arm").unwrap();
    let recipe = RecipeFile::open("trixie-armhf").unwrap();
    let fetcher = Fetcher::new(
        Cache::default(),
        Mirrors::find(None, None),
        Limits::default(),
    );
    bootloader::unpack(&board, &recipe, &fetcher, dir.path(), &NoProgress).unwrap();
    let firmware = dir
        .path()
        .join("bootloader/qemu-virt-arm/usr/lib/u-boot/qemu_arm/u-boot.bin");
    let mut command = VIRT_ARM.command();
    command
        .arg("-bios")
        .arg(firmware)
        .args(user_network(&dir.path().join("tftp")))
        .args(disk(&dir.path().join("card.img")));
    runs_its_own_script("qemu-virt-arm", Emulator::start_bootloader(&mut command));
}

#[test]
fn a_board_without_a_card_finds_its_script_by_its_mac() {
    let dir = card_and_tree("qemu-virt-arm");
    let lab = LoadedLab::load(&dir.path().join("lab.toml")).unwrap();
    let board = lab.board("qemu-virt-arm").unwrap();
    let tree = dir.path().join("tftp");
    // Bookworm's U-Boot runs the script that DHCP names. It misreads the MAC of a PCI device.
    let network = [
        "-nodefaults",
        "-netdev",
        &format!("user,id=net,bootfile=boot.scr.uimg,tftp={}", tree.display()),
        "-device",
        &format!("virtio-net-device,netdev=net,mac={}", board.mac),
    ]
    .map(String::from)
    .to_vec();
    let mut console = VIRT_ARM.start_uboot(&[network]);
    console.expect(&format!(
        "hearth: qemu-virt-arm boots {IMAGE} from 10.0.2.2"
    ));
    console.expect("hearth: bootz came back");

    // What any server would serve, and nothing else.
    let listed = succeed(
        oracle("mkimage")
            .arg("-l")
            .arg(tree.join("boards/qemu-virt-arm/boot.scr.uimg")),
    );
    assert!(String::from_utf8_lossy(&listed.stdout).contains("ARM Linux Script"));
    let menu =
        fs::read_to_string(tree.join(format!("pxelinux.cfg/01-{}", board.mac.with_dashes())))
            .unwrap();
    assert!(
        menu.contains(&format!("kernel /images/{IMAGE}/vmlinuz")),
        "{menu}"
    );
    assert!(
        menu.contains(&format!("nfsroot=10.0.2.2:/{IMAGE},")),
        "{menu}"
    );
}

#[test]
fn a_netboot_tree_replaces_only_a_netboot_tree() {
    let dir = card_and_tree("qemu-virt-arm");
    let netboot = |more: &[&str]| {
        let mut hearth = hearth();
        hearth.current_dir(dir.path()).env_remove("HEARTH_LAB");
        hearth.args([
            "netboot",
            "trixie-armhf",
            "--from",
            "build",
            "--board",
            "qemu-virt-arm",
        ]);
        hearth.args(["-o", "tftp"]).args(more);
        hearth
    };
    succeed(&mut netboot(&["--nfs-root", "/srv/nfs"]));
    let script = fs::read(dir.path().join("tftp/boards/qemu-virt-arm/boot.scr")).unwrap();
    let script = String::from_utf8_lossy(&script).into_owned();
    assert!(
        script.contains(&format!("nfsroot=10.0.2.2:/srv/nfs/{IMAGE},vers=3")),
        "{script}"
    );
    // Boards know no working directory.
    succeed(&mut netboot(&["--nfs-root", "roots"]));
    let menu = fs::read_dir(dir.path().join("tftp/pxelinux.cfg")).unwrap();
    let menu = fs::read_to_string(menu.map(|entry| entry.unwrap().path()).next().unwrap()).unwrap();
    let whole = dir.path().canonicalize().unwrap().join("roots").join(IMAGE);
    assert!(
        menu.contains(&format!("nfsroot=10.0.2.2:{},vers=3", whole.display())),
        "{menu}"
    );
    fs::write(dir.path().join("tftp/thesis.tex"), "years").unwrap();
    fail(
        &mut netboot(&[]),
        2,
        "holds thesis.tex, which hearth did not put there",
    );
    assert!(dir.path().join("tftp/thesis.tex").exists());
    fs::remove_file(dir.path().join("tftp/thesis.tex")).unwrap();
    fs::remove_file(dir.path().join("build/uInitrd")).unwrap();
    fail(&mut netboot(&[]), 2, "uInitrd");
    assert!(
        dir.path()
            .join(format!("tftp/images/{IMAGE}/uInitrd"))
            .exists()
    );
}
