//! Script images that exist: checked against what they should be, edited, read from pipes.

use crate::{Desk, IMAGE};
use common::{fail, hearth, oracle, succeed};
use hearth::uboot::script;
use std::fs;

#[test]
fn a_script_is_checked_against_what_it_should_be() {
    let desk = Desk::new();
    let arguments = ["virt1", "--image", IMAGE];
    desk.script("virt1", "nfs");
    let check = |image| {
        let mut command = desk.bootscript(&["virt1", "--image", image]);
        command.args(["--check", "nfs/boot.scr"]);
        command
    };
    succeed(&mut check(IMAGE));
    let output = fail(
        &mut check("another-image"),
        2,
        "nfs/boot.scr is out of date",
    );
    let difference = String::from_utf8(output.stdout).unwrap();
    assert!(
        difference.contains("-echo \"hearth:\" virt1 \"boots\" trixie-armhf-0123456789ab"),
        "{difference}"
    );
    assert!(
        difference.contains("+echo \"hearth:\" virt1 \"boots\" another-image"),
        "{difference}"
    );

    let file = desk.path().join("nfs/boot.scr");
    let sound = fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    damaged[100] ^= 1;
    fs::write(&file, damaged).unwrap();
    fail(&mut check(IMAGE), 2, "the file is damaged");
    fs::write(&file, &sound[..80]).unwrap();
    fail(&mut check(IMAGE), 2, "nfs/boot.scr");
    fs::remove_file(&file).unwrap();
    fail(&mut check(IMAGE), 2, "cannot read nfs/boot.scr");
    fail(
        desk.bootscript(&arguments).args(["-o", "lab.toml"]),
        2,
        "lab.toml",
    );
}

#[test]
fn a_script_is_edited_in_its_place() {
    let desk = Desk::new();
    let before = desk.script("virt1", "nfs");
    let edit = |editor: &str| {
        let mut command = desk.bootscript(&["--edit", "nfs/boot.scr"]);
        command.env("EDITOR", editor).env_remove("VISUAL");
        command
    };
    let file = desk.path().join("nfs/boot.scr");
    succeed(&mut edit("true"));
    assert_eq!(fs::read(&file).unwrap(), before);
    fail(&mut edit("false"), 2, "the editor `false` failed");
    fail(&mut edit("truncate -s 0"), 2, "your text is kept in");
    assert_eq!(fs::read(&file).unwrap(), before);
    succeed(&mut edit("sed -i s/NFS/nfs/"));
    let after = fs::read(&file).unwrap();
    assert_ne!(after, before);
    let listed = succeed(oracle("mkimage").arg("-l").arg(&file));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("virt1 nfs"));
    assert!(
        String::from_utf8_lossy(script::read(&after).unwrap().text).contains("as its root by nfs")
    );
}

/// What U-Boot does with each is in `src/uboot/check.rs`.
#[test]
fn an_edited_script_can_be_run_and_keeps_what_was_with_it() {
    let desk = Desk::new();
    let path = |name: &str| desk.path().join(name);
    fs::write(path("one.cmd"), "if true; then\n  echo one\nfi\n").unwrap();
    fs::write(path("two.cmd"), "echo two\n").unwrap();
    succeed(
        oracle("mkimage")
            .args(["-A", "arm", "-T", "script", "-C", "none", "-n", "two"])
            .args(["-d", "one.cmd:two.cmd", "two.scr"])
            .current_dir(desk.path()),
    );
    let before = fs::read(path("two.scr")).unwrap();
    let mut padded = before.clone();
    padded.resize(512, 0xff);
    let edit = |editor: &str| {
        fs::write(path("two.scr"), &padded).unwrap();
        let mut command = desk.bootscript(&["--edit", "two.scr"]);
        command.env("EDITOR", editor).env_remove("VISUAL");
        command
    };
    let output = succeed(&mut edit("sed -i -e s/one/ONE/ -e 's/$/\\r/'"));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("took out carriage returns"), "{told}");
    let after = fs::read(path("two.scr")).unwrap();
    let read = script::read(&after).unwrap();
    assert_eq!(read.text, b"if true; then\n  echo ONE\nfi\n");
    assert_eq!(read.others, [b"echo two\n"]);
    assert_eq!(after.len(), 512);
    succeed(&mut edit("sed -i '1s/^/\\xef\\xbb\\xbf/'"));
    let after = fs::read(path("two.scr")).unwrap();
    assert!(script::read(&after).unwrap().text.starts_with(b"if"));
    for (editor, what) in [
        (
            "sed -i s/fi//",
            "line 1 of the script has an `if` that is never closed",
        ),
        (
            "sed -i s/one/\\'/",
            "line 2 of the script has a single quote",
        ),
        (
            "sed -i 's/one/\\x00/'",
            "line 2 of the script has a NUL byte",
        ),
    ] {
        let output = fail(&mut edit(editor), 2, "your text is kept in");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(what), "{told}");
        assert_eq!(fs::read(path("two.scr")).unwrap(), padded);
    }
}

#[test]
fn pipes_that_nobody_writes_to_are_not_waited_for() {
    let desk = Desk::new();
    succeed(oracle("mkfifo").arg("pipe").current_dir(desk.path()));
    fail(
        &mut desk.bootscript(&["--edit", "./pipe"]),
        2,
        "is not a file",
    );
    fail(&mut desk.bootscript(&["virt1", "-t", "./pipe"]), 2, "empty");
    let image = ["image", "show", "pipe"];
    fail(
        hearth().args(image).current_dir(desk.path()),
        2,
        "it is empty",
    );
    let wrap = ["mkimage", "-T", "script", "-C", "none", "-d", "pipe", "x"];
    fail(
        hearth().args(wrap).current_dir(desk.path()),
        2,
        "pipe is empty",
    );
}
