//! Owns the exported images, each under its id. A replaced image stays exported while clients use
//! it.
//! Never searches for images itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::image::index::{Image, Number};

/// The part of an image's SHA-256 that its file handles contain.
pub type HashPrefix = [u8; 16];

/// An image exported as `/<id>`.
#[derive(Debug)]
pub struct Export {
    pub id: String,
    /// The SHA-256 of the tar: file handles, directory cookies and the file system id are derived
    /// from it.
    pub hash: [u8; 32],
    pub image: Arc<Image>,
    /// The directory of the artifacts built with it.
    pub directory: PathBuf,
    /// Whether one of its file handles was used since the last query.
    used: AtomicBool,
}

impl Export {
    pub fn new(id: String, hash: [u8; 32], image: Image, directory: PathBuf) -> Self {
        Export {
            id,
            hash,
            image: Arc::new(image),
            directory,
            used: AtomicBool::new(false),
        }
    }

    /// Whether a client has used it since the last call.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    pub fn prefix(&self) -> HashPrefix {
        let mut prefix = HashPrefix::default();
        prefix.copy_from_slice(&self.hash[..16]);
        prefix
    }

    pub fn first_u64(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.hash[..8]);
        u64::from_be_bytes(first)
    }
}

/// The exported images, which change while clients use them.
#[derive(Debug, Default)]
pub struct Exports(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Export>>,
    by_prefix: HashMap<HashPrefix, Arc<Export>>,
}

impl Exports {
    /// Exports the image; an image exported under the same id before keeps its file handles.
    pub fn insert(&self, export: Export) -> Arc<Export> {
        let export = Arc::new(export);
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.by_id.insert(export.id.clone(), export.clone());
        table.by_prefix.insert(export.prefix(), export.clone());
        export
    }

    /// Stops exporting the image: its file handles become stale.
    pub fn remove(&self, export: &Export) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if table
            .by_id
            .get(&export.id)
            .is_some_and(|known| known.hash == export.hash)
        {
            table.by_id.remove(&export.id);
        }
        table.by_prefix.remove(&export.prefix());
    }

    pub fn by_id(&self, id: &str) -> Option<Arc<Export>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.by_id.get(id).cloned()
    }

    pub fn by_prefix(&self, prefix: &HashPrefix) -> Option<Arc<Export>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let export = table.by_prefix.get(prefix).cloned()?;
        export.used.store(true, Ordering::Relaxed);
        Some(export)
    }

    /// Every image whose file handles are valid.
    pub fn all(&self) -> Vec<Arc<Export>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.by_prefix.values().cloned().collect()
    }

    /// The image whose artifacts are in `directory`.
    pub fn at(&self, directory: &Path) -> Option<Arc<Export>> {
        let all = self.all();
        all.into_iter().find(|export| export.directory == directory)
    }

    /// The ids of all images, sorted.
    pub fn ids(&self) -> Vec<String> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<String> = table.by_id.keys().cloned().collect();
        ids.sort();
        ids
    }
}

/// A decoded file handle: 4 bytes `hth1`, 16 bytes of the image's SHA-256, and the inode's number
/// as a big-endian u32. It does not depend on the running server, so that handles outlive a
/// restart; it needs no generation, since an image's inode numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub prefix: HashPrefix,
    pub number: Number,
}

impl Handle {
    pub const LENGTH: usize = 24;
    const MAGIC: [u8; 4] = *b"hth1";

    pub fn to_bytes(self) -> [u8; Handle::LENGTH] {
        let mut bytes = [0; Handle::LENGTH];
        bytes[..4].copy_from_slice(&Handle::MAGIC);
        bytes[4..20].copy_from_slice(&self.prefix);
        let number = u32::try_from(self.number.get()).expect("an inode's number has 32 bits");
        bytes[20..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// `None` for a handle that is not in this format.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Handle::LENGTH] = bytes.try_into().ok()?;
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (prefix, number) = rest.split_first_chunk::<16>()?;
        let number = u32::from_be_bytes(number.try_into().ok()?);
        (*magic == Handle::MAGIC).then_some(())?;
        Some(Handle {
            prefix: *prefix,
            number: Number::new(u64::from(number))?,
        })
    }
}
