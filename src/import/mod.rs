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
mod squashfs;
mod squashfs_attributes;
mod tar;
mod tree;
mod unpacked;
mod window;
mod write;

use std::io;
use std::sync::Arc;

pub use convert::{Converted, Options, Rootfs, convert_bytes};
pub use write::Written;

use crate::image::reader::ReadAt;

/// An input that several readers share.
#[derive(Clone)]
pub(crate) struct Input(Arc<dyn ReadAt + Send + Sync>);

impl Input {
    fn new(input: impl ReadAt + Send + Sync + 'static) -> Self {
        Input(Arc::new(input))
    }
}

impl ReadAt for Input {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

/// What the user is told of a source that was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    sentences: Vec<String>,
    sockets: Vec<String>,
}

impl Notes {
    fn tell(&mut self, sentence: &str) {
        self.sentences.push(sentence.into());
    }

    fn socket(&mut self, path: String) {
        self.sockets.push(path);
    }

    fn sentences(&self) -> Vec<String> {
        let sockets = directory::listed(SOCKETS, &self.sockets);
        self.sentences.iter().cloned().chain(sockets).collect()
    }
}

const SOCKETS: &str = "sockets, which no tar can hold, are left out";
