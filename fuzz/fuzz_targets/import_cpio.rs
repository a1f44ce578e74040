//! Initramfs archives of arbitrary entries, and damaged ones: no panic, no flood of memory, and what is imported is a
//! tar that hearth opens.
#![no_main]

use hearth::image::index::Image;
use hearth::import::convert_bytes;
use libfuzzer_sys::fuzz_target;

/// An entry: its mode, inode, links, name and content.
type Entry = (u16, u8, u8, Vec<u8>, Vec<u8>);

fuzz_target!(|input: (Vec<Entry>, Vec<(u16, u8)>)| {
    let (entries, changes) = input;
    let mut cpio = Vec::new();
    for (mode, inode, links, name, content) in &entries {
        add(&mut cpio, *mode, *inode, *links, name, content);
    }
    add(&mut cpio, 0, 0, 1, b"TRAILER!!!", b"");
    for (at, byte) in changes {
        // The magic stays, so that it is taken for a cpio.
        if let Some(place) = cpio.get_mut(usize::from(at.max(6))) {
            *place = byte;
        }
    }
    let work = tempfile::tempdir_in("/dev/shm").unwrap();
    if let Ok(written) = convert_bytes(&cpio, None, work.path()) {
        let image = Image::open(&work.path().join("rootfs.tar")).unwrap();
        let mut names = 0;
        image.walk(|_, _, _| names += 1);
        assert_eq!(names, written.entries);
    }
});

fn add(out: &mut Vec<u8>, mode: u16, inode: u8, links: u8, name: &[u8], content: &[u8]) {
    out.extend(b"070701");
    let (size, length) = (content.len() as u32, name.len() as u32 + 1);
    let (mode, inode, links) = (u32::from(mode), u32::from(inode), u32::from(links));
    for field in [inode, mode, 1000, 50, links, 1, size, 0, 0, 5, 1, length, 0] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}
