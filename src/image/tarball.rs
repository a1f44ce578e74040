//! Owns the deterministic tar of a directory tree: the same tree gives the same bytes. Never changes the
//! tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::EntryType;

pub use super::member::Contents;
use super::member::{ArchiveWriter, Member};

/// Writes the tree below `root` as a tar: the root is `./`, other names are relative without `./`,
/// directories end in `/`, sorted bytewise, with numeric owners. Modification times are clamped to
/// `epoch` (Unix seconds), and are the epoch for directories, whose own times depend on the build.
/// Sockets are left out, and so are paths for which `omit` returns true, with everything below.
///
/// # Errors
/// If a file cannot be read, or there is a device node.
pub fn write(
    root: &Path,
    epoch: i64,
    omit: &dyn Fn(&Path) -> bool,
    out: &mut dyn Write,
) -> Result<Contents> {
    let mut writer = Writer {
        root,
        epoch,
        omit,
        out: ArchiveWriter::new(out),
        links: HashMap::new(),
    };
    writer.directory(Path::new(""))?;
    writer.out.finish()
}

struct Writer<'a> {
    root: &'a Path,
    epoch: i64,
    omit: &'a dyn Fn(&Path) -> bool,
    out: ArchiveWriter<'a>,
    /// First names of files that have several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Writer<'_> {
    /// Writes a directory and everything below it.
    fn directory(&mut self, path: &Path) -> Result<()> {
        let full = self.root.join(path);
        let meta = full
            .symlink_metadata()
            .with_context(|| format!("cannot read {}", full.display()))?;
        self.entry(path, &meta)?;
        let mut names = Vec::new();
        let entries =
            std::fs::read_dir(&full).with_context(|| format!("cannot read {}", full.display()))?;
        for entry in entries {
            let entry = entry?;
            // With its slash, a directory sorts as its name in the tar does.
            let mut key = entry.file_name().as_bytes().to_vec();
            let is_directory = entry.file_type()?.is_dir();
            if is_directory {
                key.push(b'/');
            }
            names.push((key, entry.file_name(), is_directory));
        }
        names.sort();
        for (_, name, is_directory) in names {
            let path = path.join(name);
            if (self.omit)(&path) {
                continue;
            }
            if is_directory {
                self.directory(&path)?;
            } else {
                let full = self.root.join(&path);
                let meta = full
                    .symlink_metadata()
                    .with_context(|| format!("cannot read {}", full.display()))?;
                self.entry(&path, &meta)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, meta: &std::fs::Metadata) -> Result<()> {
        let full = self.root.join(path);
        let kind = meta.file_type();
        let mut link = None;
        let (entry_type, size) = if kind.is_dir() {
            (EntryType::Directory, 0)
        } else if kind.is_symlink() {
            link = Some(std::fs::read_link(&full)?);
            (EntryType::Symlink, 0)
        } else if kind.is_file() {
            if meta.nlink() > 1 {
                link = self.links.get(&(meta.dev(), meta.ino())).cloned();
            }
            match link {
                Some(_) => (EntryType::Link, 0),
                None => (EntryType::Regular, meta.size()),
            }
        } else if kind.is_fifo() {
            (EntryType::Fifo, 0)
        } else if kind.is_socket() {
            return Ok(());
        } else {
            anyhow::bail!("/{} of the image is a device node", path.display());
        };
        if entry_type == EntryType::Regular && meta.nlink() > 1 {
            self.links
                .insert((meta.dev(), meta.ino()), path.to_path_buf());
        }
        let attributes = match entry_type {
            EntryType::Link => Vec::new(),
            _ => extended_attributes(&full)?,
        };
        let mtime = if kind.is_dir() {
            self.epoch
        } else {
            meta.mtime().clamp(0, self.epoch)
        };
        let name = name_in_tar(path, kind.is_dir());
        let member = Member {
            name: &name,
            entry_type,
            size,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime,
            link: link.as_ref().map(|link| link.as_os_str().as_bytes()),
            device: None,
            attributes: &attributes,
        };
        if entry_type != EntryType::Regular {
            return self.out.member(&member);
        }
        let mut file =
            File::open(&full).with_context(|| format!("cannot read {}", full.display()))?;
        let changed = || format!("{} changed while it was read", full.display());
        self.out.file(&member, &mut file, &changed)
    }
}

pub(crate) fn name_in_tar(path: &Path, is_directory: bool) -> Vec<u8> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    if name.is_empty() {
        name.push(b'.');
    }
    if is_directory {
        name.push(b'/');
    }
    name
}

/// Extended attributes that belong to the image, sorted: capabilities and `user.*`; not the host's
/// ACLs and labels, nor overlayfs' own.
pub(crate) fn extended_attributes(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let failed = || format!("cannot read the extended attributes of {}", path.display());
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(failed),
    };
    let mut attributes = Vec::new();
    for name in names {
        let Some(text) = name.to_str().filter(|text| belongs(text)) else {
            continue;
        };
        if let Some(value) = xattr::get(path, OsStr::new(text)).with_context(failed)? {
            attributes.push((text.to_string(), value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

pub(crate) fn belongs(name: &str) -> bool {
    name == "security.capability"
        || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;
    use tar::Header;

    fn tar_of(root: &Path) -> Vec<u8> {
        let mut tar = Vec::new();
        let contents = write(root, 1_000_000_000, &|_| false, &mut tar).unwrap();
        assert_eq!(contents.size, tar.len() as u64);
        tar
    }

    #[test]
    fn gnu_tar_reads_back_what_was_written_and_the_order_is_bytewise() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let long = "n".repeat(120);
        fs::create_dir_all(root.join("a/deep").join(&long)).unwrap();
        fs::write(root.join("a-file"), "x").unwrap();
        fs::hard_link(root.join("a-file"), root.join("z-file")).unwrap();
        fs::write(root.join("a/deep").join(&long).join(&long), "long").unwrap();
        std::os::unix::fs::symlink("t".repeat(150), root.join("a/link")).unwrap();
        let tar = tar_of(&root);
        let names: Vec<Vec<u8>> = tar::Archive::new(&tar[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path_bytes().into_owned())
            .collect();
        assert_eq!(names[0], b"./");
        assert!(names[1..].is_sorted(), "{names:?}");
        let file = dir.path().join("t.tar");
        fs::write(&file, &tar).unwrap();
        let back = dir.path().join("back");
        fs::create_dir(&back).unwrap();
        let status = Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .arg("-C")
            .arg(&back)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(tar, tar_of(&back), "what tar made of it gives the same tar");
    }

    /// Makes root the owner of every entry: the tree of a test belongs to whoever runs it.
    fn owned_by_root(mut tar: Vec<u8>) -> Vec<u8> {
        let starts: Vec<u64> = tar::Archive::new(&tar[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().raw_header_position())
            .collect();
        for start in starts {
            let block = &mut tar[start as usize..][..512];
            let mut header = Header::from_byte_slice(block).clone();
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        tar
    }

    /// Images are known by the digest of this format: another one here makes another of every image.
    #[test]
    fn the_bytes_of_a_small_tree_are_those_that_they_always_were() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/su"), "setuid").unwrap();
        fs::hard_link(root.join("usr/bin/su"), root.join("usr/bin/sudo")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        let long = "n".repeat(120);
        fs::write(root.join(&long), "long").unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::empty()).unwrap();
        for (name, mode) in [
            ("", 0o755),
            ("usr", 0o755),
            ("usr/bin", 0o755),
            ("usr/bin/su", 0o4755),
            ("pipe", 0o600),
            (&long, 0o644),
        ] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(root.join(name), mode).unwrap();
        }
        let tar = owned_by_root(tar_of(&root));
        let file = dir.path().join("t.tar");
        fs::write(&file, &tar).unwrap();
        let listed = common::succeed(
            common::oracle("tar")
                .args(["--utc", "--numeric-owner", "-tvf"])
                .arg(&file),
        );
        let date = "2001-09-09 01:46";
        assert_eq!(
            String::from_utf8(listed.stdout).unwrap(),
            format!(
                "drwxr-xr-x 0/0               0 {date} ./\n\
                 lrwxrwxrwx 0/0               0 {date} bin -> usr/bin\n\
                 -rw-r--r-- 0/0               4 {date} {long}\n\
                 prw------- 0/0               0 {date} pipe\n\
                 drwxr-xr-x 0/0               0 {date} usr/\n\
                 drwxr-xr-x 0/0               0 {date} usr/bin/\n\
                 -rwsr-xr-x 0/0               6 {date} usr/bin/su\n\
                 hrwsr-xr-x 0/0               0 {date} usr/bin/sudo link to usr/bin/su\n"
            )
        );
        assert_eq!(
            common::sha256(&tar),
            "426e37ff7c31f1943c4d3db102ed0f1b0b35c7a0d339178bdff6abee996c20b3"
        );
    }
}
