//! NFS and MOUNT: libnfs as a client that nobody here wrote, and single calls made by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use hearth::image::index::{Kind, Number};
use hearth::netboot::nfs::exports::Handle;
use nfs3_types::nfs3::nfsstat3;
use nfs3_types::nfs3::{
    ACCESS3_EXECUTE, ACCESS3_LOOKUP, ACCESS3_MODIFY, ACCESS3_READ, ACCESS3res, FSINFO3res,
    GETATTR3res, Nfs3Result, READ3res, READDIRPLUS3res, fattr3,
};

use crate::fixture::NfsServer;
use crate::rpc::{Client, NFS, NFS_ACL, arguments, root_handle};
use common::{oracle, run, succeed};

#[test]
fn libnfs_lists_what_is_in_the_tar() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let listed = succeed(oracle("nfs-ls").arg("-R").arg(server.url("/")));
    let text = String::from_utf8(listed.stdout).unwrap();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut listed: Vec<String> = text.lines().map(words).collect();
    let mut expected = Vec::new();
    server.image().walk(|path, _, inode| {
        if path.is_empty() {
            return;
        }
        let kind = match inode.kind {
            Kind::Directory { .. } => 'd',
            Kind::Symlink { .. } => 'l',
            Kind::CharDevice { .. } => 'c',
            Kind::BlockDevice { .. } => 'b',
            Kind::File { .. } => '-',
            // nfs-ls has no letter for a FIFO.
            Kind::Fifo => ' ',
        };
        let bit = |bit: u32, letter: char| if inode.mode & bit != 0 { letter } else { '-' };
        let mode: String = (0..9)
            .rev()
            .map(|n| bit(1 << n, ['x', 'w', 'r'][n % 3]))
            .collect();
        expected.push((
            kind,
            mode,
            inode.links,
            inode.uid,
            inode.gid,
            inode.size(),
            path.to_vec(),
        ));
    });
    let mut expected: Vec<String> = expected
        .into_iter()
        .map(|(kind, mode, links, uid, gid, size, path)| {
            let path = String::from_utf8(path).unwrap();
            words(&format!("{kind}{mode} {links} {uid} {gid} {size} {path}"))
        })
        .collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed.len(), expected.len());
    for (listed, expected) in listed.iter().zip(&expected) {
        assert_eq!(listed, expected);
    }
}

#[test]
fn libnfs_reads_what_is_in_the_tar() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let image = server.image();
    for path in [
        "usr/bin/large",
        "usr/bin/su",
        "usr/bin/sudo",
        "usr/bin/empty",
        "huge/entry-00000-",
    ] {
        let got = succeed(oracle("nfs-cat").arg(server.url(&format!("/{path}"))));
        let expected = image.read(image.find(path).unwrap().number).unwrap();
        assert!(got.stdout == expected, "{path} differs");
    }
}

fn getattr(client: &mut Client, handle: &[u8]) -> Result<fattr3, nfsstat3> {
    let result: GETATTR3res = client.call(NFS, 1, &arguments(&[handle], &[]));
    match result {
        Nfs3Result::Ok(done) => Ok(done.obj_attributes),
        Nfs3Result::Err((status, _)) => Err(status),
    }
}

fn handle_of(server: &NfsServer, path: &str) -> [u8; Handle::LENGTH] {
    let export = server.exports.by_id("test-image").unwrap();
    let number = export.image.find(path).unwrap().number;
    hearth::netboot::nfs::handle(&export, number)
}

#[test]
fn attributes_are_exact() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(server.address);
    let root = getattr(&mut client, &root_handle(&server)).unwrap();
    // The tar says 0, which a directory never has over NFS.
    assert_eq!((root.mtime.seconds, root.mode, root.fileid), (1, 0o755, 1));
    let tmp = getattr(&mut client, &handle_of(&server, "tmp")).unwrap();
    assert_eq!((tmp.mode, tmp.mtime.seconds), (0o1777, 1_700_000_000));
    let su = getattr(&mut client, &handle_of(&server, "usr/bin/su")).unwrap();
    let sudo = getattr(&mut client, &handle_of(&server, "usr/bin/sudo")).unwrap();
    assert_eq!((su.mode, su.nlink, su.fileid), (0o4755, 2, sudo.fileid));
    let console = getattr(&mut client, &handle_of(&server, "dev/console")).unwrap();
    assert_eq!((console.rdev.specdata1, console.rdev.specdata2), (5, 1));
    let home = getattr(&mut client, &handle_of(&server, "home")).unwrap();
    assert_eq!((home.uid, home.gid, home.mode), (1000, 1001, 0o750));
    assert_eq!(home.fsid, root.fsid);
}

#[test]
fn every_procedure_that_writes_is_refused() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(server.address);
    let root = root_handle(&server);
    // SETATTR, WRITE … LINK and COMMIT; what follows the handle does not matter.
    for procedure in [2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21] {
        let reply = client.raw_call(NFS, procedure, &arguments(&[&root, b"name"], &[0; 8]));
        let status = u32::from_be_bytes(reply[..4].try_into().unwrap());
        assert_eq!(
            status,
            nfsstat3::NFS3ERR_ROFS as u32,
            "procedure {procedure}"
        );
        assert!(
            reply[4..].iter().all(|byte| *byte == 0),
            "procedure {procedure}"
        );
    }
}

#[test]
fn acls_say_what_the_mode_says() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(server.address);
    client.raw_call(NFS_ACL, 0, &[]);
    let ask = |client: &mut Client, path: &str, mask: u32| {
        let handle = handle_of(&server, path);
        let reply = client.raw_call(NFS_ACL, 1, &arguments(&[&handle], &[mask]));
        reply
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect::<Vec<_>>()
    };
    // Status, that attributes follow, and their 21 words.
    const HEAD: usize = 2 + 21;
    // Tag, id and permissions: owner, group, mask, others.
    let home = ask(&mut client, "home", 0xf);
    let acl = [4, 4, 1, 1000, 7, 4, 1001, 5, 0x10, 0, 5, 0x20, 0, 0];
    assert_eq!(home[HEAD..], [&[0xf][..], &acl, &[0, 0]].concat());
    // Only how many entries there are.
    let su = ask(&mut client, "usr/bin/su", 2);
    assert_eq!(su[HEAD..], [2, 4, 0, 0, 0]);
    // Bits that nobody knows, and setting an ACL, are refused; no attributes follow the status.
    let invalid = nfsstat3::NFS3ERR_INVAL as u32;
    assert_eq!(ask(&mut client, "home", 0x10), [invalid, 0]);
    let root = root_handle(&server);
    let reply = client.raw_call(NFS_ACL, 2, &arguments(&[&root], &[0xf]));
    assert_eq!(reply[..4], (nfsstat3::NFS3ERR_ROFS as u32).to_be_bytes());
    assert_eq!(reply[4..], [0; 4]);
}

#[test]
fn access_follows_the_modes_for_users_and_gives_root_all_but_writing() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let secret = handle_of(&server, "home/secret");
    let everything = u32::MAX;
    let ask = |uid: u32, gid: u32, handle: &[u8]| -> u32 {
        let mut client = Client::connect(server.address);
        client.credential = Some((uid, gid));
        let result: ACCESS3res = client.call(NFS, 4, &arguments(&[handle], &[everything]));
        result.unwrap().access
    };
    assert_eq!(
        ask(0, 0, &secret) & (ACCESS3_READ | ACCESS3_MODIFY),
        ACCESS3_READ
    );
    assert_eq!(ask(1000, 1001, &secret), ACCESS3_READ);
    assert_eq!(ask(1002, 1002, &secret), 0);
    assert_eq!(
        ask(1002, 1001, &handle_of(&server, "home")),
        ACCESS3_READ | ACCESS3_LOOKUP
    );
    assert_eq!(
        ask(1, 1, &handle_of(&server, "usr/bin/su")),
        ACCESS3_READ | ACCESS3_EXECUTE
    );
    // Reading is refused by the server too, not only by the client's good manners.
    let mut client = Client::connect(server.address);
    client.credential = Some((1002, 1002));
    let result: READ3res<'_> = client.call(NFS, 6, &arguments(&[&secret], &[0, 0, 100]));
    assert!(matches!(
        result,
        Nfs3Result::Err((nfsstat3::NFS3ERR_ACCES, _))
    ));
}

#[test]
fn reads_are_clamped_and_end_where_the_file_ends() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(server.address);
    let large = handle_of(&server, "usr/bin/large");
    let info: FSINFO3res = client.call(NFS, 19, &arguments(&[&root_handle(&server)], &[]));
    assert_eq!(info.unwrap().rtmax, 1 << 20);
    let expected = crate::fixture::pattern(9_000_001);
    for (offset, count, length, eof) in [
        (0u32, u32::MAX, 1 << 20, false),
        (5, 3, 3, false),
        (8_999_999, 1 << 20, 2, true),
        (9_000_001, 10, 0, true),
        (u32::MAX, 10, 0, true),
    ] {
        let result: READ3res<'_> = client.call(NFS, 6, &arguments(&[&large], &[0, offset, count]));
        let done = result.unwrap();
        assert_eq!(
            (done.count as usize, done.eof),
            (length, eof),
            "at {offset}"
        );
        let start = (offset as usize).min(expected.len());
        assert!(*done.data == expected[start..start + length], "at {offset}");
    }
}

#[test]
fn a_huge_directory_is_listed_in_pieces_from_any_cookie() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(server.address);
    let huge = handle_of(&server, "huge");
    let (mut names, mut cookies) = (Vec::new(), vec![0u64]);
    let mut verifier = [0; 8];
    loop {
        let cookie = *cookies.last().unwrap();
        let done = readdirplus(&mut client, &huge, cookie, verifier, 4000).unwrap();
        verifier = done.cookieverf.0;
        for entry in &done.reply.entries.0 {
            names.push(entry.name.0.to_vec());
            cookies.push(entry.cookie);
        }
        if done.reply.eof {
            break;
        }
    }
    assert_eq!(names.len(), 5002);
    assert!(names[2..].is_sorted() && names[..2] == [b".".to_vec(), b"..".to_vec()]);
    // A client that comes back with any cookie goes on right after it, also after a restart.
    let again = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(again.address);
    for at in [1, 2, 3, 777, 5000, 5001] {
        let done = readdirplus(&mut client, &huge, cookies[at], verifier, 4000).unwrap();
        assert_eq!(done.reply.entries.0[0].name.0.to_vec(), names[at]);
    }
    for (cookie, verifier) in [(5003, verifier), (7, [1; 8])] {
        let refused = readdirplus(&mut client, &huge, cookie, verifier, 4000);
        assert_eq!(refused.unwrap_err(), nfsstat3::NFS3ERR_BAD_COOKIE);
    }
    let small = readdirplus(&mut client, &huge, 0, [0; 8], 100);
    assert_eq!(small.unwrap_err(), nfsstat3::NFS3ERR_TOOSMALL);
}

fn readdirplus(
    client: &mut Client,
    directory: &[u8],
    cookie: u64,
    verifier: [u8; 8],
    max: u32,
) -> Result<nfs3_types::nfs3::READDIRPLUS3resok<'static>, nfsstat3> {
    let mut data = arguments(&[directory], &[(cookie >> 32) as u32, cookie as u32]);
    data.extend(verifier);
    data.extend(max.to_be_bytes());
    data.extend(max.to_be_bytes());
    let result: READDIRPLUS3res<'static> = client.call(NFS, 17, &data);
    match result {
        Nfs3Result::Ok(done) => Ok(done),
        Nfs3Result::Err((status, _)) => Err(status),
    }
}

#[test]
fn handles_survive_a_restart_and_are_stale_once_the_image_is_gone() {
    let first = NfsServer::start(&["127.0.0.0/8"]);
    let handle = handle_of(&first, "usr/bin/su");
    drop(first);
    let second = NfsServer::start(&["127.0.0.0/8"]);
    let mut client = Client::connect(second.address);
    assert_eq!(getattr(&mut client, &handle).unwrap().mode, 0o4755);
    assert_eq!(
        getattr(&mut client, b"nonsense").unwrap_err(),
        nfsstat3::NFS3ERR_BADHANDLE
    );
    let beyond = Handle {
        prefix: second.exports.by_id("test-image").unwrap().prefix(),
        number: Number::new(1_000_000).unwrap(),
    };
    let refused = getattr(&mut client, &beyond.to_bytes()).unwrap_err();
    assert_eq!(refused, nfsstat3::NFS3ERR_STALE);
    let export = second.exports.by_id("test-image").unwrap();
    second.exports.remove(&export);
    assert_eq!(
        getattr(&mut client, &handle).unwrap_err(),
        nfsstat3::NFS3ERR_STALE
    );
}

#[test]
fn clients_outside_the_allowed_networks_are_refused() {
    let server = NfsServer::start(&["10.1.2.0/24"]);
    let output = run(oracle("nfs-ls").arg(server.url("/")));
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn two_hundred_clients_walk_the_image_at_once() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let huge = handle_of(&server, "huge");
    let large = handle_of(&server, "usr/bin/large");
    let address = server.address;
    let walkers: Vec<_> = (0..200)
        .map(|number: u32| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let (mut cookie, mut verifier, mut seen) = (0, [0; 8], 0);
                loop {
                    let done = readdirplus(&mut client, &huge, cookie, verifier, 32768).unwrap();
                    seen += done.reply.entries.0.len();
                    verifier = done.cookieverf.0;
                    cookie = done
                        .reply
                        .entries
                        .0
                        .last()
                        .map_or(cookie, |entry| entry.cookie);
                    if done.reply.eof {
                        break;
                    }
                }
                let data = arguments(&[&large], &[0, number * 1000, 65536]);
                let result: READ3res<'static> = client.call(NFS, 6, &data);
                (seen, result.unwrap().count)
            })
        })
        .collect();
    for walker in walkers {
        assert_eq!(walker.join().unwrap(), (5002, 65536));
    }
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_a_transfer_harms_nobody() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let large = handle_of(&server, "usr/bin/large");
    for _ in 0..20 {
        let mut client = Client::connect(server.address);
        for _ in 0..8 {
            client.send(NFS, 6, &arguments(&[&large], &[0, 0, 1 << 20]));
        }
        let mut some = [0; 1000];
        client.stream.read_exact(&mut some).unwrap();
        drop(client);
    }
    let mut client = Client::connect(server.address);
    assert!(getattr(&mut client, &large).is_ok());
}

#[test]
fn many_calls_in_flight_are_all_answered_and_so_is_one_that_comes_twice() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let root = root_handle(&server);
    let mut client = Client::connect(server.address);
    let mut answered = 0;
    for _ in 0..1000 {
        client.xid = 7;
        client.send(NFS, 1, &arguments(&[&root], &[]));
    }
    while answered < 1000 {
        let (xid, _) = client.receive();
        assert_eq!(xid, 7);
        answered += 1;
    }
}

#[test]
fn endless_oversized_and_broken_records_leave_the_server_up() {
    let server = NfsServer::start(&["127.0.0.0/8"]);
    let connect = || {
        let stream = TcpStream::connect(server.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    };
    // A record larger than any call: the connection is closed.
    let mut stream = connect();
    stream
        .write_all(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3])
        .unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    // Fragments that never end.
    let mut stream = connect();
    let fragment = [&[0, 0, 4, 0][..], &[0; 1024]].concat();
    let refused = (0..10_000).any(|_| stream.write_all(&fragment).is_err());
    assert!(refused, "ten megabytes of one record were taken");
    // A record that stops in the middle, from many clients that stay.
    let waiting: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(&[0x80, 0, 1, 0, 0, 0]).unwrap();
            stream
        })
        .collect();
    let mut client = Client::connect(server.address);
    assert!(getattr(&mut client, &root_handle(&server)).is_ok());
    drop(waiting);
}
