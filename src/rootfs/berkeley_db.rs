//! Owns the IDs of Berkeley DB files that scripts have made, such as Postfix's `aliases.db`: each run gives another one.
//! Never changes what is stored in them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::tree::{Attributes, Kind, Tree};

/// Where programs keep maps and tables.
const PLACES: [&str; 2] = ["etc", "var"];
/// Magic numbers of btree, hash, heap and queue files (Berkeley DB 5.3, `dbinc/db_page.h`), in the byte order of the host
/// that made them.
const MAGIC: [u32; 4] = [0x0005_3162, 0x0006_1561, 0x0007_4582, 0x0004_2253];
/// Offsets in a page of metadata, such as the file's first: `DBMETA` of `db_page.h`.
const MAGIC_AT: usize = 12;
const PAGE_SIZE_AT: usize = 20;
const ENCRYPTION_AT: usize = 24;
const FLAGS_AT: usize = 26;
const ID: std::ops::Range<usize> = 52..72;
/// The flag of pages that have a checksum.
const CHECKSUM: u8 = 1;
/// Larger files keep their ID, in bytes.
const LARGEST: i64 = 64 << 20;

/// Gives every Berkeley DB file an ID that depends on its path alone. Programs that share a cache tell files apart by it;
/// the library makes it of the inode's number, the time and the process.
///
/// # Errors
/// If a file cannot be read or written.
pub fn set_ids(tree: &mut Tree) -> Result<()> {
    let mut left: Vec<PathBuf> = PLACES.map(PathBuf::from).to_vec();
    while let Some(path) = left.pop() {
        match tree.kind(&path) {
            Some(Kind::Directory) => {
                left.extend(tree.list(&path)?.into_iter().map(|name| path.join(name)));
            }
            Some(Kind::File) if path.extension() == Some(OsStr::new("db")) => {
                set_id(tree, &path).with_context(|| {
                    format!("cannot give /{} of the image its ID", path.display())
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn set_id(tree: &mut Tree, path: &Path) -> Result<()> {
    let stat = tree.stat(path)?;
    if stat.st_size > LARGEST {
        return Ok(());
    }
    let mut data = tree.read(path)?.unwrap_or_default();
    if !has_id(&data) {
        return Ok(());
    }
    let (old, page_size) = (data[ID].to_vec(), page_size(&data));
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    for page in data.chunks_mut(page_size) {
        // Each database of the file has a page of metadata with the file's ID. The library does not clear the unused part of
        // other pages, which may hold what was in such a page.
        if page.get(ID) == Some(&*old) {
            page[ID].copy_from_slice(&digest[..ID.len()]);
        }
    }
    let attributes = Attributes {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: stat.st_mtime,
    };
    Ok(tree.replace(path, attributes, &mut &*data, &mut |_| {})?)
}

/// In bytes; of all of `data` if that says nothing sensible.
fn page_size(data: &[u8]) -> usize {
    let number = number_at(data, PAGE_SIZE_AT);
    let size = match MAGIC.contains(&u32::from_le_bytes(number_at(data, MAGIC_AT))) {
        true => u32::from_le_bytes(number),
        false => u32::from_be_bytes(number),
    };
    match size {
        512..=65536 => size as usize,
        _ => data.len(),
    }
}

fn number_at(data: &[u8], at: usize) -> [u8; 4] {
    [data[at], data[at + 1], data[at + 2], data[at + 3]]
}

/// Whether this begins with metadata without checksums or encryption, which the ID would be part of.
fn has_id(page: &[u8]) -> bool {
    if page.len() < ID.end {
        return false;
    }
    let number = number_at(page, MAGIC_AT);
    let is_one = |magic: &u32| number == magic.to_le_bytes() || number == magic.to_be_bytes();
    MAGIC.iter().any(is_one) && page[ENCRYPTION_AT] == 0 && page[FLAGS_AT] & CHECKSUM == 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn dump(path: &Path) -> Vec<u8> {
        let output = Command::new("db5.3_dump").arg(path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    fn make(path: &Path, kind: &str) {
        let mut loading = Command::new("db5.3_load")
            .args(["-T", "-t", kind])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = loading.stdin.take().unwrap();
        input
            .write_all(b"postmaster\nroot\nroot\nhearth\n")
            .unwrap();
        drop(input);
        assert!(loading.wait().unwrap().success());
    }

    #[test]
    fn two_runs_of_berkeley_db_give_the_same_file() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for kind in ["hash", "btree"] {
            let made = directories.each_ref().map(|directory| {
                let path = directory.path().join(format!("etc/{kind}.db"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                make(&path, kind);
                path
            });
            let are_equal = || fs::read(&made[0]).unwrap() == fs::read(&made[1]).unwrap();
            assert!(!are_equal());
            let before = dump(&made[0]);
            for directory in &directories {
                set_ids(&mut Tree::open(directory.path()).unwrap()).unwrap();
            }
            assert!(are_equal());
            assert!(dump(&made[0]) == before);
            let verified = Command::new("db5.3_verify").arg(&made[0]).output().unwrap();
            assert!(verified.status.success(), "{verified:?}");
        }
    }

    #[test]
    fn other_files_of_that_name_stay() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("var")).unwrap();
        for (name, content) in [("short.db", &b"SQLite"[..]), ("long.db", &[7; 4096])] {
            fs::write(directory.path().join("var").join(name), content).unwrap();
            set_ids(&mut Tree::open(directory.path()).unwrap()).unwrap();
            let now = fs::read(directory.path().join("var").join(name)).unwrap();
            assert!(now == content);
        }
    }
}
