//! Owns what differs in Berkeley DB files from run to run, such as Postfix's `aliases.db`: their ID, and the time of a map.
//! Never changes what else is stored in them.

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

/// The key under which `postalias` stores when it ran (Postfix, `src/postalias/postalias.c`), in Unix seconds.
const TIME_KEY: &[u8] = b"YP_LAST_MODIFIED";
/// Digits of such a time.
const TIME_LENGTH: usize = 10;

/// Gives every Berkeley DB file an ID that depends on its path alone, and a map the time `epoch`. Programs that share a cache tell files apart by it;
/// the library makes it of the inode's number, the time and the process.
///
/// # Errors
/// If a file cannot be read or written.
pub fn normalise(tree: &mut Tree, epoch: i64) -> Result<()> {
    let mut left: Vec<PathBuf> = PLACES.map(PathBuf::from).to_vec();
    while let Some(path) = left.pop() {
        match tree.kind(&path) {
            Some(Kind::Directory) => {
                left.extend(tree.list(&path)?.into_iter().map(|name| path.join(name)));
            }
            Some(Kind::File) if path.extension() == Some(OsStr::new("db")) => {
                normalise_one(tree, &path, epoch).with_context(|| {
                    format!("cannot give /{} of the image its ID", path.display())
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn normalise_one(tree: &mut Tree, path: &Path, epoch: i64) -> Result<()> {
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
        set_times(page, epoch);
    }
    let attributes = Attributes {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: stat.st_mtime,
    };
    Ok(tree.replace(path, attributes, &mut &*data, &mut |_| {})?)
}

/// A page is filled from its end: a value lies right before its key, and between them the key's type and
/// length, what aligns it, and a NUL if the program stores one.
fn set_times(page: &mut [u8], epoch: i64) {
    let time = format!("{epoch:0TIME_LENGTH$}");
    if time.len() != TIME_LENGTH {
        return;
    }
    let keys: Vec<usize> = (0..page.len())
        .filter(|at| page[*at..].starts_with(TIME_KEY))
        .collect();
    for key in keys {
        let places = (1..=7).filter_map(|gap| key.checked_sub(gap + TIME_LENGTH));
        let is_time = |at: &usize| page[*at..at + TIME_LENGTH].iter().all(u8::is_ascii_digit);
        if let Some(at) = places.into_iter().find(is_time) {
            page[at..at + TIME_LENGTH].copy_from_slice(time.as_bytes());
        }
    }
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

    fn dump(path: &Path) -> String {
        let output = Command::new("db5.3_dump").arg(path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn make(path: &Path, kind: &str, time: &str) {
        let mut loading = Command::new("db5.3_load")
            .args(["-T", "-t", kind])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = loading.stdin.take().unwrap();
        let text = format!("postmaster\nroot\nYP_LAST_MODIFIED\n{time}\nroot\nhearth\n");
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(loading.wait().unwrap().success());
    }

    #[test]
    fn two_runs_of_berkeley_db_give_the_same_file() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for kind in ["hash", "btree"] {
            let times = ["1795851891", "1795851984"];
            let make_in = |(directory, time): (&tempfile::TempDir, &str)| {
                let path = directory.path().join(format!("etc/{kind}.db"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                make(&path, kind, time);
                path
            };
            let made: Vec<PathBuf> = directories.iter().zip(times).map(make_in).collect();
            let are_equal = || fs::read(&made[0]).unwrap() == fs::read(&made[1]).unwrap();
            assert!(!are_equal());
            let before = dump(&made[0]);
            let hex = |time: &str| {
                time.bytes()
                    .map(|digit| format!("{digit:02x}"))
                    .collect::<String>()
            };
            let expected = before.replace(&hex(times[0]), &hex("1000000000"));
            assert!(expected != before);
            for directory in &directories {
                normalise(&mut Tree::open(directory.path()).unwrap(), 1_000_000_000).unwrap();
            }
            assert!(are_equal());
            assert_eq!(dump(&made[0]), expected);
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
            normalise(&mut Tree::open(directory.path()).unwrap(), 1_000_000_000).unwrap();
            let now = fs::read(directory.path().join("var").join(name)).unwrap();
            assert!(now == content);
        }
    }
}
