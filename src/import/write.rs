//! Owns writing a tree as hearth's tar: sorted, with the attributes that it came with. Never changes what it reads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::tree::{Content, Extended, Kind, Place, ROOT, Tree};
use crate::image::Artifact;
use crate::image::member::{ArchiveWriter, Member};
use crate::image::tarball::belongs;
use crate::progress::Stage;

/// Where the bytes of a tree's files come from.
pub trait Source {
    /// A file's content, from its beginning to its end.
    ///
    /// # Errors
    /// If it cannot be read.
    fn open<'a>(
        &'a self,
        path: &[u8],
        content: &'a Content,
        size: u64,
    ) -> Result<Box<dyn Read + 'a>>;
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub tar: Artifact,
    pub entries: u64,
    /// The newest time of all files, in seconds since 1970.
    pub newest: i64,
}

/// Writes the tree into a new file at `path`. Zeros take no place on the disk there.
///
/// # Errors
/// If a file of the source cannot be read, or the tar cannot be written.
pub fn write(tree: &Tree, source: &dyn Source, path: &Path, stage: &dyn Stage) -> Result<Written> {
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let (sender, receiver) = sync_channel::<Vec<u8>>(PENDING);
    thread::scope(|scope| {
        // Hashing and writing take about as long as reading.
        let written = scope.spawn(move || {
            let mut hash = Sha256::new();
            let mut file = Sparse { file, length: 0 };
            for chunk in receiver {
                file.write(&chunk)?;
                hash.update(&chunk);
            }
            file.finish()?;
            Ok::<_, io::Error>(hash.finalize())
        });
        let mut out = BufWriter::with_capacity(CHUNK, Chunks { sender, stage });
        let contents = members(tree, source, &mut out)
            .and_then(|contents| Ok(out.flush().map(|()| contents)?));
        let (chunks, _) = out.into_parts();
        drop(chunks);
        // First, because its error explains why the channel was closed.
        let hash = written.join().expect("writing does not panic");
        let hash = hash.with_context(failed)?;
        let (contents, newest) = contents?;
        Ok(Written {
            tar: Artifact {
                sha256: hex::encode(hash),
                size: contents.size,
            },
            entries: contents.entries,
            newest,
        })
    })
}

/// Bytes sent at once, and how many such chunks may wait.
const CHUNK: usize = 1 << 20;
const PENDING: usize = 4;

struct Chunks<'a> {
    sender: SyncSender<Vec<u8>>,
    stage: &'a dyn Stage,
}

impl Write for Chunks<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.sender
            .send(data.to_vec())
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.stage.advance(data.len() as u64);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file in which blocks of zeros are left out.
struct Sparse {
    file: File,
    length: u64,
}

/// What is looked at for zeros, in bytes.
const HOLE: usize = 1 << 16;

impl Sparse {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        for part in data.chunks(HOLE) {
            let is_hole = part.len() == HOLE && part.iter().all(|&byte| byte == 0);
            match is_hole {
                true => drop(self.file.seek(SeekFrom::Current(HOLE as i64))?),
                false => self.file.write_all(part)?,
            }
            self.length += part.len() as u64;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)
    }
}

fn members(
    tree: &Tree,
    source: &dyn Source,
    out: &mut dyn Write,
) -> Result<(crate::image::member::Contents, i64)> {
    let mut walk = Walk {
        tree,
        source,
        out: ArchiveWriter::new(out),
        first_names: HashMap::new(),
        newest: 0,
    };
    walk.entry(ROOT, b"./")?;
    walk.directory(ROOT, &mut Vec::new())?;
    let newest = walk.newest;
    Ok((walk.out.finish()?, newest))
}

struct Walk<'a> {
    tree: &'a Tree,
    source: &'a dyn Source,
    out: ArchiveWriter<'a>,
    /// Of files with several names.
    first_names: HashMap<Place, Vec<u8>>,
    newest: i64,
}

impl Walk<'_> {
    /// Writes what is in a directory. `path` is that of the directory, with a slash at its end; empty for the root.
    fn directory(&mut self, place: Place, path: &mut Vec<u8>) -> Result<()> {
        let Kind::Directory(entries) = &self.tree.node(place).kind else {
            return Ok(());
        };
        let is_directory = |place: Place| matches!(self.tree.node(place).kind, Kind::Directory(_));
        let mut sorted: Vec<(&[u8], bool, Place)> = entries
            .iter()
            .map(|(name, &place)| (&**name, is_directory(place), place))
            .collect();
        // With its slash, a directory sorts as its name in the tar does.
        sorted.sort_by(|one, other| sort_key(one).cmp(sort_key(other)));
        for (name, is_directory, place) in sorted {
            let length = path.len();
            path.extend_from_slice(name);
            if is_directory {
                path.push(b'/');
            }
            self.entry(place, path)?;
            if is_directory {
                self.directory(place, path)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// Writes one member. `name` is its name in the tar.
    fn entry(&mut self, place: Place, name: &[u8]) -> Result<()> {
        let node = self.tree.node(place);
        let attributes = &node.attributes;
        let mtime = attributes.mtime.max(0);
        self.newest = self.newest.max(mtime);
        let extended = kept(attributes.extended.as_deref());
        let mut member = Member {
            name,
            entry_type: EntryType::Directory,
            size: 0,
            mode: attributes.mode.into(),
            uid: attributes.uid,
            gid: attributes.gid,
            mtime,
            link: None,
            device: None,
            attributes: &extended,
        };
        if let Some(first) = self.first_names.get(&place) {
            member.entry_type = EntryType::Link;
            member.link = Some(first);
            member.attributes = &[];
            return self.out.member(&member);
        }
        let has_more_names = node.links > 1 && !matches!(node.kind, Kind::Directory(_));
        match &node.kind {
            Kind::Directory(_) => {}
            Kind::Symlink(target) => {
                member.entry_type = EntryType::Symlink;
                member.link = Some(target);
            }
            Kind::CharDevice(major, minor) => {
                member.entry_type = EntryType::Char;
                member.device = Some((*major, *minor));
            }
            Kind::BlockDevice(major, minor) => {
                member.entry_type = EntryType::Block;
                member.device = Some((*major, *minor));
            }
            Kind::Fifo => member.entry_type = EntryType::Fifo,
            Kind::File { size, content } => {
                member.entry_type = EntryType::Regular;
                member.size = *size;
                file(self.source, &mut self.out, &member, content)?;
            }
        }
        if member.entry_type != EntryType::Regular {
            self.out.member(&member)?;
        }
        if has_more_names {
            self.first_names.insert(place, name.to_vec());
        }
        Ok(())
    }
}

fn file(
    source: &dyn Source,
    out: &mut ArchiveWriter<'_>,
    member: &Member<'_>,
    content: &Content,
) -> Result<()> {
    let shown = String::from_utf8_lossy(member.name);
    let about = || format!("cannot read `{shown}`");
    let mut content = source
        .open(member.name, content, member.size)
        .with_context(about)?;
    let changed = || format!("it has fewer than {} bytes", member.size);
    out.file(member, &mut content, &changed).with_context(about)
}

/// With its slash, a directory sorts as its name in the tar does.
fn sort_key<'a>(
    &(name, is_directory, _): &(&'a [u8], bool, Place),
) -> impl Iterator<Item = &'a u8> {
    let slash: &[u8] = if is_directory { b"/" } else { b"" };
    name.iter().chain(slash)
}

/// The extended attributes that hearth's tar has.
fn kept(extended: Option<&Extended>) -> Extended {
    let all = extended.into_iter().flatten();
    all.filter(|(name, _)| belongs(name)).cloned().collect()
}
