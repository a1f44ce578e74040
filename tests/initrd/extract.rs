//! `hearth initrd extract` and `show` of initrds that somebody else made.

use std::fs;
use std::io::Write;

use common::{fail, hearth, succeed};

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
