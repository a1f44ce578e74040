//! An image with something of everything, and servers of it in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::tarball::{dir, entry, file, hard_link, symlink, tar};
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
    let me = (1000, 1001);
    let mut entries = vec![
        dir("./", 0o755).mtime(0),
        symlink("bin", "usr/bin"),
        dir("dev/", 0o755),
        entry("dev/console", EntryType::Char, 0o620, "").device(5, 1),
        entry("dev/disk", EntryType::Block, 0o660, "").device(5, 1),
        entry("dev/fifo", EntryType::Fifo, 0o600, ""),
        dir("home/", 0o750).owner(me.0, me.1),
        file("home/secret", 0o600, "for the owner\n").owner(me.0, me.1),
        dir("huge/", 0o755),
    ];
    for number in 0..5000 {
        let name = format!("huge/entry-{number:05}-{}", "x".repeat(number % 90));
        entries.push(file(&name, 0o644, &name));
    }
    entries.extend([
        dir("tmp/", 0o1777),
        dir("usr/", 0o755),
        dir("usr/bin/", 0o755),
        file("usr/bin/empty", 0o644, ""),
        file("usr/bin/large", 0o644, pattern(9_000_001)),
        file("usr/bin/su", 0o4755, pattern(70_001)),
        hard_link("usr/bin/sudo", 0o4755, "usr/bin/su"),
    ]);
    let path = directory.join("rootfs.tar");
    std::fs::write(&path, tar(&entries)).unwrap();
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
