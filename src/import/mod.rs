//! Owns turning a root file system that others made into hearth's own tar: from a directory, a tar, a cpio, an ext4 or
//! squashfs image, or a disk with partitions. Never mounts it, and never runs anything of it.

mod bytes;
mod convert;
mod cpio;
mod directory;
mod disk;
mod ext4;
mod ext4_inodes;
mod format;
mod guard;
pub mod root;
mod shared;
mod squashfs;
mod squashfs_attributes;
mod tar;
mod tree;
mod unpacked;
mod window;
mod write;

pub use convert::{Converted, Options, Rootfs, convert_bytes};
pub use write::Written;
