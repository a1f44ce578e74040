//! `hearth import`, with the programs that made the inputs as oracles: GNU tar, cpio, mke2fs, mksquashfs, sfdisk.

mod bad_input;
mod disks;
mod fixture;
mod formats;
mod outputs;
mod tars;
