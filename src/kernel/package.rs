//! Owns finding the parts of a kernel in a package: a `.deb`, what `make tar-pkg` makes, a tar of `make modules_install`.
//! Never installs one, and never writes outside the directory that it is given.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::form::is_release;
use super::parts::Parts;
use super::{modules, unpack};
use crate::archive::deb::Deb;
use crate::archive::limit::{Limited, each_entry};
use crate::error::{Fault, InputContext};
use crate::initrd::modinfo::is_module;
use crate::input;

/// What is taken out of one package together, in bytes.
const LARGEST: u64 = 8 << 30;

/// The start of a kernel's name in `boot/`, before its release; in the order of preference. A vmlinux is not bootable,
/// but told as such.
const KERNELS: [&str; 5] = [
    "vmlinuz-",
    "vmlinux-kbuild-",
    "Image-",
    "zImage-",
    "vmlinux-",
];

/// Whether a file is an archive that a kernel may be in, and no kernel itself.
///
/// # Errors
/// If it cannot be read.
pub fn is_package(path: &Path) -> Result<bool> {
    let failed = || format!("cannot read {}", path.display());
    let file = input::open(path).with_context(failed)?;
    let mut start = Vec::new();
    // A packed kernel has no tar inside; a damaged one is for whoever reads it as a kernel.
    let read =
        unpack::file(BufReader::new(file)).map(|plain| plain.take(512).read_to_end(&mut start));
    let is_tar = read.is_ok() && start.get(257..262) == Some(b"ustar");
    Ok(is_tar || start.starts_with(b"!<arch>\ndebian-binary") || has_tar_name(path))
}

/// A damaged archive is told as one, and not as a kernel of no known form.
fn has_tar_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [
        ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".deb",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

/// Unpacks what belongs to a kernel out of a package into an empty directory: the kernel, its configuration, its device
/// trees and its modules. Links are left out but for hard links.
///
/// # Errors
/// If the package is damaged or truncated, or has a name that leads out of it.
pub fn extract(package: &Path, into: &Path) -> Result<()> {
    let is_deb = {
        let mut start = [0; 8];
        let file = input::open(package);
        file.is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && &start == b"!<arch>\n"
    };
    let extracted = match is_deb {
        true => extract_deb(package, into),
        false => extract_tar(package, into),
    };
    // What a disk refuses is not the package's fault.
    extracted.map_err(|error| match error.downcast_ref::<Unwritable>() {
        Some(_) => error,
        None => error.context(
            Fault::input(format!(
                "{} is no sound package of a kernel",
                package.display()
            ))
            .remedy("make or fetch it again"),
        ),
    })
}

fn extract_deb(package: &Path, into: &Path) -> Result<()> {
    let mut deb = Deb::open(package)?;
    deb.control()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    take(deb.data(threads)?, into)
}

fn extract_tar(package: &Path, into: &Path) -> Result<()> {
    let file =
        input::open(package).with_context(|| format!("cannot open {}", package.display()))?;
    let plain = unpack::file(BufReader::with_capacity(1 << 17, file))?;
    take(plain, into)
}

/// A file could not be written: the reason is in the cause.
#[derive(Debug)]
struct Unwritable(PathBuf);

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write {}", self.0.display())
    }
}

/// Takes files out of a tar stream.
fn take(stream: impl Read, into: &Path) -> Result<()> {
    let what = format!("it unpacks to over {LARGEST} bytes");
    let mut stream = Ending::new(Limited::new(stream, LARGEST, what));
    each_entry(&mut stream, |entry| {
        let name = entry.path()?.into_owned();
        let Some(name) = plain_name(&name)? else {
            return Ok(());
        };
        if !is_of_a_kernel(&name) {
            return Ok(());
        }
        let path = into.join(&name);
        let kind = entry.header().entry_type();
        if kind.is_hard_link() {
            let target = entry.link_name()?.unwrap_or_default().into_owned();
            if let Some(target) = plain_name(&target)?
                && is_of_a_kernel(&target)
            {
                return link(&into.join(target), &path);
            }
        }
        if kind.is_file() {
            write(entry, &path)?;
        }
        Ok(())
    })?;
    if !stream.has_ended()? {
        return Err(Fault::input("it is truncated: the end of the tar is missing").into());
    }
    Ok(())
}

fn write(content: &mut impl Read, path: &Path) -> Result<()> {
    let unwritable = || Unwritable(path.to_path_buf());
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(unwritable)?;
    let mut file = File::create(path).with_context(unwritable)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = content.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        io::Write::write_all(&mut file, &buffer[..length]).with_context(unwritable)?;
    }
}

fn link(target: &Path, path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::hard_link(target, path))
        .input_context(|| "it has a hard link to what is not before it".to_string())
}

/// A member's name without `./`; `None` for the top itself.
fn plain_name(name: &Path) -> Result<Option<PathBuf>> {
    let mut plain = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            _ => {
                return Err(
                    Fault::input(format!("its member {} leads out of it", name.display())).into(),
                );
            }
        }
    }
    Ok((!plain.as_os_str().is_empty()).then_some(plain))
}

fn is_of_a_kernel(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let is_kernel = KERNELS.iter().any(|start| name.starts_with(start));
    is_kernel
        || name.starts_with("config-")
        || name.ends_with(".dtb")
        || (name.starts_with("modules.") && !name.ends_with(".bin"))
        || is_module(name)
}

/// Remembers whether the last block that was read is empty, as the end of a tar is.
struct Ending<R> {
    inner: R,
    zeros: u64,
}

impl<R: Read> Ending<R> {
    fn new(inner: R) -> Self {
        Ending { inner, zeros: 0 }
    }

    /// Reads to the end, by which checksums of the packed data are compared.
    fn has_ended(&mut self) -> Result<bool> {
        let has_ended = self.zeros >= 512;
        io::copy(self, &mut io::sink())?;
        Ok(has_ended)
    }
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let zeros = buffer[..read].iter().rev().take_while(|byte| **byte == 0);
        let zeros = zeros.count();
        if zeros < read {
            self.zeros = 0;
        }
        self.zeros += zeros as u64;
        Ok(read)
    }
}

/// The parts of the one kernel in a directory that a package was unpacked to, or that a kernel was installed to.
///
/// # Errors
/// If there is none, or several.
pub fn locate(directory: &Path) -> Result<Parts> {
    let kernels = kernels(directory);
    let releases: BTreeSet<&str> = kernels
        .iter()
        .map(|(release, _)| release.as_str())
        .collect();
    if releases.len() > 1 {
        let releases: Vec<&str> = releases.into_iter().collect();
        return Err(Fault::input(format!(
            "{} has several kernels: {}",
            directory.display(),
            releases.join(", ")
        ))
        .remedy("name the file of one of them, and its modules with --modules")
        .into());
    }
    let Some((release, image)) = kernels.first() else {
        return Err(Fault::input(format!(
            "{} has no kernel: it is no tree that one was built in, and has no boot/vmlinuz-RELEASE",
            directory.display()
        ))
        .remedy("give a kernel's tree, its zImage or Image, or a kernel package")
        .into());
    };
    let config = directory.join(format!("boot/config-{release}"));
    let has_modules = !modules::directories(directory).is_empty();
    Ok(Parts {
        image: image.clone(),
        config: config.is_file().then_some(config),
        device_trees: [
            format!("usr/lib/linux-image-{release}"),
            format!("boot/dtbs/{release}"),
            format!("boot/dtb-{release}"),
            format!("lib/firmware/{release}/device-tree"),
        ]
        .map(|place| directory.join(place))
        .to_vec(),
        modules: has_modules
            .then(|| modules::installed(directory, Some(release)))
            .transpose()?,
        release: Some(release.clone()),
    })
}

/// The kernels in `boot/` or at the top, each with its release, best form first.
fn kernels(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for place in [directory.join("boot"), directory.to_path_buf()] {
        for name in input::names_in(&place) {
            let starts = KERNELS.iter().enumerate();
            let mut known = starts.filter_map(|(rank, start)| {
                let release = name.strip_prefix(start)?;
                is_release(release).then(|| (rank, release.to_string(), place.join(&name)))
            });
            found.extend(known.next());
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|(_, release, path)| (release, path))
        .collect()
}

#[cfg(test)]
mod tests {
    use common::tarball::{dir, file, hard_link, symlink, tar};

    use super::*;

    fn kernel_tar() -> Vec<u8> {
        tar(&[
            dir("./", 0o755),
            file("./boot/vmlinuz-6.1.0-x", 0o644, "kernel"),
            file("./boot/config-6.1.0-x", 0o644, "CONFIG_ARM=y"),
            file("./boot/System.map-6.1.0-x", 0o644, "map"),
            file("./boot/dtbs/6.1.0-x/a.dtb", 0o644, "tree"),
            hard_link(
                "./boot/dtbs/6.1.0-x/b.dtb",
                0o644,
                "./boot/dtbs/6.1.0-x/a.dtb",
            ),
            file("./lib/modules/6.1.0-x/kernel/a.ko", 0o644, "module"),
            file(
                "./lib/modules/6.1.0-x/modules.order",
                0o644,
                "kernel/a.ko\n",
            ),
            symlink("./lib/modules/6.1.0-x/build", "/etc"),
            file("./usr/share/doc/x", 0o644, "text"),
        ])
    }

    fn extracted(name: &str, data: &[u8]) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, data).unwrap();
        assert!(is_package(&path).unwrap(), "{name}");
        let into = tempfile::tempdir().unwrap();
        extract(&path, into.path())?;
        Ok(into)
    }

    fn refusal(name: &str, data: &[u8]) -> String {
        format!("{:#}", extracted(name, data).unwrap_err())
    }

    #[test]
    fn the_parts_of_a_kernel_are_found_however_they_are_packed() {
        let plain = kernel_tar();
        for (name, data) in [
            ("k", plain.clone()),
            ("k.tar.zst", zstd::encode_all(&plain[..], 1).unwrap()),
        ] {
            let into = extracted(name, &data).unwrap();
            let parts = locate(into.path()).unwrap();
            assert_eq!(parts.release.as_deref(), Some("6.1.0-x"));
            assert_eq!(fs::read(&parts.image).unwrap(), b"kernel");
            assert!(parts.config.is_some());
            assert!(parts.device_tree("b.dtb").is_some());
            let modules = parts.modules.unwrap();
            assert_eq!(modules.files.len(), 1);
            assert_eq!(modules.release, "6.1.0-x");
            assert!(!into.path().join("usr/share").exists());
        }
    }

    #[test]
    fn a_damaged_package_is_told() {
        let plain = kernel_tar();
        let packed = zstd::encode_all(&plain[..], 1).unwrap();
        for (name, data) in [
            ("k.tar", &plain[..plain.len() - 1024]),
            ("k.tar", &plain[..1600]),
            ("k.tar.zst", &packed[..packed.len() - 20]),
            ("k.deb", b"!<arch>\ndebian-binary"),
            ("k.tar", b"no tar"),
            ("k.tar", b""),
        ] {
            let told = refusal(name, data);
            assert!(told.contains("no sound package"), "{name}: {told}");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused_and_nothing_is_written_there() {
        for name in ["../a.ko", "/tmp/a.ko", "lib/../../a.ko"] {
            let told = refusal("k.tar", &tar(&[file(name, 0o644, "x")]));
            assert!(told.contains("leads out of it"), "{told}");
        }
        let through = tar(&[symlink("lib", "/tmp"), file("lib/a.ko", 0o644, "x")]);
        let into = extracted("k.tar", &through).unwrap();
        assert!(!into.path().join("lib").is_symlink());
        let told = refusal("k.tar", &tar(&[hard_link("a.ko", 0o644, "b.ko")]));
        assert!(told.contains("hard link"), "{told}");
    }

    #[test]
    fn several_kernels_are_not_chosen_from() {
        let two = tar(&[
            file("boot/vmlinuz-6.1", 0o644, ""),
            file("boot/vmlinuz-6.2", 0o644, ""),
        ]);
        let into = extracted("k.tar", &two).unwrap();
        let told = locate(into.path()).unwrap_err().to_string();
        assert!(told.contains("6.1, 6.2"), "{told}");
        let none = extracted("k.tar", &tar(&[file("x", 0o644, "")])).unwrap();
        assert!(locate(none.path()).is_err());
    }
}
