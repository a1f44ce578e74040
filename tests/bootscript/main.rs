//! Boot scripts, as a real U-Boot in QEMU runs them, and `hearth bootscript` as a user runs it.

mod existing;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::emulator::{
    Emulator, VIRT_ARM, VIRT_ARM64, dead_network, disk, fat_disk, no_network, user_network,
};
use common::{fail, hearth, oracle, succeed};
use hearth::data::Source;
use hearth::uboot::{ImageArch, Templates, script};
use serde_json::json;

const IMAGE: &str = "trixie-armhf-0123456789ab";

const LAB: &str = r#"
[lab]
name = "desk"
address = "10.0.2.2"
[lab.ports]
nfs = 12049
mount = 12050
http = 18420
[[board]]
name = "virt1"
type = "qemu-virt-arm"
mac = "02:00:5e:10:00:07"
values = { greeting = "a b; reset $(reset) ${baudrate} # x", tag = "42" }
[[board]]
name = "virt64"
type = "qemu-virt-arm64"
[[board]]
name = "neo1"
type = "nanopi-neo"
"#;

/// A lab file and a place for results.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lab.toml"), LAB).unwrap();
        Desk { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `hearth bootscript` with these arguments, in the lab's directory.
    fn bootscript(&self, arguments: &[&str]) -> Command {
        let mut command = hearth();
        command
            .current_dir(self.path())
            .env("HEARTH_DATA", common::repository())
            .env_remove("SOURCE_DATE_EPOCH")
            .env_remove("HEARTH_LAB")
            .arg("bootscript")
            .args(arguments);
        command
    }

    /// Writes a board's script made from a template, and returns its uImage.
    fn script(&self, board: &str, template: &str) -> Vec<u8> {
        let arguments = [board, "-t", template, "--image", IMAGE, "-o", template];
        succeed(&mut self.bootscript(&arguments));
        fs::read(self.path().join(template).join("boot.scr")).unwrap()
    }

    /// A TFTP tree with the boards' scripts, and with an image of these files.
    fn tftp(&self, artifacts: &[(&str, &[u8])]) -> PathBuf {
        let tree = self.path().join("tftp");
        succeed(&mut self.bootscript(&["--all", "--image", IMAGE, "-o", "tftp"]));
        let image = tree.join("images").join(IMAGE);
        fs::create_dir_all(&image).unwrap();
        for (name, data) in artifacts {
            fs::write(image.join(name), data).unwrap();
        }
        tree
    }
}

/// A 32-bit zImage that does nothing: `b .`, with the magic number and the addresses that U-Boot looks at
/// (Linux, arch/arm/boot/compressed/head.S).
fn idle_zimage() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(&0xeaff_fffe_u32.to_le_bytes());
    image[0x24..0x28].copy_from_slice(&0x016f_2818_u32.to_le_bytes());
    image[0x2c..0x30].copy_from_slice(&4096_u32.to_le_bytes());
    image
}

/// The same as a 64-bit Image (Linux, Documentation/arch/arm64/booting.rst).
fn idle_image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(&0x1400_0000_u32.to_le_bytes());
    image[16..24].copy_from_slice(&4096_u64.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

/// Wraps data with mkimage, as `-T ramdisk` or `-T kernel`.
fn mkimage(dir: &Path, arch: &str, kind: &str, data: &[u8]) -> Vec<u8> {
    let (input, output) = (dir.join("in"), dir.join("out.uimg"));
    fs::write(&input, data).unwrap();
    succeed(
        oracle("mkimage")
            .args([
                "-A", arch, "-O", "linux", "-T", kind, "-C", "none", "-a", "40800000", "-d",
            ])
            .arg(&input)
            .arg(&output),
    );
    fs::read(output).unwrap()
}

/// What `virt1` shall boot with, by whichever way.
fn kernel_command_line() -> String {
    format!(
        "root=/dev/nfs boot=nfs nfsroot=10.0.2.2:/{IMAGE},vers=3,proto=tcp,nolock,port=12049,mountport=12050 ip=dhcp \
         console=ttyAMA0 hearth.board=virt1 hearth.lab=http://10.0.2.2:18420 hearth.image={IMAGE} \
         hearth.greeting=\"a b; reset $(reset) ${{baudrate}} # x\" hearth.tag=42"
    )
}

#[test]
fn the_card_names_its_board_and_fetches_its_script_again_until_it_boots() {
    let desk = Desk::new();
    let card = desk.script("virt1", "card");
    let tftp = desk.tftp(&[]);
    let image = fat_disk(desk.path(), &[&[("boot.scr", &card)]]);
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), user_network(&tftp)]);

    board.expect("hearth: virt1 asks 10.0.2.2 for its boot script, attempt 1 of 10");
    board.expect("DHCP client bound");
    board.expect("Filename 'boards/virt1/boot.scr.uimg'");
    board.expect(&format!("hearth: virt1 boots {IMAGE} from 10.0.2.2"));
    board.expect(&format!(
        "hearth: cannot load {IMAGE} by TFTP from 10.0.2.2"
    ));
    board.expect("hearth: trying again in 5 seconds");
    board.expect("hearth: virt1 asks 10.0.2.2 for its boot script, attempt 2 of 10");
    board.expect("trying again in 5 seconds");
    board.type_in("\u{3}");
    board.expect("hearth: stopped");
    board.interrupt_uboot();

    assert_eq!(board.uboot_variable("hearth_board"), "virt1");
    assert_eq!(board.uboot_variable("ethaddr"), "02:00:5e:10:00:07");
    assert_eq!(board.uboot_variable("serverip"), "10.0.2.2");
    assert_eq!(board.uboot_variable("bootargs"), kernel_command_line());
}

#[test]
fn a_board_without_an_answer_says_so() {
    let desk = Desk::new();
    let card = desk.script("virt1", "card");
    let image = fat_disk(desk.path(), &[&[("boot.scr", &card)]]);
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), dead_network()]);
    board.expect("hearth: virt1 asks 10.0.2.2");
    board.expect("hearth: no answer to DHCP; is the cable in?");
}

#[test]
fn a_zimage_boots_over_the_network_by_script_and_by_extlinux() {
    let desk = Desk::new();
    let card = desk.script("virt1", "card");
    let initrd = mkimage(desk.path(), "arm", "ramdisk", b"not really an initrd");
    let kernel = idle_zimage();
    let tftp = desk.tftp(&[
        ("vmlinuz", &kernel),
        ("uInitrd", &initrd),
        ("initrd.img", b"not really an initrd"),
    ]);
    let image = fat_disk(desk.path(), &[&[("boot.scr.uimg", &card)]]);
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), user_network(&tftp)]);
    assert_boots_over_tftp(&mut board, "Kernel image @ ");

    let mut board = VIRT_ARM.start_uboot(&[user_network(&tftp)]);
    board.expect("Hit any key");
    board.interrupt_uboot();
    board.uboot("setenv -f ethaddr 02:00:5e:10:00:07");
    board.uboot("setenv autoload no; dhcp; setenv serverip 10.0.2.2");
    board.uboot("pxe get");
    board.type_in("pxe boot\n");
    board.expect("append: ");
    assert_eq!(board.expect("\r\n"), kernel_command_line());
    board.expect("Starting kernel ...");
}

#[test]
fn a_64_bit_image_boots_over_the_network() {
    let desk = Desk::new();
    let card = desk.script("virt64", "card");
    let initrd = mkimage(desk.path(), "arm64", "ramdisk", b"not really an initrd");
    let tftp = desk.tftp(&[("vmlinuz", &idle_image()), ("uInitrd", &initrd)]);
    let image = fat_disk(desk.path(), &[&[("boot.scr", &card)]]);
    let mut board = VIRT_ARM64.start_uboot(&[disk(&image), user_network(&tftp)]);
    assert_boots_over_tftp(&mut board, "Loading init Ramdisk from Legacy Image");
}

#[test]
fn a_kernel_that_is_a_uimage_boots_over_the_network() {
    let desk = Desk::new();
    // A board type of the user's own, which overrides nothing else.
    let types = desk.path().join("recipes/boards");
    fs::create_dir_all(&types).unwrap();
    let shipped = common::repository().join("recipes/boards/qemu-virt-arm.toml");
    let own = fs::read_to_string(shipped)
        .unwrap()
        .replace("zImage", "uImage");
    fs::write(types.join("own.toml"), own).unwrap();
    fs::write(
        desk.path().join("lab.toml"),
        LAB.replace("\"qemu-virt-arm\"", "\"own\""),
    )
    .unwrap();

    let card = desk.script("virt1", "card");
    let initrd = mkimage(desk.path(), "arm", "ramdisk", b"not really an initrd");
    let kernel = mkimage(desk.path(), "arm", "kernel", &idle_zimage());
    let tftp = desk.tftp(&[("vmlinuz", &kernel), ("uInitrd", &initrd)]);
    let image = fat_disk(desk.path(), &[&[("boot.scr", &card)]]);
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), user_network(&tftp)]);
    assert_boots_over_tftp(&mut board, "Booting kernel from Legacy Image");
}

fn assert_boots_over_tftp(board: &mut Emulator, kernel: &str) {
    board.expect("## Executing script");
    board.expect(&format!("Filename 'images/{IMAGE}/vmlinuz'"));
    board.expect(&format!("Filename 'images/{IMAGE}/uInitrd'"));
    board.expect(kernel);
    board.expect("Verifying Checksum ... OK");
    board.expect("Flattened Device Tree blob");
    board.expect("Starting kernel ...");
}

#[test]
fn the_local_script_boots_from_the_second_partition() {
    let desk = Desk::new();
    let local = desk.script("virt1", "local");
    let initrd = mkimage(desk.path(), "arm", "ramdisk", b"not really an initrd");
    let kernel = idle_zimage();
    let image = fat_disk(
        desk.path(),
        &[
            &[("boot.scr", &local)],
            &[("vmlinuz", &kernel), ("uInitrd", &initrd)],
        ],
    );
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), no_network()]);
    board.expect("hearth: virt1 boots /vmlinuz from virtio 0:2");
    board.expect("Verifying Checksum ... OK");
    board.expect("Starting kernel ...");
    drop(board);

    let image = fat_disk(desk.path(), &[&[("boot.scr", &local)], &[]]);
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), no_network()]);
    board.expect("hearth: nothing boots from virtio 0:2");
    board.interrupt_uboot();
    let arguments = board.uboot_variable("bootargs");
    assert!(
        arguments.starts_with("root=PARTUUID=12345678-02 rootwait console=ttyAMA0 "),
        "{arguments}"
    );
    assert!(
        arguments
            .ends_with("hearth.greeting=\"a b; reset $(reset) ${baudrate} # x\" hearth.tag=42")
    );
}

/// Deterministic values made of what a shell might take for something else.
fn nasty_values(count: usize) -> Vec<String> {
    const PIECES: [&str; 26] = [
        "a",
        "Z9",
        " ",
        "  ",
        "\"",
        "$",
        "${baudrate}",
        "$(echo INJECTED)",
        "`echo INJECTED`",
        ";",
        "; echo INJECTED ",
        "&& echo INJECTED",
        "|| echo INJECTED",
        "|",
        "&",
        "#",
        " # ",
        "<",
        ">",
        "*",
        "?",
        "[ab]",
        "{x,y}",
        "~",
        "!",
        "é=",
    ];
    let mut state = 1_u32;
    let mut next = move |below: usize| {
        // Numerical Recipes' linear congruential generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    (0..count)
        .map(|_| (0..=next(5)).map(|_| PIECES[next(PIECES.len())]).collect())
        .collect()
}

#[test]
fn no_value_breaks_out_in_a_real_uboot() {
    let values = nasty_values(150);
    // The shell goes over a command with a variable twice, over one without only once.
    let text = "setenv autostart no\n{{#each v}}setenv a{{@index}} p{{this}}s {{this}}\n\
                setenv b{{@index}} ${baudrate}{{this}}${baudrate} {{this}}\n\
                {{#if @last}}echo ALL SET\n{{/if}}{{/each}}";
    let source = Source {
        path: "t.cmd.hbs".into(),
        text: text.into(),
    };
    let templates = Templates::new(BTreeMap::from([("t.cmd".to_string(), source)])).unwrap();
    let rendered = templates.script("t", &json!({ "v": values })).unwrap();
    let boot_scr = script::wrap(rendered.as_bytes(), ImageArch::ARM, "t", 0).unwrap();

    let desk = Desk::new();
    let image = fat_disk(desk.path(), &[&[("boot.scr", &boot_scr)]]);
    let mut board = VIRT_ARM.start_uboot(&[disk(&image), no_network()]);
    board.expect("ALL SET");
    board.interrupt_uboot();
    for (n, value) in values.iter().enumerate() {
        assert_eq!(
            board.uboot_variable(&format!("a{n}")),
            format!("p{value}s {value}")
        );
        assert_eq!(
            board.uboot_variable(&format!("b{n}")),
            format!("115200{value}115200 {value}")
        );
    }
}

#[test]
fn every_board_and_template_gives_a_script_that_mkimage_reads() {
    let desk = Desk::new();
    let types = hearth::recipe::board_types().unwrap();
    for name in types.keys() {
        for template in ["card", "nfs", "local"] {
            let directory = format!("{name}-{template}");
            let arguments = [name, "-t", template, "--image", IMAGE, "-o", &directory];
            succeed(&mut desk.bootscript(&arguments));
            let boot_scr = desk.path().join(&directory).join("boot.scr");
            let listed = succeed(oracle("mkimage").arg("-l").arg(&boot_scr));
            let listed = String::from_utf8(listed.stdout).unwrap();
            assert!(listed.contains(&format!("{name} {template}")), "{listed}");
            assert!(listed.contains("Linux Script (uncompressed)"), "{listed}");
            let again = desk.path().join(&directory).join("boot.scr.uimg");
            assert_eq!(fs::read(boot_scr).unwrap(), fs::read(again).unwrap());
        }
    }
}

#[test]
fn every_script_of_a_board_type_with_load_addresses_sets_them() {
    let desk = Desk::new();
    let print = |board, template| {
        let arguments = [board, "-t", template, "--image", IMAGE, "--print"];
        String::from_utf8(succeed(&mut desk.bootscript(&arguments)).stdout).unwrap()
    };
    for template in ["card", "nfs", "local"] {
        let text = print("raspberrypi-3", template);
        let set = text
            .find("\nsetenv fdt_addr_r 0x8000000\n")
            .expect(template);
        let used = text.find("${fdt_addr_r}").or(text.find("${scriptaddr}"));
        assert!(set < used.expect(template), "{text}");
        assert!(!print("nanopi-neo", template).contains("setenv fdt_addr_r"));
    }
}

#[test]
fn all_boards_make_a_tftp_tree_and_a_second_run_changes_nothing() {
    let desk = Desk::new();
    let tree = desk.tftp(&[]);
    for board in ["virt1", "virt64", "neo1"] {
        assert!(
            tree.join("boards")
                .join(board)
                .join("boot.scr.uimg")
                .is_file()
        );
        assert!(tree.join("boards").join(board).join("boot.scr").is_file());
    }
    assert_eq!(fs::read_dir(tree.join("pxelinux.cfg")).unwrap().count(), 3);
    let again = ["--all", "--image", IMAGE, "-o", "tftp"];
    let output = succeed(&mut desk.bootscript(&again));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tftp is up to date"));
}

#[test]
fn any_number_of_values_is_one_word_until_the_kernel_takes_no_more() {
    let desk = Desk::new();
    let lab = fs::read_to_string(desk.path().join("lab.toml")).unwrap();
    for (count, fits) in [(50, true), (56, true), (100, false), (200, false)] {
        let values: String = (0..count)
            .map(|index| format!("v{index} = \"1\"\n"))
            .collect();
        let board = format!(
            "[[board]]\nname = \"many\"\ntype = \"qemu-virt-arm\"\n[board.values]\n{values}"
        );
        fs::write(desk.path().join("lab.toml"), format!("{lab}\n{board}")).unwrap();
        for template in ["nfs", "local"] {
            let mut command =
                desk.bootscript(&["many", "--print", "-t", template, "--image", "image"]);
            if fits {
                let text = String::from_utf8(succeed(&mut command).stdout).unwrap();
                assert!(text.contains(" hearth.v8=1 "), "{text}");
            } else {
                fail(&mut command, 2, "bytes, but a kernel for armhf takes 1023");
            }
        }
    }
}

#[test]
fn mistakes_are_told_with_their_place_and_a_way_out() {
    let desk = Desk::new();
    fail(
        &mut desk.bootscript(&["virt2", "--print"]),
        2,
        "help: did you mean `virt1`?",
    );
    fail(
        &mut desk.bootscript(&["virt1", "--print"]),
        2,
        "board `virt1` has no recipe",
    );
    fail(
        &mut desk.bootscript(&["nanopi-neo", "--print"]),
        2,
        "run `hearth build trixie-armhf`",
    );
    fail(
        &mut desk.bootscript(&["virt1", "--print", "-t", "nsf"]),
        2,
        "help: did you mean `nfs`?",
    );
    fs::write(
        desk.path().join("own.hbs"),
        "echo {{board}}\necho {{borad}}\n",
    )
    .unwrap();
    fail(
        &mut desk.bootscript(&["virt1", "--print", "-t", "own.hbs"]),
        2,
        "--> own.hbs:2:6",
    );
    fs::write(desk.path().join("own.hbs"), "echo {{#if board}}\n").unwrap();
    fail(
        &mut desk.bootscript(&["virt1", "--print", "-t", "own.hbs"]),
        2,
        "--> own.hbs:",
    );
    fs::write(
        desk.path().join("lab.toml"),
        LAB.replace("nanopi-neo", "nanopi"),
    )
    .unwrap();
    let output = fail(
        &mut desk.bootscript(&["virt1", "--print"]),
        2,
        "--> lab.toml:19:8",
    );
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("^^^^^^^^") && told.contains("did you mean `nanopi-neo`?"),
        "{told}"
    );
}
