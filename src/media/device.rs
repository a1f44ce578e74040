//! Owns the checks of a card before it is overwritten, from `sysfs` and the mount table.
//! Never opens the device.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};

use super::layout::Size;
use crate::error::Fault;
use crate::input::names_in;

/// Paths of the kernel's information about disks and their users.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc/self/mountinfo`.
    pub mounts: PathBuf,
    /// `/proc/swaps`.
    pub swaps: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            sys: "/sys".into(),
            mounts: "/proc/self/mountinfo".into(),
            swaps: "/proc/swaps".into(),
        }
    }
}

/// A disk, or a regular file used like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub path: PathBuf,
    /// Vendor and model, as reported by the device.
    pub model: String,
    /// Bytes.
    pub size: u64,
    pub doubts: Vec<Doubt>,
}

/// Why a device may not be the intended card. Overridden by giving `--force` twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    NotRemovable,
    NotADisk,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::NotRemovable => "is not removable",
            Doubt::NotADisk => "is a file, not a disk",
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}, {}",
            self.path.display(),
            self.model,
            Size(self.size)
        )
    }
}

impl Host {
    /// Examines `path`: a block device by its name in `sysfs`, or a regular file.
    ///
    /// # Errors
    /// If it is neither, is a partition, is in use, has no medium, or is write-protected, which
    /// `--force` does not override.
    pub fn probe(&self, path: &Path) -> Result<Device> {
        let meta = fs::metadata(path)
            .map_err(|error| Fault::input(format!("cannot find {}: {error}", path.display())))?;
        self.look(path, &meta)
    }

    /// The same for an open file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Host::probe`].
    pub fn probe_open(&self, path: &Path, file: &File) -> Result<Device> {
        self.look(path, &file.metadata()?)
    }

    fn look(&self, path: &Path, meta: &Metadata) -> Result<Device> {
        if meta.is_file() {
            self.refuse_backing(path, meta)?;
            return Ok(Device {
                path: path.to_path_buf(),
                model: "a regular file".into(),
                size: meta.len(),
                doubts: vec![Doubt::NotADisk],
            });
        }
        if !meta.file_type().is_block_device() {
            return Err(Fault::input(format!("{} is not a disk", path.display())).into());
        }
        // By device number: a node of any name may be the system's own disk.
        let number = format!("{}:{}", major(meta.rdev()), minor(meta.rdev()));
        let name = fs::read_link(self.sys.join("dev/block").join(&number))
            .ok()
            .and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default();
        self.disk(path, &name)
    }

    /// The disk with the kernel's name `name` (`sdb`, `mmcblk0`).
    pub fn disk(&self, path: &Path, name: &str) -> Result<Device> {
        let shown = path.display();
        let class = self.sys.join("class/block").join(name);
        if class.join("partition").exists() {
            return Err(
                Fault::input(format!("{shown} is a partition, not a whole disk"))
                    .remedy("name the disk that it is on")
                    .into(),
            );
        }
        let sys = self.sys.join("block").join(name);
        if name.is_empty() || !sys.exists() {
            return Err(
                Fault::input(format!("{shown} is not a disk that the kernel knows")).into(),
            );
        }
        let sectors: u64 = attribute(&sys, "size").parse().unwrap_or(0);
        if sectors == 0 {
            return Err(Fault::input(format!("there is no card in {shown}"))
                .remedy("put a card in, or name another device")
                .into());
        }
        if attribute(&sys, "ro") == "1" {
            return Err(
                Fault::input(format!("the card in {shown} is write-protected"))
                    .remedy("move the slider at the side of the card")
                    .into(),
            );
        }
        self.refuse_used(path, name, &sys)?;
        if let Some(slave) = names_in(&sys.join("slaves")).first() {
            return Err(Fault::input(format!(
                "{shown} is no disk but made of others, {slave} among them (LVM, RAID or encryption)"
            ))
            .remedy("name a card's own device")
            .into());
        }
        let model = [attribute(&sys, "device/vendor"), model(&sys)]
            .join(" ")
            .trim()
            .to_string();
        Ok(Device {
            path: path.to_path_buf(),
            model: if model.is_empty() {
                "no model".into()
            } else {
                model
            },
            size: sectors * 512,
            doubts: if removable(&sys) {
                vec![]
            } else {
                vec![Doubt::NotRemovable]
            },
        })
    }

    /// All disks that look like cards, for `doctor`.
    pub fn cards(&self) -> Vec<Device> {
        names_in(&self.sys.join("block"))
            .iter()
            .filter_map(|name| self.disk(&Path::new("/dev").join(name), name).ok())
            .filter(|device| device.doubts.is_empty())
            .collect()
    }

    /// Refuses a file that backs a loop device or is swap.
    fn refuse_backing(&self, path: &Path, meta: &Metadata) -> Result<()> {
        let is_it = |other: &Path| {
            fs::metadata(other)
                .is_ok_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()))
        };
        for name in names_in(&self.sys.join("block")) {
            let backing = attribute(&self.sys.join("block").join(&name), "loop/backing_file");
            if !backing.is_empty() && is_it(&unescaped(&backing)) {
                return Err(in_use(
                    path,
                    &format!("{name} is made of it"),
                    &format!("losetup -d /dev/{name}"),
                ));
            }
        }
        let swaps = fs::read_to_string(&self.swaps).unwrap_or_default();
        for file in swaps
            .lines()
            .filter_map(|line| line.split_whitespace().next())
        {
            if file.starts_with('/') && is_it(&unescaped(file)) {
                return Err(in_use(path, "it is swap", &format!("swapoff {file}")));
            }
        }
        Ok(())
    }

    fn refuse_used(&self, path: &Path, name: &str, sys: &Path) -> Result<()> {
        let mut parts = vec![name.to_string()];
        for entry in fs::read_dir(sys).into_iter().flatten().flatten() {
            if entry.path().join("partition").exists() {
                parts.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        parts.sort();
        let mounts = fs::read_to_string(&self.mounts)
            .with_context(|| format!("cannot read {}", self.mounts.display()))?;
        let swaps = fs::read_to_string(&self.swaps).unwrap_or_default();
        for part in &parts {
            let numbers = attribute(&self.sys.join("class/block").join(part), "dev");
            if let Some(at) = mount_point(&mounts, &numbers, part) {
                return Err(in_use(
                    path,
                    &format!("{part} is mounted at {at}"),
                    &format!("umount {at}"),
                ));
            }
            if swaps
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&format!("/dev/{part}")))
            {
                return Err(in_use(
                    path,
                    &format!("{part} is swap"),
                    &format!("swapoff /dev/{part}"),
                ));
            }
            let holders = self.sys.join("class/block").join(part).join("holders");
            let mut holders = fs::read_dir(holders).into_iter().flatten().flatten();
            if let Some(holder) = holders.next() {
                let holder = holder.file_name().to_string_lossy().into_owned();
                return Err(in_use(
                    path,
                    &format!("{part} is part of {holder}"),
                    &format!("stop {holder}"),
                ));
            }
        }
        Ok(())
    }
}

fn in_use(path: &Path, why: &str, remedy: &str) -> anyhow::Error {
    Fault::input(format!("{} is in use: {why}", path.display()))
        .remedy(format!("check that it is the right disk, then: {remedy}"))
        .into()
}

/// Where the block device is mounted, according to `mountinfo` (proc(5)): by device number, and by
/// name for file systems such as btrfs that show numbers of their own.
fn mount_point(mounts: &str, numbers: &str, part: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let source = fields
            .iter()
            .position(|&field| field == "-")
            .and_then(|dash| fields.get(dash + 2));
        let by_number = !numbers.is_empty() && fields.get(2) == Some(&numbers);
        let by_name = source == Some(&format!("/dev/{part}").as_str());
        (by_number || by_name).then(|| fields.get(4).unwrap_or(&"?").to_string())
    })
}

/// A path in the kernel's encoding, with `\040` for a space (proc(5)).
fn unescaped(shown: &str) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = shown.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(path))
}

/// SD cards are recognised by their type, since the kernel calls a built-in slot not removable.
fn removable(sys: &Path) -> bool {
    attribute(sys, "removable") == "1" || attribute(sys, "device/type") == "SD"
}

fn model(sys: &Path) -> String {
    let model = attribute(sys, "device/model");
    if model.is_empty() {
        attribute(sys, "device/name")
    } else {
        model
    }
}

/// An attribute in sysfs, trimmed; empty if it does not exist.
fn attribute(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name))
        .map(|text| text.trim().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with one disk, `sdb`, and its partition `sdb1`.
    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Fixture {
                dir: tempfile::tempdir().unwrap(),
            };
            for (path, text) in [
                ("sys/block/sdb/size", "15523840\n"),
                ("sys/block/sdb/ro", "0\n"),
                ("sys/block/sdb/removable", "1\n"),
                ("sys/block/sdb/device/vendor", "Generic \n"),
                ("sys/block/sdb/device/model", "SD/MMC          \n"),
                ("sys/block/sdb/sdb1/partition", "1\n"),
                ("sys/class/block/sdb/dev", "8:16\n"),
                ("sys/class/block/sdb1/dev", "8:17\n"),
                ("sys/class/block/sdb1/partition", "1\n"),
                ("mounts", "22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n"),
                ("swaps", "Filename Type Size Used Priority\n"),
            ] {
                fixture.write(path, text);
            }
            fixture
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn host(&self) -> Host {
            Host {
                sys: self.dir.path().join("sys"),
                mounts: self.dir.path().join("mounts"),
                swaps: self.dir.path().join("swaps"),
            }
        }

        fn disk(&self, name: &str) -> Result<Device> {
            self.host().disk(&Path::new("/dev").join(name), name)
        }

        fn refusal(&self, name: &str) -> String {
            self.disk(name).unwrap_err().to_string()
        }
    }

    #[test]
    fn a_card_in_a_reader_is_told_by_model_and_size() {
        let fixture = Fixture::new();
        let card = fixture.disk("sdb").unwrap();
        assert_eq!(card.to_string(), "/dev/sdb: Generic SD/MMC, 7.4 GiB");
        assert!(card.doubts.is_empty());
        assert_eq!(fixture.host().cards(), [card]);
    }

    #[test]
    fn a_hard_disk_and_an_emmc_are_doubted_and_a_built_in_slot_is_not() {
        let fixture = Fixture::new();
        fixture.write("sys/block/sdb/removable", "0\n");
        assert_eq!(fixture.disk("sdb").unwrap().doubts, [Doubt::NotRemovable]);
        for (kind, doubts) in [("SD\n", 0), ("MMC\n", 1)] {
            fixture.write("sys/block/mmcblk0/size", "100\n");
            fixture.write("sys/block/mmcblk0/removable", "0\n");
            fixture.write("sys/block/mmcblk0/device/type", kind);
            assert_eq!(
                fixture.disk("mmcblk0").unwrap().doubts.len(),
                doubts,
                "{kind}"
            );
        }
    }

    #[test]
    fn a_partition_an_empty_reader_and_a_locked_card_are_refused() {
        let fixture = Fixture::new();
        assert!(fixture.refusal("sdb1").contains("is a partition"));
        assert!(
            fixture
                .refusal("sdz")
                .contains("not a disk that the kernel knows")
        );
        fixture.write("sys/block/sdb/ro", "1\n");
        assert!(fixture.refusal("sdb").contains("write-protected"));
        fixture.write("sys/block/sdb/size", "0\n");
        assert!(fixture.refusal("sdb").contains("no card"));
    }

    #[test]
    fn a_disk_in_use_is_refused_and_its_use_named() {
        let fixture = Fixture::new();
        fixture.write(
            "mounts",
            "30 22 8:17 / /media/card rw - vfat /dev/sdb1 rw\n",
        );
        assert!(
            fixture
                .refusal("sdb")
                .contains("sdb1 is mounted at /media/card")
        );
        fixture.write("mounts", "30 22 0:40 / /pool rw - btrfs /dev/sdb rw\n");
        assert!(fixture.refusal("sdb").contains("sdb is mounted at /pool"));
        fixture.write("mounts", "");
        fixture.write("swaps", "Filename Type\n/dev/sdb1 partition 1 0 -2\n");
        assert!(fixture.refusal("sdb").contains("sdb1 is swap"));
        fixture.write("swaps", "");
        fixture.write("sys/class/block/sdb1/holders/dm-0/size", "1\n");
        assert!(fixture.refusal("sdb").contains("part of dm-0"));
    }

    #[test]
    fn a_file_behind_a_loop_device_or_swap_is_refused_under_any_name() {
        let fixture = Fixture::new();
        let file = fixture.dir.path().join("a card.img");
        let other = fixture.dir.path().join("link.img");
        fs::write(&file, [0; 512]).unwrap();
        fs::hard_link(&file, &other).unwrap();
        assert!(fixture.host().probe(&other).is_ok());
        let shown = file.display().to_string();
        fixture.write("sys/block/loop0/loop/backing_file", &format!("{shown}\n"));
        let refusal = || fixture.host().probe(&other).unwrap_err().to_string();
        assert!(refusal().contains("loop0 is made of it"), "{}", refusal());
        fixture.write("sys/block/loop0/loop/backing_file", "/elsewhere\n");
        fixture.write(
            "swaps",
            &format!(
                "Filename Type\n{} file 1 0 -2\n",
                shown.replace(' ', "\\040")
            ),
        );
        assert!(refusal().contains("is swap"), "{}", refusal());
    }

    #[test]
    fn what_is_made_of_other_disks_is_refused() {
        let fixture = Fixture::new();
        fixture.write("sys/block/dm-0/size", "100\n");
        fixture.write("sys/block/dm-0/slaves/sda2/size", "100\n");
        assert!(fixture.refusal("dm-0").contains("sda2 among them"));
    }
}
