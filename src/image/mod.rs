//! Owns the image format: a deterministic tar with its index, stacks of them, what differs between two, and a build's manifest.
//! Never fills a tree, and never knows of boards.

mod builder;
pub mod diff;
pub mod index;
mod inode;
mod manifest;
pub mod member;
mod read_at;
pub mod reader;
mod stack;
pub mod tarball;

pub use manifest::{Artifact, LockReference, Manifest, ROOTFS, RecipeReference, Source};
