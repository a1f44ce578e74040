//! `hearth image`: whole and damaged images, from files and pipes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value;

use crate::{debian_mkimage, hearth_mkimage, scratch};
use common::{fail, hearth, oracle, succeed};

fn image(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = hearth();
    command.arg("image").args(arguments).current_dir(dir);
    command
}

/// Three files, and images of them made by the oracle.
fn images() -> tempfile::TempDir {
    let dir = scratch();
    fs::write(dir.path().join("a"), "echo one\necho \u{1b}[31mtwo\n").unwrap();
    fs::write(dir.path().join("b"), [1; 1001]).unwrap();
    fs::write(dir.path().join("c"), [2; 4]).unwrap();
    for (name, arguments) in [
        ("script", &["-T", "script", "-C", "none", "-d", "a"][..]),
        ("multi", &["-T", "multi", "-d", "a:b:c"]),
        (
            "ramdisk",
            &["-T", "ramdisk", "-n", "initrd", "-a", "8000", "-d", "b"],
        ),
        ("ivt", &["-T", "firmware_ivt", "-d", "b"]),
        ("omap", &["-T", "omapimage", "-a", "402f0400", "-d", "c"]),
        ("gp", &["-T", "gpimage", "-a", "c000000", "-d", "b"]),
        ("egon", &["-T", "sunxi_egon", "-n", "a-board", "-d", "b"]),
    ] {
        succeed(
            debian_mkimage(dir.path())
                .args(["-A", "arm"])
                .args(arguments)
                .arg(name),
        );
    }
    dir
}

/// Feeds a command, whatever of it the command reads.
fn feed(command: &mut Command, data: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let data = data.to_vec();
    let feeder = thread::spawn(move || stdin.write_all(&data));
    let output = child.wait_with_output().unwrap();
    // A reader that stops early is no failure of the feeder.
    let _ = feeder.join().unwrap();
    output
}

#[test]
fn whole_images_are_shown_alike_from_files_and_pipes() {
    let dir = images();
    for name in ["script", "multi", "ramdisk", "ivt", "omap", "gp", "egon"] {
        let shown = succeed(&mut image(dir.path(), &["show", name]));
        let piped = feed(
            &mut image(dir.path(), &["show", "-"]),
            &fs::read(dir.path().join(name)).unwrap(),
        );
        assert!(piped.status.success(), "{name}: {piped:?}");
        let shown = String::from_utf8(shown.stdout).unwrap();
        let piped = String::from_utf8(piped.stdout).unwrap();
        assert_eq!(shown, piped.replace("standard input", name));
    }
    let all = succeed(&mut image(dir.path(), &["show", "script", "multi", "egon"]));
    let all = String::from_utf8(all.stdout).unwrap();
    assert!(
        all.contains("Script:\n  echo one\n  echo \\u{1b}[31mtwo\n"),
        "{all}"
    );
    assert!(all.contains("Image 1: 1001 Bytes"), "{all}");
    assert!(all.contains("DT name: a-board"), "{all}");
}

#[test]
fn json_has_header_files_and_script_text() {
    let dir = images();
    let output = succeed(&mut image(
        dir.path(),
        &["show", "--json", "script", "multi", "ramdisk", "egon"],
    ));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown[0]["format"], "uimage");
    assert_eq!(
        shown[0]["parts"][0]["text"],
        "echo one\necho \u{1b}[31mtwo\n"
    );
    assert_eq!(shown[1]["parts"][1]["size"], 1001);
    let at = shown[1]["parts"][2]["offset"].as_u64().unwrap() as usize;
    assert_eq!(fs::read(dir.path().join("multi")).unwrap()[at..], [2; 4]);
    assert_eq!(shown[2]["name"], "initrd");
    assert_eq!(shown[2]["type"], "ramdisk");
    assert_eq!(shown[2]["load"], 0x8000);
    assert_eq!(shown[2]["created"], "2023-11-14T22:13:20Z");
    assert_eq!(shown[3]["format"], "sunxi_egon");
    assert_eq!(shown[3]["length"], 8192);
    assert_eq!(shown[3]["problems"].as_array().unwrap().len(), 0);
}

#[test]
fn every_cut_and_every_damaged_byte_is_told_with_exit_code_2() {
    let dir = images();
    for name in ["script", "multi", "ivt", "egon", "omap", "gp"] {
        let whole = fs::read(dir.path().join(name)).unwrap();
        for cut in [0, 1, 7, 63, 64, 70, whole.len() - 1] {
            fs::write(dir.path().join("cut"), &whole[..cut]).unwrap();
            fail(
                &mut image(dir.path(), &["show", "cut"]),
                2,
                "hearth: cut: it",
            );
        }
        let checked = !["omap", "gp"].contains(&name);
        for at in [9, 40, 65, whole.len() - 1].into_iter().filter(|_| checked) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(dir.path().join("damaged"), &damaged).unwrap();
            fail(
                &mut image(dir.path(), &["show", "damaged"]),
                2,
                "hearth: damaged: it",
            );
        }
        // U-Boot itself may follow an eGON image, and a signature the vector table.
        if !["egon", "ivt"].contains(&name) {
            fs::write(dir.path().join("longer"), [&whole[..], b"more"].concat()).unwrap();
            fail(
                &mut image(dir.path(), &["show", "longer"]),
                2,
                "hearth: longer: ",
            );
        }
    }
}

#[test]
fn each_damage_is_named() {
    let dir = images();
    let whole = fs::read(dir.path().join("multi")).unwrap();
    let show = |change: &dyn Fn(&mut Vec<u8>), says: &str| {
        let mut damaged = whole.clone();
        change(&mut damaged);
        fs::write(dir.path().join("damaged"), &damaged).unwrap();
        fail(&mut image(dir.path(), &["show", "damaged"]), 2, says);
        // mkimage's own way of listing is refused alike.
        fail(hearth_mkimage(dir.path()).args(["-l", "damaged"]), 2, says);
        fail(
            &mut image(dir.path(), &["extract", "-p", "0", "damaged", "-o", "out"]),
            2,
            says,
        );
        assert!(!dir.path().join("out").exists());
    };
    show(&|image| image[33] ^= 1, "its header is damaged");
    show(&|image| image[100] ^= 1, "its data is damaged");
    show(
        &|image| image.truncate(500),
        "its data is truncated: the header announces 1048 bytes, and 436 are there",
    );
    show(
        &|image| image.extend_from_slice(b"more"),
        "4 bytes follow its end",
    );
    show(
        &|image| image[71] ^= 1,
        "its files take 1028 bytes by their table, and the header leaves 1032",
    );
}

#[test]
fn files_that_are_no_images_are_told_by_what_they_are() {
    let dir = scratch();
    let show = |data: &[u8], says: &str| {
        fs::write(dir.path().join("file"), data).unwrap();
        fail(&mut image(dir.path(), &["show", "file"]), 2, says);
    };
    show(b"", "file: it is empty");
    show(b"hello, world\n", "file: it is no image that hearth knows");
    show(b"\x1f\x8b and so on", "but data compressed with gzip");
    show(
        b"\xd0\x0d\xfe\xed and so on",
        "but a device tree or a FIT image",
    );
    show(
        &fs::read(hearth().get_program()).unwrap(),
        "but an ELF file",
    );
    fail(
        &mut image(dir.path(), &["show", "nowhere"]),
        2,
        "cannot read nowhere",
    );
    fail(
        &mut image(dir.path(), &["show", "."]),
        2,
        ". is a directory, not an image",
    );
}

#[test]
fn one_bad_image_of_several_does_not_hide_the_others() {
    let dir = images();
    let output = fail(
        &mut image(dir.path(), &["show", "a", "script", "nowhere", "omap"]),
        2,
        "nowhere",
    );
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains("script: uImage") && shown.contains("omap: omapimage"),
        "{shown}"
    );
    let json = fail(
        &mut image(dir.path(), &["show", "--json", "a", "script"]),
        2,
        "a: it is no image",
    );
    let shown: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 1);
}

#[test]
fn endless_pipes_and_huge_files_end_with_an_error() {
    let dir = images();
    let zero = File::open("/dev/zero").unwrap();
    fail(
        image(dir.path(), &["show", "-"]).stdin(zero),
        2,
        "standard input: it is no image",
    );
    let endless = |name: &str| {
        let mut shell = oracle("sh");
        let program = hearth().get_program().to_owned();
        shell
            .args(["-c", "cat \"$1\" /dev/zero | \"$0\" image show -"])
            .arg(program)
            .arg(name);
        shell.current_dir(dir.path());
        shell
    };
    fail(&mut endless("script"), 2, "more data follow its end");
    fail(&mut endless("gp"), 2, "it is no image");
    // A header that announces all of 4 GiB, before 10 GiB of nothing.
    let huge = File::create(dir.path().join("huge")).unwrap();
    huge.set_len(10 << 30).unwrap();
    fail(
        &mut image(dir.path(), &["show", "huge"]),
        2,
        "huge: it is no image",
    );
    let mut header = fs::read(dir.path().join("ramdisk")).unwrap()[..64].to_vec();
    header[12..16].fill(0xff);
    huge.write_all_at(&header, 0).unwrap();
    fail(
        &mut image(dir.path(), &["show", "huge"]),
        2,
        "its header is damaged",
    );
}

#[test]
fn files_come_out_as_they_went_in() {
    let dir = images();
    let original = |name: &str| fs::read(dir.path().join(name)).unwrap();
    for (name, part, expected) in [
        ("script", None, "a"),
        ("ramdisk", None, "b"),
        ("multi", Some("0"), "a"),
        ("multi", Some("1"), "b"),
        ("multi", Some("2"), "c"),
        ("omap", None, "c"),
        ("gp", None, "b"),
    ] {
        let mut arguments = vec!["extract", name, "-o", "out"];
        arguments.extend(part.iter().flat_map(|part| ["-p", part]));
        succeed(&mut image(dir.path(), &arguments));
        assert_eq!(original("out"), original(expected), "{name} {part:?}");
        arguments[3] = "-";
        assert_eq!(
            succeed(&mut image(dir.path(), &arguments)).stdout,
            original(expected)
        );
        // The oracle takes the same file out of a multi-file image.
        if let Some(part) = part {
            succeed(
                oracle("dumpimage")
                    .args(["-T", "multi", "-p", part, "-o", "theirs", name])
                    .current_dir(dir.path()),
            );
            assert_eq!(original("theirs"), original(expected));
        }
    }
    succeed(hearth_mkimage(dir.path()).args([
        "-T",
        "omapimage",
        "-a",
        "1",
        "-n",
        "byteswap",
        "-d",
        "c",
        "swapped",
    ]));
    succeed(&mut image(dir.path(), &["extract", "swapped", "-o", "out"]));
    assert_eq!(original("out"), original("c"));
    fail(
        &mut image(dir.path(), &["extract", "multi", "-o", "out"]),
        2,
        "help: choose one with -p, from 0 to 2",
    );
    fail(
        &mut image(dir.path(), &["extract", "multi", "-p", "3", "-o", "out"]),
        2,
        "it has no file 3",
    );
}

#[test]
fn an_image_can_be_written_to_a_pipe_from_a_pipe() {
    let dir = images();
    let arguments = [
        "-A",
        "arm",
        "-T",
        "ramdisk",
        "-n",
        "initrd",
        "-a",
        "8000",
        "-q",
        "-d",
        "/dev/stdin",
        "/dev/stdout",
    ];
    let output = feed(hearth_mkimage(dir.path()).args(arguments), &[1; 1001]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, fs::read(dir.path().join("ramdisk")).unwrap());
}
