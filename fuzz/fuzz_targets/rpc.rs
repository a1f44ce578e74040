//! NFS, its ACLs, MOUNT and the portmapper on arbitrary messages: no panic, and no answer larger than a client may ask for.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use hearth::image::index::{Image, Number};
use hearth::netboot::net::access::Access;
use hearth::netboot::nfs;
use hearth::netboot::nfs::exports::{Export, Exports};
use hearth::netboot::nfs::mount::Mount;
use hearth::netboot::nfs::portmap::Portmap;
use hearth::netboot::rpc::{Peer, Program, Transport, answer};
use libfuzzer_sys::fuzz_target;

/// An image of a directory and a file, and the handle of its root.
static SERVER: LazyLock<(Vec<Arc<dyn Program>>, Vec<u8>)> = LazyLock::new(|| {
    let mut tar = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
    for (name, kind, data) in [
        ("./", tar::EntryType::Directory, &b""[..]),
        ("etc/", tar::EntryType::Directory, b""),
        ("etc/hostname", tar::EntryType::Regular, b"board\n"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    }
    let file = tar.into_inner().unwrap();
    let exports = Arc::new(Exports::default());
    let image = Image::open(file.path()).unwrap();
    let export = exports.insert(Export::new("image".into(), [1; 32], image, PathBuf::new()));
    let root = nfs::handle(&export, Number::ROOT).to_vec();
    let mut programs = nfs::programs(&exports);
    programs.push(Arc::new(Mount {
        exports,
        access: Arc::new(Access::new(vec![])),
        find: Box::new(|_| {}),
    }));
    programs.push(Arc::new(Portmap::new(2049, 2049, 111)));
    (programs, root)
});

/// The programs' numbers: NFS, its ACLs, MOUNT, the portmapper.
const PROGRAMS: [(u32, u32); 4] = [(100_003, 3), (100_227, 3), (100_005, 3), (100_000, 2)];

fuzz_target!(|input: (bool, u8, u8, bool, &[u8])| {
    let (udp, program, procedure, with_handle, bytes) = input;
    let (programs, root) = &*SERVER;
    let peer = Peer {
        address: "127.0.0.1:1000".parse().unwrap(),
        transport: if udp { Transport::Udp } else { Transport::Tcp },
        allowed: true,
    };
    let mut reply = Vec::new();
    answer(programs, peer, bytes, &mut reply);
    // A call whose head is right, so that the arguments are what is tried.
    let (program, version) = PROGRAMS[usize::from(program) % PROGRAMS.len()];
    let head = [
        1,
        0,
        2,
        program,
        version,
        u32::from(procedure) % 24,
        0,
        0,
        0,
        0,
    ];
    let mut call: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
    if with_handle {
        call.extend((root.len() as u32).to_be_bytes());
        call.extend(root);
    }
    call.extend(bytes);
    reply.clear();
    let tail = answer(programs, peer, &call, &mut reply);
    assert!(reply.len() + tail.map_or(0, |tail| tail.length) <= (1 << 20) + 4096);
});
