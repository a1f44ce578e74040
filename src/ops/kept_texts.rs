//! Owns the texts of recipes and locks that images were built from, by their SHA-256, so that a later run can name and keep
//! what an output directory was made of, though the files have changed since.
//! Never trusts what it finds: a text counts if it has the hash.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::dirs;
use crate::input;
use crate::output::write_atomically;

fn place(sha256: &str) -> PathBuf {
    dirs::cache().join("texts").join(sha256)
}

/// Keeps a text, unless it is kept already. A cache that cannot be written to costs a later run the text, no more.
pub fn keep(text: &str) {
    let sha256 = hex::encode(Sha256::digest(text));
    let path = place(&sha256);
    if path.exists() {
        return;
    }
    if let Err(error) = write(&path, text) {
        log::info!("the text of a recipe or lock is not kept: {error:#}");
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    write_atomically(path, text.as_bytes())
}

/// The text with this SHA-256 in hex, if it was kept.
pub fn find(sha256: &str) -> Option<String> {
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|c| c.is_ascii_hexdigit());
    let text = is_hash.then(|| input::read_text(&place(sha256)).ok())??;
    (hex::encode(Sha256::digest(&text)) == sha256).then_some(text)
}
