//! Owns the user's key, with which hearth marks what it puts into its cache: what has no such mark was put there by others.
//! Never keeps the key in the cache.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tempfile::NamedTempFile;

use crate::dirs;

/// Bytes of a key.
const LENGTH: usize = 32;

/// A secret of the user. Marks are HMAC-SHA-256 (RFC 2104).
#[derive(Clone)]
pub struct Key([u8; LENGTH]);

impl Key {
    /// The user's key, made on first use. Where it can be neither read nor made, a key that everybody knows: marks
    /// made with it tell of accidents only.
    pub fn of_user() -> Self {
        let path = dirs::seal_key();
        Key::load(&path).unwrap_or_else(|error| {
            log::info!(
                "the cache is protected against accidents only: no key in {}: {error}",
                path.display()
            );
            Key([0; LENGTH])
        })
    }

    fn load(path: &Path) -> io::Result<Self> {
        match Key::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                Key::read(path)
            }
            other => other,
        }
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut key = [0; LENGTH];
        File::open(path)?.read_exact(&mut key)?;
        Ok(Key(key))
    }

    /// The mark of `parts`, in hex.
    pub fn mark(&self, parts: &[&str]) -> String {
        hex::encode(self.hmac(parts).finalize().into_bytes())
    }

    /// Whether `mark` was made with this key, of these `parts`.
    pub fn has_marked(&self, parts: &[&str], mark: &str) -> bool {
        hex::decode(mark).is_ok_and(|mark| self.hmac(parts).verify_slice(&mark).is_ok())
    }

    fn hmac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length is a key's");
        for part in parts {
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part.as_bytes());
        }
        hmac
    }
}

/// Makes a key, unless another process was quicker.
fn make(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    if !directory.exists() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    let mut key = [0; LENGTH];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    // Readable by its owner alone.
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_its_marks_are_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/seal.key");
        let key = Key::load(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let mark = key.mark(&["a", "b"]);
        assert!(Key::load(&path).unwrap().has_marked(&["a", "b"], &mark));
        assert!(!key.has_marked(&["ab", ""], &mark));
        assert!(!key.has_marked(&["a", "b"], ""));
        assert!(!Key([0; LENGTH]).has_marked(&["a", "b"], &mark));
        fs::write(&path, "short").unwrap();
        assert!(Key::load(&path).is_err());
    }
}
