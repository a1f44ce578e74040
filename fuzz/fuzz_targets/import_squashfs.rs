//! Squashfs images with arbitrary changes: no panic gets out, no flood of memory, an end in time, and what is imported is a
//! tar that hearth opens.
#![no_main]

use std::process::Command;
use std::sync::LazyLock;

use hearth::image::index::Image;
use hearth::import::convert_bytes;
use libfuzzer_sys::fuzz_target;

/// A small file system with files of every kind. With tables that are not compressed, so that changes reach them.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let work = tempfile::tempdir().unwrap();
    let script = [
        "mkdir -p tree/etc tree/usr/bin && echo hello > tree/etc/motd && ln tree/etc/motd tree/usr/hello &&          ln -s usr/bin tree/bin && seq 3000 > tree/usr/bin/numbers && mkfifo tree/pipe && ",
            "mksquashfs tree image -quiet -no-progress -nopad -noI -noX -all-root >/dev/null",
    ]
    .concat();
    let status = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(work.path())
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(work.path().join("image")).unwrap()
});

fuzz_target!(|changes: Vec<(u32, Vec<u8>)>| {
    let mut image = IMAGE.clone();
    let length = image.len();
    for (at, bytes) in changes {
        for (offset, byte) in bytes.iter().enumerate() {
            image[(at as usize + offset) % length] = *byte;
        }
    }
    let work = tempfile::tempdir_in("/dev/shm").unwrap();
    if let Ok(written) = convert_bytes(&image, None, work.path()) {
        let image = Image::open(&work.path().join("rootfs.tar")).unwrap();
        let mut names = 0;
        image.walk(|_, _, _| names += 1);
        assert_eq!(names, written.entries);
    }
});
