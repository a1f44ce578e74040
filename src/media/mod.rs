//! Owns the SD image of one board: partition table, raw blobs and one small FAT; and writing it to
//! a card.
//! Never builds: the bootloader comes from a build's output directory or from the recipe's
//! packages.
//!
//! An image is a list of extents ([`CardImage`]). The rest of the card does not matter, so that the
//! file is sparse, the bmap short, and flashing takes seconds.

mod bmap;
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
pub use layout::{LIMIT, Layout, RawBlob, SECTOR, TestPartition};
