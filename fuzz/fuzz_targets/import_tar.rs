//! Tars of arbitrary headers with right checksums: no panic, no flood of memory, and what is imported is a tar that
//! hearth opens, with as many entries as it says.
#![no_main]

use std::path::Path;

use hearth::image::index::Image;
use hearth::import::convert_bytes;
use libfuzzer_sys::fuzz_target;

/// A member: its type, its name, where it leads, records of a pax header before it, and its content.
type Member = (u8, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

const TYPES: &[u8] = b"0015234567SLKVxgD";

fuzz_target!(|input: (Vec<Member>, Vec<(u16, u8)>)| {
    let (members, changes) = input;
    let mut tar = Vec::new();
    for (kind, name, link, records, content) in &members {
        if !records.is_empty() {
            add(&mut tar, b'x', b"pax", b"", &pax(records));
        }
        let kind = TYPES[usize::from(*kind) % TYPES.len()];
        add(&mut tar, kind, name, link, content);
    }
    for (at, byte) in changes {
        if let Some(place) = tar.get_mut(usize::from(at)) {
            *place = byte;
        }
    }
    // Right again where they were: else nothing but checksums is tried.
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            sum(block);
        }
    }
    tar.extend([0; 1024]);
    imported(&tar);
});

/// Imports, and opens what came of it.
fn imported(bytes: &[u8]) {
    let work = tempfile::tempdir_in("/dev/shm").unwrap();
    let Ok(written) = convert_bytes(bytes, None, work.path()) else {
        return;
    };
    let tar: &Path = &work.path().join("rootfs.tar");
    let image = Image::open(tar).unwrap();
    let mut names = 0;
    image.walk(|path, _, _| {
        assert!(!path.split(|&byte| byte == b'/').any(|name| name == b".."));
        names += 1;
    });
    assert_eq!(names, written.entries);
}

/// A record for each line of the input, `KEYWORD=VALUE`.
fn pax(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let mut length = line.len() + 3;
        while length.to_string().len() + line.len() + 2 != length {
            length = length.to_string().len() + line.len() + 2;
        }
        out.extend(length.to_string().bytes());
        out.push(b' ');
        out.extend(line);
        out.push(b'\n');
    }
    out
}

fn add(tar: &mut Vec<u8>, kind: u8, name: &[u8], link: &[u8], content: &[u8]) {
    let mut header = [0; 512];
    let length = name.len().min(100);
    header[..length].copy_from_slice(&name[..length]);
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = kind;
    let length = link.len().min(100);
    header[157..157 + length].copy_from_slice(&link[..length]);
    header[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut header);
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
