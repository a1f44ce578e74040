//! Owns reading the devices of a flattened device tree.
//! Never changes one.
//!
//! Devicetree Specification 0.4, chapter 5: a header of big-endian words, a block of tokens, a
//! block of strings.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// Limit on the depth of the tree.
const MAX_DEPTH: usize = 64;

#[derive(Default)]
struct Node {
    compatible: Vec<String>,
    disabled: bool,
}

/// The `compatible` strings of all nodes that are not disabled, directly or through a parent.
///
/// # Errors
/// If it is not a device tree, or is truncated.
pub fn compatible_strings(tree: &[u8]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    walk(tree, |node, _| {
        if !node.disabled {
            found.extend(node.compatible);
        }
    })?;
    Ok(found)
}

/// The `compatible` strings of the root: which boards it is for, the most specific first.
///
/// # Errors
/// As [`compatible_strings`].
pub fn root_compatible(tree: &[u8]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    walk(tree, |node, depth| {
        if depth == 0 {
            found = node.compatible;
        }
    })?;
    Ok(found)
}

/// Calls `visit` with every node at its end, and with its depth.
fn walk(tree: &[u8], mut visit: impl FnMut(Node, usize)) -> Result<()> {
    ensure!(word(tree, 0)? == MAGIC, "not a flattened device tree");
    let total = word(tree, 4)? as usize;
    let tree = tree.get(..total).context("cut short")?;
    let strings = word(tree, 12)? as usize;
    let mut at = word(tree, 8)? as usize;
    let mut open: Vec<Node> = Vec::new();
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(tree, at)?;
                at = (at + name.len() + 1).next_multiple_of(4);
                ensure!(open.len() < MAX_DEPTH, "nested too deeply");
                open.push(Node {
                    disabled: open.last().is_some_and(|above| above.disabled),
                    ..Node::default()
                });
            }
            END_NODE => {
                let node = open.pop().context("a node ends that never began")?;
                visit(node, open.len());
            }
            PROPERTY => {
                let (length, name) = (word(tree, at)? as usize, word(tree, at + 4)? as usize);
                let name = text(tree, strings.saturating_add(name))?;
                let end = (at + 8).saturating_add(length);
                let value = tree.get(at + 8..end).context("cut short")?;
                at = end.next_multiple_of(4);
                let node = open.last_mut().context("a property outside of any node")?;
                match name {
                    b"compatible" => node.compatible = list(value),
                    b"status" => node.disabled |= !matches!(value, b"okay\0" | b"ok\0"),
                    _ => {}
                }
            }
            NOP => {}
            END => return Ok(()),
            other => bail!("unknown token {other:#x} at byte {}", at - 4),
        }
    }
}

fn word(tree: &[u8], at: usize) -> Result<u32> {
    let bytes = tree.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_be_bytes(*bytes.context("cut short")?))
}

/// The bytes up to the next NUL.
fn text(tree: &[u8], at: usize) -> Result<&[u8]> {
    let rest = tree.get(at..).context("cut short")?;
    let end = rest.iter().position(|&byte| byte == 0);
    Ok(&rest[..end.context("cut short")?])
}

/// A property that is a list of strings.
fn list(value: &[u8]) -> Vec<String> {
    value
        .split(|&byte| byte == 0)
        .filter(|item| !item.is_empty())
        .map(|item| String::from_utf8_lossy(item).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with these tokens, in their order, and these strings.
    fn tree(tokens: &[&[u8]], strings: &[u8]) -> Vec<u8> {
        let structure: Vec<u8> = tokens.concat();
        let total = (40 + structure.len() + strings.len()) as u32;
        let mut tree = Vec::new();
        for value in [MAGIC, total, 40, 40 + structure.len() as u32, 0, 17, 16, 0] {
            tree.extend(value.to_be_bytes());
        }
        tree.extend([0; 8]);
        tree.extend(structure);
        tree.extend(strings);
        tree
    }

    fn property(name: u32, value: &[u8]) -> Vec<u8> {
        let mut bytes = PROPERTY.to_be_bytes().to_vec();
        bytes.extend((value.len() as u32).to_be_bytes());
        bytes.extend(name.to_be_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn example() -> Vec<u8> {
        tree(
            &[
                b"\0\0\0\x01\0\0\0\0",
                &property(0, b"friendlyarm,nanopi-neo\0allwinner,sun8i-h3\0"),
                b"\0\0\0\x01emac\0\0\0\0",
                &property(0, b"allwinner,sun8i-h3-emac\0"),
                &property(11, b"okay\0"),
                b"\0\0\0\x02\0\0\0\x01gpu\0",
                &property(11, b"disabled\0"),
                &property(0, b"arm,mali-400\0"),
                b"\0\0\0\x02\0\0\0\x02\0\0\0\x09",
            ],
            b"compatible\0status\0",
        )
    }

    #[test]
    fn enabled_devices_are_found_and_disabled_ones_are_not() {
        let found: Vec<String> = compatible_strings(&example())
            .unwrap()
            .into_iter()
            .collect();
        assert_eq!(
            found,
            [
                "allwinner,sun8i-h3",
                "allwinner,sun8i-h3-emac",
                "friendlyarm,nanopi-neo"
            ]
        );
    }

    #[test]
    fn no_truncation_panics() {
        let whole = example();
        for length in 0..whole.len() {
            assert!(compatible_strings(&whole[..length]).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_damage_panics(at in 0usize..200, byte: u8) {
            let mut tree = example();
            let length = tree.len();
            tree[at % length] = byte;
            let read: usize = compatible_strings(&tree).unwrap_or_default().iter().map(String::len).sum();
            assert!(read < tree.len());
        }
    }
}
