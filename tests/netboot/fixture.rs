//! An image with something of everything, and servers of it in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth::image::index::Image;
use tar::EntryType;

use crate::nfs_server as nfs;

/// A file of this many bytes that no two blocks of are alike.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
        .take(length)
        .collect()
}

/// An image with something of everything, one huge directory and one large file.
pub fn make_image(directory: &Path) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: EntryType, mode: u32, name: &str, data: &[u8], link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(if name.starts_with("home") { 1000 } else { 0 });
        header.set_gid(if name.starts_with("home") { 1001 } else { 0 });
        header.set_mtime(if name == "./" { 0 } else { 1_700_000_000 });
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(5).unwrap();
            header.set_device_minor(1).unwrap();
        }
        if link.is_empty() {
            tar.append_data(&mut header, name, data).unwrap();
        } else {
            tar.append_link(&mut header, name, link).unwrap();
        }
    };
    add(EntryType::Directory, 0o755, "./", b"", "");
    add(EntryType::Symlink, 0o777, "bin", b"", "usr/bin");
    add(EntryType::Directory, 0o755, "dev/", b"", "");
    add(EntryType::Char, 0o620, "dev/console", b"", "");
    add(EntryType::Block, 0o660, "dev/disk", b"", "");
    add(EntryType::Fifo, 0o600, "dev/fifo", b"", "");
    add(EntryType::Directory, 0o750, "home/", b"", "");
    add(
        EntryType::Regular,
        0o600,
        "home/secret",
        b"for the owner\n",
        "",
    );
    add(EntryType::Directory, 0o755, "huge/", b"", "");
    for number in 0..5000 {
        let name = format!("huge/entry-{number:05}-{}", "x".repeat(number % 90));
        add(EntryType::Regular, 0o644, &name, name.as_bytes(), "");
    }
    add(EntryType::Directory, 0o1777, "tmp/", b"", "");
    add(EntryType::Directory, 0o755, "usr/", b"", "");
    add(EntryType::Directory, 0o755, "usr/bin/", b"", "");
    add(EntryType::Regular, 0o644, "usr/bin/empty", b"", "");
    add(
        EntryType::Regular,
        0o644,
        "usr/bin/large",
        &pattern(9_000_001),
        "",
    );
    add(
        EntryType::Regular,
        0o4755,
        "usr/bin/su",
        &pattern(70_001),
        "",
    );
    add(EntryType::Link, 0o4755, "usr/bin/sudo", b"", "usr/bin/su");
    let path = directory.join("rootfs.tar");
    std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
    path
}

/// hearth's server over such an image.
pub struct NfsServer {
    server: nfs::NfsServer,
    _directory: tempfile::TempDir,
}

impl std::ops::Deref for NfsServer {
    type Target = nfs::NfsServer;

    fn deref(&self) -> &nfs::NfsServer {
        &self.server
    }
}

impl NfsServer {
    pub fn start(allowed: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = nfs::NfsServer::start(&make_image(directory.path()), allowed);
        NfsServer {
            server,
            _directory: directory,
        }
    }

    pub fn url(&self, path: &str) -> String {
        let port = self.address.port();
        format!("nfs://127.0.0.1/test-image{path}?version=3&nfsport={port}&mountport={port}")
    }

    pub fn image(&self) -> Arc<Image> {
        self.exports.by_id("test-image").unwrap().image.clone()
    }
}
