//! Owns an initrd that is a whole image: the root of a board that boots from memory alone.
//! Never adds anything to the image, and leaves nothing out.
//!
//! cpio newc, as the kernel's usr/gen_init_cpio.c writes it and init/initramfs.c reads it: names of one file have one inode
//! number, and the first of them has the content.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc;

use super::compress::Encoder;
use crate::image::index::{Image, Inode, Kind, Number};
use crate::output::AtomicFile;
use crate::recipe::Compression;

/// What the name of an image's root is in a cpio.
const ROOT: &str = ".";
/// As much of a file is read at once, in bytes.
const PIECE: usize = 1 << 16;

/// Writes the image as an initrd to `path`, compressed with gzip, which every kernel can unpack that unpacks anything.
///
/// # Errors
/// If the image cannot be read, a name is no UTF-8 or a file has 4 GiB or more, or `path` cannot be written.
pub fn whole(image: &Image, path: &Path) -> Result<()> {
    let mut out = Encoder::new(AtomicFile::create(path)?, Compression::Gzip)?;
    let mut names = Vec::new();
    image.walk(|name, number, inode| names.push((name.to_vec(), number, inode.clone())));
    let mut written = BTreeSet::new();
    for (name, number, inode) in names {
        let name = String::from_utf8(name).context("a name in the image is no UTF-8")?;
        let failed = || format!("/{name} of the image");
        entry(
            image,
            &name,
            number,
            &inode,
            written.insert(number),
            &mut out,
        )
        .with_context(failed)?;
    }
    newc::trailer(&mut out)?;
    match out {
        Encoder::Gzip(encoder) => encoder.finish()?.commit(),
        Encoder::Zstd(encoder) => encoder.finish()?.commit(),
        Encoder::None(file) => file.commit(),
    }
}

fn entry(
    image: &Image,
    name: &str,
    number: Number,
    inode: &Inode,
    is_first: bool,
    out: &mut impl Write,
) -> Result<()> {
    let (kind, device) = match inode.kind {
        Kind::File { .. } => (0o100_000, (0, 0)),
        Kind::Directory { .. } => (0o040_000, (0, 0)),
        Kind::Symlink { .. } => (0o120_000, (0, 0)),
        Kind::CharDevice { major, minor } => (0o020_000, (major, minor)),
        Kind::BlockDevice { major, minor } => (0o060_000, (major, minor)),
        Kind::Fifo => (0o010_000, (0, 0)),
    };
    let size = match inode.kind {
        Kind::File { size, .. } if is_first => size,
        Kind::Symlink { ref target } => target.len() as u64,
        _ => 0,
    };
    let size = u32::try_from(size).context("4 GiB and more do not fit into a cpio")?;
    let builder = newc::Builder::new(if name.is_empty() { ROOT } else { name })
        .mode(kind | inode.mode)
        .uid(inode.uid)
        .gid(inode.gid)
        .mtime(u32::try_from(inode.mtime).unwrap_or(u32::MAX))
        .nlink(inode.links)
        .ino(u32::try_from(number.get())?)
        .rdev_major(device.0)
        .rdev_minor(device.1);
    let mut writer = builder.write(&mut *out, size);
    match &inode.kind {
        Kind::Symlink { target } => writer.write_all(target)?,
        Kind::File { .. } if is_first => {
            let mut buffer = vec![0; PIECE];
            let mut offset = 0;
            loop {
                let count = image.read_at(number, offset, &mut buffer)?;
                if count == 0 {
                    break;
                }
                writer.write_all(&buffer[..count])?;
                offset += count as u64;
            }
        }
        _ => {}
    }
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;

    use common::tarball::{dir, file, hard_link, symlink, tar};

    use super::*;

    /// GNU cpio unpacks what was written.
    #[test]
    fn cpio_unpacks_the_image_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let entries = [
            dir("./", 0o755),
            dir("tmp/", 0o1777),
            file("bin/busybox", 0o4755, "elf"),
            hard_link("bin/sh", 0o4755, "bin/busybox"),
            symlink("init", "bin/busybox"),
            file("etc/empty", 0o600, ""),
        ];
        fs::write(path("root.tar"), tar(&entries)).unwrap();
        whole(
            &Image::open(&path("root.tar")).unwrap(),
            &path("initrd.img"),
        )
        .unwrap();
        fs::create_dir(path("out")).unwrap();
        let unpack = "gzip -dc ../initrd.img | cpio -id --quiet --no-absolute-filenames";
        let done = Command::new("sh")
            .args(["-c", unpack])
            .current_dir(path("out"))
            .status();
        assert!(done.unwrap().success());
        let meta = |name: &str| fs::symlink_metadata(path("out").join(name)).unwrap();
        assert_eq!(fs::read_to_string(path("out/bin/sh")).unwrap(), "elf");
        assert_eq!(meta("bin/sh").ino(), meta("bin/busybox").ino());
        assert_eq!(meta("bin/busybox").permissions().mode() & 0o7777, 0o4755);
        assert_eq!(meta("tmp").permissions().mode() & 0o7777, 0o1777);
        assert_eq!(
            fs::read_link(path("out/init")).unwrap(),
            Path::new("bin/busybox")
        );
        assert_eq!(
            (meta("etc/empty").len(), meta("etc/empty").mode() & 0o7777),
            (0, 0o600)
        );
    }
}
