//! Owns an input that several readers share, and what the user is told of it. Never interprets the input.

use std::io;
use std::sync::Arc;

use crate::image::reader::ReadAt;

/// The most names that a message lists.
const LISTED: usize = 5;

/// An input that several readers share.
#[derive(Clone)]
pub struct Input(Arc<dyn ReadAt + Send + Sync>);

impl Input {
    pub fn new(input: impl ReadAt + Send + Sync + 'static) -> Self {
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
pub struct Notes {
    pub sentences: Vec<String>,
    sockets: Vec<String>,
}

impl Notes {
    pub fn tell(&mut self, sentence: &str) {
        self.sentences.push(sentence.into());
    }

    pub fn socket(&mut self, path: String) {
        self.sockets.push(path);
    }

    pub fn sentences(&self) -> Vec<String> {
        let sockets = listed(SOCKETS, &self.sockets);
        self.sentences.iter().cloned().chain(sockets).collect()
    }
}

/// What is said of sockets.
pub const SOCKETS: &str = "sockets, which no tar can hold, are left out";

/// A sentence with the first of some names; `None` without any.
pub fn listed(what: &str, names: &[String]) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let mut shown = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        shown += &format!(" and {} more", names.len() - LISTED);
    }
    Some(format!("{what}: {shown}"))
}
