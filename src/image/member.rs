//! Owns the bytes of an image's tar: headers, padding and its end. Never looks at a file.
//!
//! POSIX ustar; pax records (POSIX.1-2017, pax, "pax Interchange Format") only for what ustar
//! cannot represent: long names and links, large files and ids, extended attributes
//! (`SCHILY.xattr.…`, as GNU tar writes them).

use std::io::{Read, Write};

use anyhow::{Context, Result};
use tar::{EntryType, Header};

/// The content of a tar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub entries: u64,
    /// Bytes of the whole tar.
    pub size: u64,
}

/// A tar being written, member after member, in the caller's order.
pub struct ArchiveWriter<'a> {
    out: &'a mut dyn Write,
    contents: Contents,
}

impl<'a> ArchiveWriter<'a> {
    pub fn new(out: &'a mut dyn Write) -> Self {
        ArchiveWriter {
            out,
            contents: Contents::default(),
        }
    }

    /// Writes a member that has no content.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn member(&mut self, member: &Member<'_>) -> Result<()> {
        self.header(member)
    }

    /// Writes a file; `content` has to give `member.size` bytes. `changed` is what is said if it gives fewer.
    ///
    /// # Errors
    /// If it does, or cannot be read or written.
    pub fn file(
        &mut self,
        member: &Member<'_>,
        content: &mut dyn Read,
        changed: &dyn Fn() -> String,
    ) -> Result<()> {
        self.header(member)?;
        let mut buffer = vec![0; 1 << 16];
        let mut left = member.size;
        while left > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = content.read(&mut buffer[..most])?;
            anyhow::ensure!(read > 0, "{}", changed());
            self.put(&buffer[..read])?;
            left -= read as u64;
        }
        self.pad(member.size)
    }

    /// Ends the tar as tar(1) does: with a whole number of records of 20 blocks.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<Contents> {
        self.put(&[0; 1024])?;
        let rest = (10240 - self.contents.size % 10240) % 10240;
        self.put(&vec![0; usize::try_from(rest)?])?;
        Ok(self.contents)
    }

    fn header(&mut self, entry: &Member<'_>) -> Result<()> {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        if !fits_ustar(&mut header, entry.name) {
            pax.push(("path".to_string(), entry.name.to_vec()));
        }
        if let Some(link) = entry.link
            && (link.len() > 100 || header.set_link_name_literal(link).is_err())
        {
            pax.push(("linkpath".to_string(), link.to_vec()));
        }
        header.set_entry_type(entry.entry_type);
        header.set_mode(entry.mode);
        header.set_mtime(u64::try_from(entry.mtime)?);
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            let small = if id < 1 << 21 { id } else { 0 };
            match key {
                "uid" => header.set_uid(small.into()),
                _ => header.set_gid(small.into()),
            }
            if small != id {
                pax.push((key.to_string(), id.to_string().into_bytes()));
            }
        }
        if entry.size < 1 << 33 {
            header.set_size(entry.size);
        } else {
            header.set_size(0);
            pax.push(("size".to_string(), entry.size.to_string().into_bytes()));
        }
        for (name, value) in entry.attributes {
            pax.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if !pax.is_empty() {
            self.pax(entry, &pax)?;
        }
        if let Some((major, minor)) = entry.device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        header.set_cksum();
        self.put(header.as_bytes())?;
        self.contents.entries += 1;
        Ok(())
    }

    /// The extended header that precedes an entry.
    fn pax(&mut self, entry: &Member<'_>, records: &[(String, Vec<u8>)]) -> Result<()> {
        let data: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| pax_record(key, value))
            .collect();
        let mut header = Header::new_ustar();
        header.set_path("PaxHeaders")?;
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(entry.mtime)?);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.put(header.as_bytes())?;
        self.put(&data)?;
        self.pad(data.len() as u64)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let rest = usize::try_from((512 - size % 512) % 512)?;
        self.put(&[0; 512][..rest])
    }

    fn put(&mut self, data: &[u8]) -> Result<()> {
        self.out
            .write_all(data)
            .context("cannot write the image's tar")?;
        self.contents.size += data.len() as u64;
        Ok(())
    }
}

/// The fields of a header.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// As it is in the tar: a directory's ends in `/`.
    pub name: &'a [u8],
    pub entry_type: EntryType,
    /// Bytes of a file's content; 0 for anything else.
    pub size: u64,
    /// At most 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, not negative.
    pub mtime: i64,
    /// Where a symbolic or hard link leads.
    pub link: Option<&'a [u8]>,
    /// Major and minor number of a device node.
    pub device: Option<(u32, u32)>,
    /// Extended attributes with their whole names, sorted.
    pub attributes: &'a [(String, Vec<u8>)],
}

/// Writes the name into the header, using the prefix field if necessary; writes a truncated name
/// and returns `false` if it does not fit.
fn fits_ustar(header: &mut Header, name: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else {
        return false;
    };
    if name.len() <= 100 {
        ustar.name[..name.len()].copy_from_slice(name);
        return true;
    }
    // A trailing slash of the name is no place to split.
    let split = name[..name.len() - 1]
        .iter()
        .enumerate()
        .filter(|(at, byte)| **byte == b'/' && *at <= 155 && name.len() - at - 1 <= 100)
        .map(|(at, _)| at)
        .next();
    match split {
        Some(at) => {
            ustar.prefix[..at].copy_from_slice(&name[..at]);
            ustar.name[..name.len() - at - 1].copy_from_slice(&name[at + 1..]);
            true
        }
        None => {
            ustar.name.copy_from_slice(&name[..100]);
            false
        }
    }
}

/// A pax record `LENGTH KEY=VALUE\n`, where the length includes its own digits.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("path", b"x"), b"9 path=x\n");
        let record = pax_record("path", &[b'y'; 90]);
        assert_eq!(record.len(), 99);
        assert!(record.starts_with(b"99 path="));
        let record = pax_record("path", &[b'y'; 91]);
        assert!(record.starts_with(b"101 path=") && record.len() == 101);
    }
}
