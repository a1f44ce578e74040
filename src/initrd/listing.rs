//! Owns the description of an initrd: its archives, its files by kind, its modules and the reason
//! for each, and the difference between two. Never prints.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read};

use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::modinfo::is_module;
use super::module_name::{Name, name_of};
use super::native::REASONS;
use super::read::{Archive, CpioEntry, FileType, read};

/// The output of `show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing {
    pub archives: Vec<Archive>,
    /// Number and size of files by kind.
    pub kinds: BTreeMap<&'static str, Total>,
    pub modules: BTreeMap<Name, ModuleLine>,
    pub files: BTreeMap<String, FileLine>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    pub files: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleLine {
    pub path: String,
    /// Stored size in bytes.
    pub size: u32,
    /// The reason recorded by hearth, else derived from `modules.dep`.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileLine {
    #[serde(rename = "type")]
    pub file_type: FileType,
    /// Octal, as in `chmod`.
    pub mode: String,
    pub size: u32,
    /// SHA-256 of the content, or of a link's target.
    pub sha256: String,
}

/// The difference of a name between two initrds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    Removed(FileLine),
    Added(FileLine),
    Changed(FileLine, FileLine),
}

/// Files up to this size are kept in memory, for the lists of modules among them.
const MAX_INDEX: u64 = 16 << 20;

/// Lists an initrd.
///
/// # Errors
/// As [`read`].
pub fn list(input: impl BufRead) -> Result<Listing> {
    let mut files = BTreeMap::new();
    let mut modules = BTreeMap::new();
    let mut texts: BTreeMap<&'static str, String> = BTreeMap::new();
    let archives = read(input, &mut |entry, content| {
        let mut digest = Sha256::new();
        if let Some(index) = index_of(&entry.path) {
            let mut text = Vec::new();
            content.take(MAX_INDEX).read_to_end(&mut text)?;
            digest.update(&text);
            texts.insert(index, String::from_utf8_lossy(&text).into_owned());
        } else {
            let mut buffer = [0; 1 << 14];
            loop {
                match content.read(&mut buffer).context("damaged or cut short")? {
                    0 => break,
                    length => digest.update(&buffer[..length]),
                }
            }
        }
        if entry.file_type() == FileType::File && is_module(&entry.path) {
            let line = ModuleLine {
                path: entry.path.clone(),
                size: entry.size,
                why: String::new(),
            };
            modules.insert(name_of(&entry.path), line);
        }
        files.insert(
            entry.path.clone(),
            line_of(entry, &hex::encode(digest.finalize())),
        );
        Ok(())
    })?;
    give_reasons(&mut modules, &texts);
    let mut kinds: BTreeMap<&'static str, Total> = BTreeMap::new();
    for (path, line) in &files {
        if line.file_type == FileType::File {
            let total = kinds.entry(kind_of(path, line)).or_default();
            total.files += 1;
            total.bytes += u64::from(line.size);
        }
    }
    Ok(Listing {
        archives,
        kinds,
        modules,
        files,
    })
}

/// The differences between `old` and `new`, by path.
pub fn compare(old: &Listing, new: &Listing) -> BTreeMap<String, Difference> {
    let paths: BTreeSet<&String> = old.files.keys().chain(new.files.keys()).collect();
    let mut differences = BTreeMap::new();
    for path in paths {
        let difference = match (old.files.get(path), new.files.get(path)) {
            (Some(old), None) => Difference::Removed(old.clone()),
            (None, Some(new)) => Difference::Added(new.clone()),
            (Some(old), Some(new)) if old != new => Difference::Changed(old.clone(), new.clone()),
            _ => continue,
        };
        differences.insert(path.clone(), difference);
    }
    differences
}

fn line_of(entry: &CpioEntry, sha256: &str) -> FileLine {
    FileLine {
        file_type: entry.file_type(),
        mode: format!("{:04o}", entry.mode & 0o7777),
        size: entry.size,
        sha256: sha256.to_string(),
    }
}

fn kind_of(path: &str, line: &FileLine) -> &'static str {
    let file = path.rsplit('/').next().unwrap_or(path);
    if is_module(path) {
        "modules"
    } else if path.contains("lib/firmware/") {
        "firmware"
    } else if file.ends_with(".so") || file.contains(".so.") {
        "libraries"
    } else if path.contains("lib/modules/") {
        "module indexes"
    } else if line.mode.contains(['1', '3', '5', '7']) {
        "binaries"
    } else {
        "other"
    }
}

/// Which of the module indices a path is.
fn index_of(path: &str) -> Option<&'static str> {
    let file = path.rsplit('/').next().unwrap_or(path);
    [REASONS, "modules.dep"]
        .into_iter()
        .find(|index| *index == file)
}

fn give_reasons(modules: &mut BTreeMap<Name, ModuleLine>, texts: &BTreeMap<&str, String>) {
    let mut reasons: BTreeMap<Name, String> = BTreeMap::new();
    let noted = texts.get(REASONS).map_or("", String::as_str);
    reasons.extend(
        noted
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, why)| (name.to_string(), why.to_string())),
    );
    if noted.is_empty() {
        let dependencies = texts.get("modules.dep").map_or("", String::as_str);
        for (path, needed) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            if modules.contains_key(&name_of(path)) {
                for name in needed.split_whitespace().map(name_of) {
                    reasons
                        .entry(name)
                        .or_insert_with(|| format!("needed by {}", name_of(path)));
                }
            }
        }
    }
    for (name, line) in modules {
        line.why = match reasons.remove(name) {
            Some(why) => why,
            None => "chosen by whoever made the initrd".into(),
        };
    }
}
