//! A cache that others can write to.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hearth::archive::Cache;
use hearth::progress::NoProgress;
use hearth::recipe::Lock;
use sha2::{Digest, Sha256};

use crate::{IMPATIENT, contents, fetcher, lock, locked};
use common::archive::{Act, Server};
use common::{oracle, succeed};

/// Puts other content in the place of a cached file, with its size and its date.
fn swap(path: &Path, content: &[u8]) {
    let before = fs::metadata(path).unwrap();
    assert_eq!(before.len(), content.len() as u64);
    // The kernel's clock for inodes is coarse before Linux 6.13.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(content).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

/// The other index names a version of p0 that the archive never had. It is padded to the right size with zeros, which xz passes
/// over.
#[test]
fn an_index_that_was_swapped_in_the_cache_is_not_believed() {
    let (archive, before) = locked(&[10, 10, 10, 10]);
    let recipe = archive.path("test.toml");
    let index = fs::read(archive.path("dists/trixie/main/binary-armhf/Packages.xz")).unwrap();
    let hash = hex::encode(Sha256::digest(&index));
    let cached = Cache::at(archive.path("cache")).path(&hash);
    assert!(cached.exists());
    let evil = archive.path("evil");
    let text = archive
        .index()
        .replace("Package: p0\nVersion: 1\n", "Package: p0\nVersion: 9\n");
    let end = text.find("Package: p3").unwrap();
    fs::write(&evil, &text[..end]).unwrap();
    let mut evil = succeed(oracle("xz").arg("-c").arg(&evil)).stdout;
    assert!(evil.len() <= index.len(), "{} {}", evil.len(), index.len());
    evil.resize(index.len(), 0);
    swap(&cached, &evil);
    // Without p3, so that the other index would do.
    let recipe_text = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, recipe_text.replace(", \"p3\"", "")).unwrap();
    let output = succeed(lock(&archive, &recipe, &archive.address()).arg("--update"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("is not what its name says"), "{told}");
    let after = Lock::load(&recipe.with_extension("lock")).unwrap();
    let p0 = |lock: &Lock| lock.packages.iter().find(|p| p.name == "p0").cloned();
    assert_eq!(p0(&after), p0(&before));
}

#[test]
fn a_package_that_was_swapped_in_the_cache_is_fetched_again() {
    let (archive, lock) = locked(&[5_000, 5_000]);
    let server = Server::start(archive.dir.path(), |_, _| Act::Serve);
    let get = |offline: bool| {
        // As another run of hearth, which knows what the earlier one has kept on the disk.
        let mut fetcher = fetcher(&archive, &server.address, IMPATIENT);
        fetcher.offline = offline;
        fetcher.packages(&lock, archive.dir.path(), &NoProgress)
    };
    let paths = get(false).unwrap();
    get(true).unwrap();
    let swapped = paths.last().unwrap();
    swap(swapped, &[7; 5_000]);
    let error = get(true).unwrap_err();
    assert!(error.to_string().contains("not in the cache"), "{error}");
    contents(&get(false).unwrap(), &lock);
    // A memory of what was hashed that somebody else has written.
    swap(swapped, &[7; 5_000]);
    let memory = archive.path("cache/verified");
    let text = fs::read_to_string(&memory).unwrap();
    fs::write(
        &memory,
        text.replace("\\\"size\\\":5000", "\\\"size\\\":5001"),
    )
    .unwrap();
    contents(&get(false).unwrap(), &lock);
}
