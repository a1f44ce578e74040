//! Initrds of arbitrary bytes, and of sound archives with arbitrary names, links and contents, compressed or not: no panic, no
//! flood of memory, what is listed is what was packed, and nothing is unpacked outside of its directory.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use hearth::initrd::{Listing, compare, extract, list};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

/// A name: its type, its inode, where it is, and what it holds.
type Entry = (u8, u8, String, Vec<u8>);

const TYPES: [u32; 5] = [0o100_644, 0o040_755, 0o120_777, 0o020_600, 0o100_755];

fuzz_target!(|input: (&[u8], u8, Vec<Entry>)| {
    let (bytes, compression, entries) = input;
    let _ = list(bytes);
    unpacked(bytes);
    let plain = archive(&entries);
    let packed = compressed(compression, &plain);
    let Ok(listing) = list(&*packed) else {
        // What was sound as it is must be so when it is compressed.
        assert!(list(&*plain).is_err());
        return;
    };
    packed_as(&entries, &listing);
    assert!(compare(&listing, &list(&*plain).unwrap()).is_empty());
    unpacked(&packed);
    // The magic alone, so that the decoder is what is tried.
    let magic = packed.len().min(6);
    let _ = list(&*[&packed[..magic], bytes].concat());
});

/// A cpio archive (newc), as the kernel's buffer-format.rst has it.
fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, (kind, inode_of, name, data)) in entries.iter().enumerate() {
        let mode = TYPES[usize::from(*kind) % TYPES.len()];
        let links = 1 + u32::from(inode_of % 2);
        let inode = if links > 1 {
            u32::from(*inode_of)
        } else {
            1000 + inode as u32
        };
        // A directory holds nothing.
        let data = if mode == TYPES[1] { &[][..] } else { data };
        member(&mut out, &name.replace('\0', ""), mode, inode, links, data);
    }
    member(&mut out, "TRAILER!!!", 0, 0, 1, b"");
    out
}

fn member(out: &mut Vec<u8>, name: &str, mode: u32, inode: u32, links: u32, data: &[u8]) {
    let size = data.len() as u32;
    let length = name.len() as u32 + 1;
    out.extend(b"070701");
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, length, 0] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn compressed(compression: u8, plain: &[u8]) -> Vec<u8> {
    match compression % 4 {
        0 => plain.to_vec(),
        1 => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(plain).unwrap();
            gzip.finish().unwrap()
        }
        2 => zstd::encode_all(plain, 1).unwrap(),
        _ => {
            let block = lz4_flex::block::compress(plain);
            let length = (block.len() as u32).to_le_bytes();
            [&[0x02, 0x21, 0x4c, 0x18][..], &length, &block].concat()
        }
    }
}

/// Of names that come once, the listing has the content.
fn packed_as(entries: &[Entry], listing: &Listing) {
    assert_eq!(listing.archives.len(), 1);
    let mut names = BTreeMap::<&str, usize>::new();
    for (_, _, name, _) in entries {
        let name = name.trim_start_matches('/');
        *names
            .entry(name.strip_prefix("./").unwrap_or(name))
            .or_default() += 1;
    }
    for (kind, _, name, data) in entries {
        let is_file = TYPES[usize::from(*kind) % TYPES.len()] == TYPES[0];
        let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
        if is_file && is_plain && names[name.as_str()] == 1 {
            let digest: String = Sha256::digest(data)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(listing.files[name].sha256, digest, "{name}");
        }
    }
}

fn unpacked(initrd: &[u8]) {
    let own = tempfile::tempdir_in("/dev/shm").unwrap();
    let outside = own.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let target = own.path().join("target");
    fs::create_dir(&target).unwrap();
    let _ = extract(initrd, &target);
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    let names = |directory: &Path| fs::read_dir(directory).unwrap().count();
    assert_eq!(names(own.path()), 2);
}
