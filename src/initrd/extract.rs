//! Owns unpacking an initrd into a directory. Never writes outside of that directory.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;

use super::read::{CpioEntry, FileType, read};

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    pub names: u64,
    /// Device nodes and other special files, which only root could make: skipped.
    pub left_out: Vec<String>,
}

/// Unpacks an initrd into `directory`, which is empty and not used by others. Owners and times are
/// not kept.
///
/// # Errors
/// As [`read`]; and if a name contains `..`, or its parent is not a directory of the initrd.
pub fn extract(input: impl BufRead, directory: &Path) -> Result<Extracted> {
    let mut unpacking = Unpacking {
        directory,
        made: BTreeMap::new(),
        linked: BTreeMap::new(),
        done: Extracted::default(),
    };
    read(input, &mut |entry, content| {
        unpacking
            .one(entry, content)
            .with_context(|| format!("`{}`", entry.path))
    })?;
    for (path, mode) in unpacking.made.iter().rev() {
        if let Some(mode) = mode {
            fs::set_permissions(
                directory.join(path),
                Permissions::from_mode(mode & 0o777 | 0o700),
            )
            .with_context(|| path.clone())?;
        }
    }
    Ok(unpacking.done)
}

struct Unpacking<'a> {
    directory: &'a Path,
    /// All names that exist so far; with the mode for directories.
    made: BTreeMap<String, Option<u32>>,
    /// The first name of each hard-linked file.
    linked: BTreeMap<(usize, (u32, u32, u32)), String>,
    done: Extracted,
}

impl Unpacking<'_> {
    fn one(&mut self, entry: &CpioEntry, content: &mut dyn Read) -> Result<()> {
        let components: Vec<&str> = entry
            .path
            .split('/')
            .filter(|component| !matches!(*component, "" | "."))
            .collect();
        ensure!(!components.contains(&".."), "a name with `..`");
        let Some((_, parents)) = components.split_last() else {
            return Ok(());
        };
        self.parents(parents)?;
        let path = components.join("/");
        let target = self.directory.join(&path);
        let kind = entry.file_type();
        match (self.made.get(&path), kind) {
            (None, _) | (Some(Some(_)), FileType::Directory) => {}
            (Some(Some(_)), _) => bail!("takes the place of a directory"),
            // As in the kernel, later entries replace earlier ones.
            (Some(None), _) if kind != FileType::Special => {
                fs::remove_file(&target)?;
                // Forgets the inode: a link may take this name, which a later hard link must not
                // follow.
                self.linked.retain(|_, first| *first != path);
            }
            (Some(None), _) => {}
        }
        match kind {
            FileType::Directory => {
                if !self.made.contains_key(&path) {
                    fs::create_dir(&target)?;
                }
                self.made.insert(path, Some(entry.mode));
            }
            FileType::Symlink => {
                let mut link = String::new();
                content
                    .take(4096)
                    .read_to_string(&mut link)
                    .context("the link's target")?;
                symlink(link, &target)?;
                self.made.insert(path, None);
            }
            FileType::File => {
                self.file(entry, content, &path, &target)?;
                self.made.insert(path, None);
            }
            FileType::Special => {
                self.done.left_out.push(path);
                return Ok(());
            }
        }
        self.done.names += 1;
        Ok(())
    }

    /// Creates the parent directories; none of them may be a link, which could lead out of the
    /// directory.
    fn parents(&mut self, parents: &[&str]) -> Result<()> {
        for depth in 1..=parents.len() {
            let path = parents[..depth].join("/");
            match self.made.get(&path) {
                Some(Some(_)) => {}
                Some(None) => bail!("lies below `{path}`, which is not a directory"),
                None => {
                    fs::create_dir(self.directory.join(&path))?;
                    self.made.insert(path, Some(0o755));
                }
            }
        }
        Ok(())
    }

    /// Writes a file or a hard link: in newc, only one name of a file carries the data.
    fn file(
        &mut self,
        entry: &CpioEntry,
        content: &mut dyn Read,
        path: &str,
        target: &Path,
    ) -> Result<()> {
        let id = (entry.archive, entry.inode);
        let first = self.linked.get(&id).filter(|first| *first != path).cloned();
        let mut file = match first {
            Some(first) if entry.links > 1 => {
                fs::hard_link(self.directory.join(first), target)?;
                File::options()
                    .write(true)
                    .custom_flags(OFlag::O_NOFOLLOW.bits())
                    .open(target)?
            }
            _ => {
                if entry.links > 1 {
                    self.linked.insert(id, path.to_string());
                }
                File::create_new(target)?
            }
        };
        if entry.size > 0 {
            file.set_len(0)?;
            io::copy(content, &mut file)?;
        }
        file.set_permissions(Permissions::from_mode(entry.mode & 0o777 | 0o600))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc;
    use std::io::Write;

    #[test]
    fn another_name_of_a_file_that_became_a_link_does_not_lead_out() {
        let own = tempfile::tempdir().unwrap();
        let outside = own.path().join("outside");
        fs::write(&outside, "mine").unwrap();
        let link = outside.to_str().unwrap().as_bytes();
        let mut archive = Vec::new();
        let members: [(&str, u32, u32, &[u8]); 3] = [
            ("a", 0o100_644, 5, b""),
            ("a", 0o120_777, 6, link),
            ("b", 0o100_755, 5, b"hostile"),
        ];
        for (name, mode, inode, data) in members {
            let builder = newc::Builder::new(name).mode(mode).ino(inode).nlink(2);
            let mut writer = builder.write(archive, data.len() as u32);
            writer.write_all(data).unwrap();
            archive = writer.finish().unwrap();
        }
        let archive = newc::trailer(archive).unwrap();
        let target = own.path().join("target");
        fs::create_dir(&target).unwrap();
        extract(&*archive, &target).unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"mine");
        assert_eq!(fs::read(target.join("b")).unwrap(), b"hostile");
        assert!(target.join("a").is_symlink());
    }
}
