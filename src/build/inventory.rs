//! Owns what a stage's tree consists of: each path with its mode, owner, time, content and extended attributes, and by
//! which stamp a change shows without reading a file. Never follows a link, and never opens a device.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What the columns of a list are called to the user, who is told of the first that differs.
const COLUMNS: [&str; 6] = [
    "kind",
    "content",
    "mode",
    "set of extended attributes",
    "owner",
    "time",
];

/// One path below the top.
struct FileRecord {
    path: PathBuf,
    meta: Metadata,
}

/// All paths of a tree: each directory before what is in it, and that by name.
pub struct Inventory {
    top: PathBuf,
    entries: Vec<FileRecord>,
}

impl Inventory {
    /// Looks at everything below `top`, without the entries of `top` that have these names.
    ///
    /// # Errors
    /// If something cannot be looked at.
    pub fn read(top: &Path, without: &[&str]) -> Result<Self> {
        let mut entries = Vec::new();
        // What comes first is last.
        let mut todo = children(top, Path::new(""))?;
        todo.retain(|child| !without.iter().any(|name| child.path == Path::new(name)));
        while let Some(next) = todo.pop() {
            if next.meta.is_dir() {
                todo.append(&mut children(top, &next.path)?);
            }
            entries.push(next);
        }
        Ok(Inventory {
            top: top.to_path_buf(),
            entries,
        })
    }

    /// A hash that is another one as soon as anything was written, linked, renamed or given other attributes: the
    /// kernel then sets the time of the inode's change, which no program can set. A copy of the tree has another one too.
    pub fn stamp(&self) -> String {
        let mut hash = Sha256::new();
        for FileRecord { path, meta } in &self.entries {
            hash.update(path.as_os_str().as_bytes());
            // No path holds a NUL.
            hash.update([0]);
            for number in [meta.ino(), meta.size(), u64::from(meta.mode())] {
                hash.update(number.to_le_bytes());
            }
            let times = [
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ];
            for (seconds, nanoseconds) in times {
                hash.update(seconds.to_le_bytes());
                hash.update(nanoseconds.to_le_bytes());
            }
        }
        hex::encode(hash.finalize())
    }

    /// One line for each path with what [`COLUMNS`] names, separated by tabs. It is the same for a faithful copy.
    /// `known` are contents whose SHA-256 need not be found again.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn list(&self, known: &BTreeMap<PathBuf, String>) -> Result<String> {
        let mut list = String::new();
        // The first path of each file that may have several.
        let mut first = HashMap::new();
        for FileRecord { path, meta } in &self.entries {
            let place = self.top.join(path);
            let same = (meta.is_file() && meta.nlink() > 1)
                .then(|| *first.entry((meta.dev(), meta.ino())).or_insert(path));
            let content = match (same, known.get(path)) {
                (Some(same), _) if same != path => format!("as {}", shown(same)),
                (_, Some(hash)) => hash.clone(),
                _ => content(&place, meta)
                    .with_context(|| format!("cannot read {}", place.display()))?,
            };
            let attributes = extended_attributes(&place).with_context(|| {
                format!("cannot read the extended attributes of {}", place.display())
            })?;
            let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
            list += &format!(
                "{}\t{}\t{content}\t{:o}\t{attributes}\t{}:{}\t{time}\n",
                shown(path),
                kind(meta),
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid(),
            );
        }
        Ok(list)
    }
}

/// What is directly in a directory below `top`, in reverse order of the names.
fn children(top: &Path, directory: &Path) -> Result<Vec<FileRecord>> {
    let place = top.join(directory);
    let failed = || format!("cannot read {}", place.display());
    let mut children = Vec::new();
    for entry in fs::read_dir(&place).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name();
        let meta = entry.metadata().with_context(failed)?;
        children.push((name, meta));
    }
    children.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let record = |(name, meta)| FileRecord {
        path: directory.join(name),
        meta,
    };
    Ok(children.into_iter().map(record).collect())
}

fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "link",
        () if kind.is_char_device() => "character-device",
        () if kind.is_block_device() => "block-device",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    }
}

/// A file's SHA-256, where a link points to, a device's number.
fn content(place: &Path, meta: &Metadata) -> io::Result<String> {
    let kind = meta.file_type();
    if kind.is_file() {
        return hash_file(place);
    }
    if kind.is_symlink() {
        return Ok(shown(&fs::read_link(place)?));
    }
    let is_device = kind.is_char_device() || kind.is_block_device();
    if is_device {
        return Ok(meta.rdev().to_string());
    }
    Ok(String::new())
}

fn hash_file(place: &Path) -> io::Result<String> {
    let mut file = File::open(place)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// Names and values, sorted; nothing on file systems that have none.
fn extended_attributes(place: &Path) -> io::Result<String> {
    let names = match xattr::list(place) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for name in names {
        let value = xattr::get(place, &name)?.unwrap_or_default();
        let name = name.as_bytes().escape_ascii();
        attributes.push(format!("{name}={}", hex::encode(value)));
    }
    attributes.sort();
    Ok(attributes.join(" "))
}

/// In what two lists differ, as the end of a sentence: `usr/bin/dpkg has another content`. The time of a directory, which
/// changes with what is in it, is told if there is nothing else to tell.
pub fn difference(before: &str, now: &str) -> Option<String> {
    let (before, now) = (by_path(before), by_path(now));
    let mut time = None;
    for (path, old) in &before {
        let Some(new) = now.get(path) else {
            return Some(format!("{path} is gone"));
        };
        let columns = old.split('\t').zip(new.split('\t')).zip(COLUMNS);
        let Some((_, what)) = columns.into_iter().find(|((old, new), _)| old != new) else {
            continue;
        };
        let told = format!("{path} has another {what}");
        if what == "time" && new.starts_with("directory\t") {
            time.get_or_insert(told);
        } else {
            return Some(told);
        }
    }
    let added = now.keys().find(|path| !before.contains_key(*path));
    added.map(|path| format!("{path} was added")).or(time)
}

/// The columns after the path.
fn by_path(list: &str) -> BTreeMap<&str, &str> {
    list.lines()
        .filter_map(|line| line.split_once('\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        fs::create_dir_all(top.join("usr/bin")).unwrap();
        fs::write(top.join("usr/bin/true"), "program").unwrap();
        fs::hard_link(top.join("usr/bin/true"), top.join("usr/bin/yes")).unwrap();
        fs::write(top.join("usr/bin/z\tx"), "odd name").unwrap();
        symlink("usr/bin", top.join("bin")).unwrap();
        xattr::set(top.join("usr/bin/true"), "user.note", b"x").unwrap();
        fs::write(top.join("seal"), "not of the tree").unwrap();
        directory
    }

    fn read(top: &Path) -> Inventory {
        Inventory::read(top, &["seal"]).unwrap()
    }

    fn list(top: &Path) -> String {
        read(top).list(&BTreeMap::new()).unwrap()
    }

    /// Each leaves size and time of a file as they were, where it can.
    #[test]
    fn every_change_shows_in_the_stamp_and_is_named() {
        type Change = fn(&Path);
        let swap: Change = |top| {
            let path = top.join("usr/bin/true");
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "PROGRAM").unwrap();
            File::open(&path).unwrap().set_modified(time).unwrap();
        };
        let mode: Change = |top| {
            fs::set_permissions(top.join("usr/bin/true"), Permissions::from_mode(0o4755)).unwrap();
        };
        let link: Change = |top| {
            fs::remove_file(top.join("bin")).unwrap();
            symlink("usr/lib", top.join("bin")).unwrap();
        };
        let time: Change = |top| {
            let file = File::open(top.join("usr/bin/z\tx")).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(9))
                .unwrap();
        };
        let changes: [(&str, Change); 8] = [
            ("usr/bin/true has another content", swap),
            ("usr/bin/true has another mode", mode),
            ("bin has another", link),
            (r"usr/bin/z\tx has another time", time),
            (
                "usr/bin/true has another set of extended attributes",
                |top| {
                    xattr::set(top.join("usr/bin/true"), "user.note", b"y").unwrap();
                },
            ),
            ("usr/bin/yes is gone", |top| {
                fs::remove_file(top.join("usr/bin/yes")).unwrap();
            }),
            ("usr/lib was added", |top| {
                fs::create_dir(top.join("usr/lib")).unwrap();
            }),
            ("zzz was added", |top| {
                fs::write(top.join("zzz"), "").unwrap()
            }),
        ];
        for (says, change) in changes {
            let directory = tree();
            let top = directory.path();
            let (stamp, before) = (read(top).stamp(), list(top));
            assert_eq!(read(top).stamp(), stamp);
            // The kernel's clock for inodes is coarse before Linux 6.13.
            std::thread::sleep(Duration::from_millis(20));
            change(top);
            assert_ne!(read(top).stamp(), stamp, "{says}");
            let now = list(top);
            let told = difference(&before, &now).unwrap();
            assert!(told.starts_with(says), "{says}: {told}");
        }
    }

    #[test]
    fn a_faithful_copy_has_another_stamp_and_the_same_list() {
        let directory = tree();
        let copy = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(directory.path())
            .arg(copy.path().join("copy"))
            .status();
        assert!(copied.unwrap().success());
        let copy = copy.path().join("copy");
        assert_ne!(read(&copy).stamp(), read(directory.path()).stamp());
        assert_eq!(list(&copy), list(directory.path()));
        let known = BTreeMap::from([(PathBuf::from("usr/bin/true"), "known".to_string())]);
        assert!(read(&copy).list(&known).unwrap().contains("known"));
    }
}
