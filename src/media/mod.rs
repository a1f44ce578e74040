//! Owns the SD image of one board: partition table, raw blobs and one small FAT, and how it gets onto a card.
//! Never builds: the bootloader comes out of a build's output directory, or of the recipe's packages.
//!
//! An image is a list of extents ([`CardImage`]): nothing else of the card matters, so the file is
//! sparse, the bmap is short, and flashing takes seconds.

mod bmap;
pub mod bootloader;
mod card;
mod device;
mod fat;
mod flash;
mod image;
mod layout;
mod table;

pub use crate::recipe::parse_size;
pub use bmap::bmap;
pub use card::{BoardCard, CardRequest, Contents, Sources, compose, contents};
pub use device::{Device, Doubt, Host};
pub use fat::{FatFile, build as build_fat};
pub use flash::{Claimed, claim, flash, update};
pub use image::{BLOCK, CardImage, Extent};
pub use layout::{Layout, RawBlob, TestPartition};

/// Bytes of one sector, of every card hearth writes.
pub const SECTOR: u64 = 512;

/// A card may take this many bytes beside its bootloader.
pub const LIMIT: u64 = 8 << 20;
