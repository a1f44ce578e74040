//! Owns telling formats by their magic numbers: of archives, file systems, disks, and of what they are compressed with.
//! Never reads more than the beginning.

use std::fmt;

use crate::image::reader::is_header;

/// How much of an input [`Format::of`] wants to see, in bytes.
pub const BEGINNING: usize = 70 << 10;

/// What an input is, once it is decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Tar,
    Cpio,
    Ext4,
    Squashfs,
    /// With a partition table.
    Disk,
    /// Known, but not to be read.
    Other(&'static str),
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Tar => "tar",
            Format::Cpio => "cpio",
            Format::Ext4 => "ext4",
            Format::Squashfs => "squashfs",
            Format::Disk => "disk image",
            Format::Other(name) => name,
        })
    }
}

/// What an input is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
    /// Known, but not to be read.
    Other(&'static str),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Other(name) => name,
        })
    }
}

impl Compression {
    /// The compression of an input that begins like this; `None` if it is not compressed.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        Some(match beginning {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame, as pzstd and bmap writers put it first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => Compression::Other("bzip2"),
            [b'L', b'Z', b'I', b'P', ..] => Compression::Other("lzip"),
            [0x89, b'L', b'Z', b'O', ..] => Compression::Other("lzop"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Other("lz4"),
            [0x5d, 0, 0, ..] => Compression::Other("lzma"),
            [0x1f, 0x9d, ..] => Compression::Other("compress"),
            _ => return None,
        })
    }
}

/// File systems and containers by a magic number at an offset: known, so that a message can name them.
const OTHERS: [(usize, &[u8], &str); 27] = [
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "XFS"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "F2FS"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "EROFS"),
    (0, b"UBI#", "UBI"),
    (0, &[0x31, 0x18, 0x10, 0x06], "UBIFS"),
    (0, &[0x85, 0x19], "JFFS2"),
    (0, &[0x45, 0x3d, 0xcd, 0x28], "cramfs"),
    (0, b"-rom1fs-", "romfs"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0, b"LUKS\xba\xbe", "encrypted with LUKS"),
    (512, b"LABELONE", "an LVM volume"),
    (536, b"LVM2 001", "an LVM volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (54, b"FAT1", "FAT"),
    (82, b"FAT32   ", "FAT"),
    (0, &[0x3a, 0xff, 0x26, 0xed], "an Android sparse image"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, &[0x27, 0x05, 0x19, 0x56], "wrapped for U-Boot"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"!<arch>\n", "an ar archive or a Debian package"),
    (0, b"\x7fELF", "an ELF program"),
    (0, b"sqsh", "a squashfs of big-endian order"),
    (0, &[0xd0, 0x0d, 0xfe, 0xed], "a device tree or FIT image"),
];

impl Format {
    /// The format of an input that begins like this; `None` for what is not known.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let has = |offset: usize, magic: &[u8]| {
            beginning
                .get(offset..)
                .is_some_and(|rest| rest.starts_with(magic))
        };
        if has(0, b"070701") || has(0, b"070702") {
            return Some(Format::Cpio);
        }
        if has(0, b"070707") || has(0, &[0xc7, 0x71]) {
            return Some(Format::Other("a cpio of an old format"));
        }
        if has(0, b"hsqs") {
            return Some(Format::Squashfs);
        }
        if has(1024 + 0x38, &[0x53, 0xef]) {
            return Some(Format::Ext4);
        }
        if beginning.get(..512).is_some_and(is_header) {
            return Some(Format::Tar);
        }
        let other = OTHERS.iter().find(|(offset, magic, _)| has(*offset, magic));
        if let Some((.., name)) = other {
            return Some(Format::Other(name));
        }
        if has(512, b"EFI PART") || has(4096, b"EFI PART") || has(510, &[0x55, 0xaa]) {
            return Some(Format::Disk);
        }
        // A tar without members.
        let is_empty = beginning.len() >= 512 && beginning.iter().all(|&byte| byte == 0);
        is_empty.then_some(Format::Other("nothing but zeros"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_goes_before_the_boot_code_that_it_may_begin_with() {
        let mut image = vec![0; BEGINNING];
        assert_eq!(Format::of(&image), Some(Format::Other("nothing but zeros")));
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(Format::of(&image), Some(Format::Disk));
        image[82..90].copy_from_slice(b"FAT32   ");
        assert_eq!(Format::of(&image), Some(Format::Other("FAT")));
        image[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(Format::of(&image), Some(Format::Ext4));
        assert_eq!(Format::of(b"text"), None);
        assert_eq!(Format::of(b""), None);
    }
}
