//! Owns the binary form of depmod's files (`modules.dep.bin` and the like), the only one that kmod's modprobe and udev
//! read. Never decides what is in them.
//!
//! A patricia trie of keys, each with values in the order of a number. All integers are big-endian (kmod,
//! `libkmod/libkmod-index.c`): magic, version, the root's offset, then each node after its children:
//!
//! ```text
//! prefix\0   first last offset[last - first + 1]   count (priority value\0)…
//! ```
//!
//! The four highest bits of an offset say which of the three parts a node has.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
/// The largest offset, for which 28 bits are left.
const MAX_OFFSET: usize = 0x0FFF_FFFF;
/// Longer keys are left out, as in kmod, whose buffer has this size.
const MAX_KEY: usize = 1023;

/// An index under construction.
#[derive(Debug, Default)]
pub struct Index {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    prefix: Vec<u8>,
    children: BTreeMap<u8, Node>,
    values: Vec<(u32, String)>,
}

impl Index {
    /// Adds a value to a key. Values come in the order of `priority`, of those with the same one the latest first.
    /// A key that is too long or not ASCII cannot be looked up, and is left out.
    pub fn insert(&mut self, key: &str, value: &str, priority: u32) {
        if key.len() > MAX_KEY || !key.is_ascii() || key.contains('\0') || value.contains('\0') {
            return;
        }
        let mut rest = key.as_bytes();
        let mut node = &mut self.root;
        loop {
            let shared = shared_length(&node.prefix, rest);
            if shared < node.prefix.len() {
                node.split(shared);
            }
            rest = &rest[shared..];
            let Some((first, after)) = rest.split_first() else {
                break;
            };
            node = node.children.entry(*first).or_insert_with(|| Node {
                prefix: after.to_vec(),
                ..Node::default()
            });
            rest = after;
        }
        let at = node.values.partition_point(|(known, _)| *known < priority);
        node.values.insert(at, (priority, value.to_string()));
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// If they are more than 256 MiB, which the format cannot have.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            out.extend(word.to_be_bytes());
        }
        let root = self.root.write(&mut out)?;
        out[8..12].copy_from_slice(&root.to_be_bytes());
        Ok(out)
    }
}

fn shared_length(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

impl Node {
    /// Keeps `length` bytes of the prefix; a new child gets the rest of it and all that the node had.
    fn split(&mut self, length: usize) {
        let whole = std::mem::take(self);
        let (first, rest) = (whole.prefix[length], whole.prefix[length + 1..].to_vec());
        self.prefix = whole.prefix[..length].to_vec();
        let below = Node {
            prefix: rest,
            ..whole
        };
        self.children.insert(first, below);
    }

    /// Appends the node after its children, and gives its offset with the bits of its parts.
    fn write(&self, out: &mut Vec<u8>) -> Result<u32> {
        let mut offsets = BTreeMap::new();
        for (first, child) in &self.children {
            offsets.insert(*first, child.write(out)?);
        }
        ensure!(out.len() <= MAX_OFFSET, "an index of modules over 256 MiB");
        let mut offset = u32::try_from(out.len())?;
        if !self.prefix.is_empty() {
            out.extend(&self.prefix);
            out.push(0);
            offset |= HAS_PREFIX;
        }
        if let (Some((first, _)), Some((last, _))) = (
            self.children.first_key_value(),
            self.children.last_key_value(),
        ) {
            out.extend([*first, *last]);
            for byte in *first..=*last {
                let child = offsets.get(&byte).copied().unwrap_or_default();
                out.extend(child.to_be_bytes());
            }
            offset |= HAS_CHILDREN;
        }
        if !self.values.is_empty() {
            out.extend(u32::try_from(self.values.len())?.to_be_bytes());
            for (priority, value) in &self.values {
                out.extend(priority.to_be_bytes());
                out.extend(value.as_bytes());
                out.push(0);
            }
            offset |= HAS_VALUES;
        }
        Ok(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_small_index_are_those_of_the_format() {
        let mut index = Index::default();
        index.insert("ab", "two", 2);
        index.insert("ab", "one", 1);
        index.insert("ac", "", 0);
        let bytes = index.to_bytes().unwrap();
        let mut expected: Vec<u8> = Vec::new();
        expected.extend(b"\xb0\x07\xf4\x57\0\x02\0\x01\xa0\0\0\x2e");
        // 12: b
        expected.extend(b"\0\0\0\x02\0\0\0\x01one\0\0\0\0\x02two\0");
        // 32: c
        expected.extend(b"\0\0\0\x01\0\0\0\0\0");
        assert_eq!(bytes[12..41], expected[12..]);
        // 41: a, whose children these are
        expected.extend(b"bc\x40\0\0\x0c\x40\0\0\x20");
        // 51: the root
        expected.extend(b"aa\x20\0\0\x29");
        expected[8..12].copy_from_slice(b"\x20\0\0\x33");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_key_that_cannot_be_looked_up_is_left_out() {
        let mut index = Index::default();
        let empty = index.to_bytes().unwrap();
        for key in ["ä", "a\0b", &"x".repeat(1024)] {
            index.insert(key, "", 0);
        }
        assert_eq!(index.to_bytes().unwrap(), empty);
    }
}
