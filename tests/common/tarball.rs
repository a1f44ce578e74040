//! Owns the packer of small tars: an image, a layer or a package's member, made of a few entries.
//! Never checks a name: what hearth must refuse has to get in.

use tar::{Builder, EntryType, Header};

/// One entry of a tar; root's, and of the year 2023, unless said otherwise.
#[derive(Clone)]
pub struct Entry {
    name: String,
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    /// A file's content, or where a link leads.
    data: Vec<u8>,
    device: (u32, u32),
}

/// An entry of any kind: `data` is a file's content or a link's target.
pub fn entry(name: &str, kind: EntryType, mode: u32, data: impl AsRef<[u8]>) -> Entry {
    Entry {
        name: name.into(),
        kind,
        mode,
        owner: (0, 0),
        mtime: 1_700_000_000,
        data: data.as_ref().to_vec(),
        device: (0, 0),
    }
}

pub fn dir(name: &str, mode: u32) -> Entry {
    entry(name, EntryType::Directory, mode, b"")
}

pub fn file(name: &str, mode: u32, content: impl AsRef<[u8]>) -> Entry {
    entry(name, EntryType::Regular, mode, content)
}

pub fn symlink(name: &str, target: &str) -> Entry {
    entry(name, EntryType::Symlink, 0o777, target)
}

/// A hard link has its target's mode.
pub fn hard_link(name: &str, mode: u32, target: &str) -> Entry {
    entry(name, EntryType::Link, mode, target)
}

impl Entry {
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// In seconds of the Unix epoch.
    pub fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    /// The numbers of a character or block device.
    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }
}

/// A ustar archive of these entries, in this order. A name that the format cannot hold is written as GNU tar does.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        let data: &[u8] = if matches!(entry.kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name_literal(&entry.data).unwrap();
            b""
        } else {
            &entry.data
        };
        header.set_size(data.len() as u64);
        let name = entry.name.as_bytes();
        let Some(field) = header.as_old_mut().name.get_mut(..name.len()) else {
            archive.append_data(&mut header, &entry.name, data).unwrap();
            continue;
        };
        // As it is: the crate's own way refuses `..`.
        field.copy_from_slice(name);
        header.set_cksum();
        archive.append(&header, data).unwrap();
    }
    archive.into_inner().unwrap()
}
