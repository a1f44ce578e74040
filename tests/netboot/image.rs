//! A real image over NFS, every name and every byte of it: as the tar says it, to two clients that nobody here wrote.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Connection, Nfs3ConnectionBuilder};
use nfs3_types::nfs3::{
    GETATTR3args, READ3args, READDIRPLUS3args, READLINK3args, cookie3, cookieverf3, fattr3, ftype3,
    nfs_fh3,
};
use nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_types::xdr_codec::Opaque;
use sha2::{Digest, Sha256};
use tar::EntryType;
use tokio::net::TcpStream;

use crate::nfs_server::{ID, NfsServer};
use common::small::small;
use common::{oracle, succeed};

pub type Client = Nfs3Connection<TokioIo<TcpStream>>;

/// One name of a tree, as both sides can tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    /// Names of a file; 0 for a directory, where servers count as they like.
    links: u32,
    size: u64,
    device: (u32, u32),
    /// The target of a link, the hash of a file.
    content: Vec<u8>,
}

/// By path without a leading slash; the root's is empty.
type Tree = BTreeMap<Vec<u8>, Node>;

/// What the tar says, as the tar crate reads it.
fn tree_of_tar(path: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut links: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut tar = tar::Archive::new(File::open(path).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = trimmed(&entry.path_bytes());
        let kind = entry.header().entry_type();
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        if kind == EntryType::Link {
            links.push((name, trimmed(&target)));
            continue;
        }
        let mut content = target;
        if kind == EntryType::Regular {
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            content = Sha256::digest(&data).to_vec();
        }
        let header = entry.header();
        let device = match kind {
            EntryType::Char | EntryType::Block => (
                header.device_major().unwrap().unwrap(),
                header.device_minor().unwrap().unwrap(),
            ),
            _ => (0, 0),
        };
        let node = Node {
            kind: letter(kind),
            mode: header.mode().unwrap() & 0o7777,
            owner: (header.uid().unwrap() as u32, header.gid().unwrap() as u32),
            mtime: header.mtime().unwrap(),
            links: u32::from(kind != EntryType::Directory),
            size: match kind {
                EntryType::Regular => entry.size(),
                EntryType::Symlink => content.len() as u64,
                _ => 0,
            },
            device,
            content,
        };
        assert!(tree.insert(name, node).is_none());
    }
    let mut names: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for (_, target) in &links {
        *names.entry(target.clone()).or_default() += 1;
    }
    for (target, more) in names {
        tree.get_mut(&target).unwrap().links += more;
    }
    for (name, target) in links {
        tree.insert(name, tree[&target].clone());
    }
    tree
}

fn trimmed(name: &[u8]) -> Vec<u8> {
    let name = name.strip_prefix(b".").unwrap_or(name);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    name.strip_suffix(b"/").unwrap_or(name).to_vec()
}

fn letter(kind: EntryType) -> char {
    match kind {
        EntryType::Regular => 'f',
        EntryType::Directory => 'd',
        EntryType::Symlink => 'l',
        EntryType::Char => 'c',
        EntryType::Block => 'b',
        EntryType::Fifo => 'p',
        other => panic!("an image has no {other:?}"),
    }
}

/// A client that mounted an export, as root.
pub async fn mount(server: SocketAddr, export: &str) -> Client {
    let root = auth_unix {
        stamp: 0,
        machinename: Opaque::borrowed(b"test"),
        uid: 0,
        gid: 0,
        gids: vec![],
    };
    Nfs3ConnectionBuilder::new(TokioConnector, server.ip().to_string(), export)
        .connect_from_privileged_port(false)
        .mount_port(server.port())
        .nfs3_port(server.port())
        .credential(opaque_auth::auth_unix(&root))
        .mount()
        .await
        .unwrap()
}

/// What nfs3_client finds.
async fn tree_over_nfs(server: &NfsServer) -> Tree {
    let mut client = mount(server.address, &format!("/{ID}")).await;
    let object = client.root_nfs_fh3();
    let found = client.getattr(&GETATTR3args { object }).await.unwrap();
    let mut tree = Tree::new();
    let root = client.root_nfs_fh3();
    let mut left = vec![(Vec::new(), root, found.unwrap().obj_attributes)];
    while let Some((path, handle, attributes)) = left.pop() {
        let content = match attributes.type_ {
            ftype3::NF3DIR => {
                left.extend(list(&mut client, &path, &handle).await);
                Vec::new()
            }
            ftype3::NF3LNK => {
                let symlink = handle;
                let read = client.readlink(&READLINK3args { symlink }).await.unwrap();
                read.unwrap().data.0.to_vec()
            }
            ftype3::NF3REG => hash_of(&mut client, &handle).await,
            _ => Vec::new(),
        };
        tree.insert(path, node(&attributes, content));
    }
    tree
}

fn node(attributes: &fattr3, content: Vec<u8>) -> Node {
    let kind = match attributes.type_ {
        ftype3::NF3REG => 'f',
        ftype3::NF3DIR => 'd',
        ftype3::NF3LNK => 'l',
        ftype3::NF3CHR => 'c',
        ftype3::NF3BLK => 'b',
        ftype3::NF3FIFO => 'p',
        ftype3::NF3SOCK => 's',
    };
    Node {
        kind,
        mode: attributes.mode,
        owner: (attributes.uid, attributes.gid),
        mtime: u64::from(attributes.mtime.seconds),
        links: if kind == 'd' { 0 } else { attributes.nlink },
        size: if kind == 'd' { 0 } else { attributes.size },
        device: (attributes.rdev.specdata1, attributes.rdev.specdata2),
        content,
    }
}

/// The entries of a directory, with the path to it before their names.
pub async fn list(
    client: &mut Client,
    path: &[u8],
    directory: &nfs_fh3,
) -> Vec<(Vec<u8>, nfs_fh3, fattr3)> {
    let mut found = Vec::new();
    let (mut cookie, mut cookieverf) = (cookie3::default(), cookieverf3::default());
    loop {
        let arguments = READDIRPLUS3args {
            dir: directory.clone(),
            cookie,
            cookieverf,
            // Small, so that directories come in many pieces.
            dircount: 4096,
            maxcount: 16384,
        };
        let listed = client.readdirplus(&arguments).await.unwrap().unwrap();
        cookieverf = listed.cookieverf;
        for entry in listed.reply.entries.into_inner() {
            cookie = entry.cookie;
            let name = entry.name.0.to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let attributes = entry.name_attributes.unwrap();
            assert_eq!(attributes.fileid, entry.fileid);
            found.push((
                [path, separator, &name].concat(),
                entry.name_handle.unwrap(),
                attributes,
            ));
        }
        if listed.reply.eof {
            return found;
        }
    }
}

async fn hash_of(client: &mut Client, file: &nfs_fh3) -> Vec<u8> {
    let (mut hash, mut offset) = (Sha256::new(), 0);
    loop {
        let file = file.clone();
        let count = 256 << 10;
        let arguments = READ3args {
            file,
            offset,
            count,
        };
        let read = client.read(&arguments).await.unwrap().unwrap();
        hash.update(&*read.data.0);
        offset += read.data.0.len() as u64;
        if read.eof {
            return hash.finalize().to_vec();
        }
    }
}

#[test]
fn every_name_and_byte_of_an_image_comes_over_nfs_as_the_tar_has_it() {
    let tar = small().1.join("rootfs.tar");
    let server = NfsServer::start(&tar, &["127.0.0.0/8"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let found = runtime.block_on(tree_over_nfs(&server));
    let mut expected = tree_of_tar(&tar);
    for node in expected.values_mut() {
        // Some servers and clients take 0 for no time at all.
        node.mtime = node.mtime.max(1);
    }
    assert!(expected.len() > 1000, "{} names", expected.len());
    for (path, node) in &expected {
        let path_text = String::from_utf8_lossy(path);
        assert_eq!(found.get(path), Some(node), "/{path_text}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn libnfs_reads_every_file_of_an_image_as_the_tar_has_it() {
    let tar = small().1.join("rootfs.tar");
    let server = NfsServer::start(&tar, &["127.0.0.0/8"]);
    let port = server.address.port();
    let files: Vec<_> = tree_of_tar(&tar)
        .into_iter()
        .filter(|(_, node)| node.kind == 'f')
        .collect();
    let count = files.len();
    assert!(count > 1000, "{count} files");
    let left = Mutex::new(files);
    let read_some = || {
        loop {
            // The lock is let go before the file is read.
            let next = left.lock().unwrap().pop();
            let Some((path, node)) = next else {
                return;
            };
            let path = String::from_utf8(path).unwrap();
            let encoded = percent_encoded(&path);
            let url =
                format!("nfs://127.0.0.1/{ID}/{encoded}?version=3&nfsport={port}&mountport={port}");
            let got = succeed(oracle("nfs-cat").arg(url));
            let hash = Sha256::digest(&got.stdout);
            assert!(hash[..] == node.content[..], "/{path} differs");
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(read_some);
        }
    });
}

/// What libnfs' URLs would take for something else.
fn percent_encoded(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3F")
}
