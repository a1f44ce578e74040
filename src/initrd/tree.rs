//! Owns the content of an initrd under construction: a sorted tree of names in memory.
//! Never compresses it, and never selects the content.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use cpio::newc;

use crate::error::Fault;
use crate::image::index::{Image, Kind, Number};

/// The files of an initrd, by path (relative, without `.` and `..`).
#[derive(Debug, Default)]
pub struct InitrdTree {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File {
        executable: bool,
        content: Content,
    },
    Symlink(String),
    /// A character device, by major and minor number.
    Device(u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    /// A file of the image; its names in the initrd are hard links, as in the image.
    Image(Number),
}

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
/// The most symbolic links that Linux follows on one path.
const MAX_LINKS: usize = 40;

impl InitrdTree {
    /// Adds a directory and its parents.
    pub fn directory(&mut self, path: &str) {
        for (slash, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..slash].to_string())
                .or_insert(Node::Directory);
        }
        self.nodes
            .entry(path.to_string())
            .or_insert(Node::Directory);
    }

    pub fn file(&mut self, path: &str, executable: bool, content: impl Into<Vec<u8>>) {
        let content = Content::Bytes(content.into());
        self.put(
            path,
            Node::File {
                executable,
                content,
            },
        );
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.put(path, Node::Symlink(target.to_string()));
    }

    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.put(path, Node::Device(major, minor));
    }

    /// Copies what `path` resolves to in the image, under the same name: each symbolic link on the
    /// way, and the file. Returns the file's inode and its path without links.
    ///
    /// # Errors
    /// If it does not exist, or is not a file.
    pub fn take(&mut self, image: &Image, path: &str) -> Result<(Number, String)> {
        let (number, real) = self.take_links(image, path)?;
        let inode = image.inode(number);
        let Some(inode) = inode.filter(|inode| matches!(inode.kind, Kind::File { .. })) else {
            return Err(missing(image, path, "is not a file"));
        };
        let node = Node::File {
            executable: inode.mode & 0o111 != 0,
            content: Content::Image(number),
        };
        self.put(&real, node);
        Ok((number, real))
    }

    /// Copies the symbolic links on `path`'s way in the image, and returns the path without links.
    pub fn take_links(&mut self, image: &Image, path: &str) -> Result<(Number, String)> {
        let mut ahead: Vec<String> = path.rsplit('/').map(str::to_string).collect();
        let mut here: Vec<(Number, String)> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => {}
            }
            let directory = here.last().map_or(Number::ROOT, |(number, _)| *number);
            let number = image
                .lookup(directory, name.as_bytes())
                .ok_or_else(|| missing(image, path, "does not exist"))?;
            let place = match here.last() {
                Some((_, above)) => format!("{above}/{name}"),
                None => name,
            };
            match image.inode(number).map(|inode| &inode.kind) {
                Some(Kind::Symlink { target }) => {
                    links += 1;
                    ensure!(links <= MAX_LINKS, "{path}: too many symbolic links");
                    let target = std::str::from_utf8(target).context("a link's target")?;
                    self.symlink(&place, target);
                    if target.starts_with('/') {
                        here.clear();
                    }
                    ahead.extend(target.rsplit('/').map(str::to_string));
                }
                _ => here.push((number, place)),
            }
        }
        let (number, real) = here.pop().unwrap_or((Number::ROOT, String::new()));
        if image
            .inode(number)
            .is_some_and(|inode| inode.is_directory())
            && !real.is_empty()
        {
            self.directory(&real);
        }
        Ok((number, real))
    }

    pub fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    pub fn is_symlink(&self, path: &str) -> bool {
        matches!(self.nodes.get(path), Some(Node::Symlink(_)))
    }

    fn put(&mut self, path: &str, node: Node) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.nodes.insert(path.to_string(), node);
    }

    /// Writes the tree as a cpio archive (newc,
    /// Documentation/driver-api/early-userspace/buffer-format.rst): names in bytewise order, so
    /// that a directory precedes its content; owner 0, time 0, inodes numbered from 1; the names of
    /// a hard-linked file consecutively, the last with the data.
    pub fn write_cpio<W: Write>(&self, image: &Image, mut out: W) -> Result<W> {
        let mut names: BTreeMap<Number, Vec<&str>> = BTreeMap::new();
        for (path, node) in &self.nodes {
            if let Node::File {
                content: Content::Image(number),
                ..
            } = node
            {
                names.entry(*number).or_default().push(path);
            }
        }
        let mut inode = 0;
        for (path, node) in &self.nodes {
            let entry = |path: &str, mode| {
                newc::Builder::new(path)
                    .mode(mode)
                    .uid(0)
                    .gid(0)
                    .nlink(1)
                    .mtime(0)
            };
            inode += 1;
            out = match node {
                Node::Directory => {
                    let entry = entry(path, S_IFDIR | 0o755).nlink(2).ino(inode);
                    put_entry(out, entry, &[])?
                }
                Node::Symlink(target) => {
                    let entry = entry(path, S_IFLNK | 0o777).ino(inode);
                    put_entry(out, entry, target.as_bytes())?
                }
                Node::Device(major, minor) => {
                    let entry = entry(path, S_IFCHR | 0o600).ino(inode);
                    put_entry(out, entry.rdev_major(*major).rdev_minor(*minor), &[])?
                }
                Node::File {
                    executable,
                    content,
                } => {
                    let mode = S_IFREG | if *executable { 0o755 } else { 0o644 };
                    match content {
                        Content::Bytes(data) => put_entry(out, entry(path, mode).ino(inode), data)?,
                        Content::Image(number) => {
                            let links = &names[number];
                            if links[0] != path {
                                // Already written with its first name.
                                continue;
                            }
                            let data = image
                                .read(*number)
                                .with_context(|| format!("/{path} of the image"))?;
                            let (last, others) = links.split_last().expect("each has a name");
                            let count = links.len() as u32;
                            for other in others {
                                let entry = entry(other, mode).ino(inode).nlink(count);
                                out = put_entry(out, entry, &[])?;
                            }
                            put_entry(out, entry(last, mode).ino(inode).nlink(count), &data)?
                        }
                    }
                }
            };
        }
        Ok(newc::trailer(out)?)
    }
}

fn put_entry<W: Write>(out: W, entry: newc::Builder, data: &[u8]) -> Result<W> {
    let size = u32::try_from(data.len()).context("over 4 GiB, which cpio cannot hold")?;
    let mut writer = entry.write(out, size);
    writer.write_all(data)?;
    Ok(writer.finish()?)
}

fn missing(image: &Image, path: &str, what: &str) -> anyhow::Error {
    let path = path.trim_start_matches('/');
    Fault::input(format!("/{path} {what} in {}", image.path().display())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::tarball::{dir, file, hard_link, tar};

    /// The other reader is GNU cpio. Another digest here makes another of every initrd.
    #[test]
    fn the_bytes_of_a_small_tree_are_those_that_they_always_were() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rootfs.tar");
        let entries = [
            dir("./", 0o755),
            file("usr/bin/busybox", 0o755, "elf"),
            hard_link("usr/bin/sh", 0o755, "usr/bin/busybox"),
        ];
        std::fs::write(&path, tar(&entries)).unwrap();
        let image = Image::open(&path).unwrap();
        let mut tree = InitrdTree::default();
        tree.take(&image, "usr/bin/busybox").unwrap();
        tree.take(&image, "usr/bin/sh").unwrap();
        tree.file("init", true, "#!/bin/sh\n");
        tree.file("etc/modules", false, "nfs\n");
        tree.symlink("bin", "usr/bin");
        tree.device("dev/console", 5, 1);
        let cpio = tree.write_cpio(&image, Vec::new()).unwrap();

        let archive = directory.path().join("initrd.cpio");
        std::fs::write(&archive, &cpio).unwrap();
        let listed = common::succeed(
            common::oracle("cpio")
                .args(["-tv", "--numeric-uid-gid", "--quiet", "-F"])
                .arg(&archive)
                .env("TZ", "UTC"),
        );
        let listed = String::from_utf8(listed.stdout).unwrap();
        let date = "Jan  1  1970";
        assert_eq!(
            listed,
            format!(
                "lrwxrwxrwx   1 0        0               7 {date} bin -> usr/bin\n\
                 drwxr-xr-x   2 0        0               0 {date} dev\n\
                 crw-------   1 0        0          5,   1 {date} dev/console\n\
                 drwxr-xr-x   2 0        0               0 {date} etc\n\
                 -rw-r--r--   1 0        0               4 {date} etc/modules\n\
                 -rwxr-xr-x   1 0        0              10 {date} init\n\
                 drwxr-xr-x   2 0        0               0 {date} usr\n\
                 drwxr-xr-x   2 0        0               0 {date} usr/bin\n\
                 -rwxr-xr-x   2 0        0               0 {date} usr/bin/busybox\n\
                 -rwxr-xr-x   2 0        0               3 {date} usr/bin/sh\n"
            )
        );
        assert_eq!(
            common::sha256(&cpio),
            "384ff98f4ffebd76aaee6502ca5f7fb75110e4a2ded2d9026c7b1755f882d64f"
        );
    }
}
