//! Owns reading the headers of any tar, whatever wrote it. Never keeps a file's bytes.
//!
//! POSIX ustar with pax records (POSIX.1-2017, pax, "pax Interchange Format"), GNU long names and base-256 numbers, and
//! the sparse files of GNU tar: its own format, and PAX 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result, bail, ensure};

pub use super::read_at::ReadAt;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A stretch of a file that is stored in the tar; what no piece covers is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it belongs in the file.
    pub at: u64,
    /// Where it is in the tar.
    pub stored: u64,
    pub length: u64,
}

/// A member's header, with what preceded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it is in the tar.
    pub name: Vec<u8>,
    pub kind: Type,
    /// At most 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes of a file's content.
    pub size: u64,
    /// Where a symbolic or hard link leads.
    pub link: Vec<u8>,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Extended attributes with their whole names, sorted.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// Where the content is, in ascending order of `at`; none of length 0.
    pub pieces: Vec<Piece>,
}

const BLOCK: u64 = 512;
/// The most that names and pax records of one member may take, in bytes: they are held in memory.
const LARGEST_RECORDS: u64 = 8 << 20;
/// The most pieces that a sparse file may have.
const MOST_PIECES: u64 = 1 << 20;
/// Read ahead at once, in bytes.
const WINDOW: usize = 1 << 16;

/// The members of a tar, in its order.
pub struct Entries<'a> {
    input: &'a (dyn ReadAt + 'a),
    length: u64,
    position: u64,
    window: Vec<u8>,
    window_at: u64,
    global: Records,
}

/// pax records; of a keyword that comes again, the last. Those of sparse files repeat and are kept apart.
#[derive(Clone, Debug, Default)]
struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offsets and lengths, alternating, of PAX 0.0.
    sparse: Vec<u64>,
}

/// What is said about a member in headers before its own.
#[derive(Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

impl<'a> Entries<'a> {
    /// # Errors
    /// If the length of the input cannot be told.
    pub fn new(input: &'a (dyn ReadAt + 'a)) -> Result<Self> {
        Ok(Entries {
            length: input.length()?,
            input,
            position: 0,
            window: Vec::new(),
            window_at: 0,
            global: Records::default(),
        })
    }

    /// The next member; `None` at the end of the archive, of which at least one zero block has to be there.
    ///
    /// # Errors
    /// If the tar is cut short, damaged, or has a member of a kind that no file system has.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut before = Before {
            records: self.global.clone(),
            ..Before::default()
        };
        loop {
            let at = self.position;
            let header = self
                .block(at)
                .with_context(|| format!("it is cut short at byte {}", self.length))?;
            // As tar(1), which looks at nothing behind it.
            if header.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            ensure!(has_checksum(&header), "at byte {at} is no header of a tar");
            self.position = at + BLOCK;
            let size = u64::try_from(number(&header[124..136])?).context("a negative size")?;
            match header[156] {
                b'L' => before.name = Some(self.text(size)?),
                b'K' => before.link = Some(self.text(size)?),
                b'x' | b'X' => before.records.add(&self.records(size)?)?,
                b'g' => {
                    let records = self.records(size)?;
                    self.global.add(&records)?;
                    before.records.add(&records)?;
                }
                // The label of an archive is no file.
                b'V' => self.skip(size)?,
                _ => return self.entry(&header, size, before).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &[u8; 512], size: u64, before: Before) -> Result<Entry> {
        let records = &before.records;
        let name = records
            .values
            .get(&b"GNU.sparse.name"[..])
            .or_else(|| records.values.get(&b"path"[..]))
            .cloned()
            .or(before.name)
            .unwrap_or_else(|| name_of(header));
        let about = || format!("member `{}`", String::from_utf8_lossy(&name));
        let entry = self.entry_named(header, size, before.link, records, name.clone());
        entry.with_context(about)
    }

    fn entry_named(
        &mut self,
        header: &[u8; 512],
        size: u64,
        link: Option<Vec<u8>>,
        records: &Records,
        name: Vec<u8>,
    ) -> Result<Entry> {
        let mut kind = kind_of(header[156])?;
        if kind == Type::File && name.ends_with(b"/") {
            kind = Type::Directory;
        }
        let stored = match kind {
            Type::File => records.number("size")?.unwrap_or(size),
            // Of a directory, a list of names (GNU tar's incremental archives).
            Type::Directory => size,
            _ => 0,
        };
        let (size, pieces) = match kind {
            Type::File => self.content(header, stored, records)?,
            _ => {
                self.skip(stored)?;
                (0, Vec::new())
            }
        };
        let id = |keyword, field| -> Result<u32> {
            let id = match records.number(keyword)? {
                Some(id) => id,
                None => u64::try_from(number(field)?).unwrap_or(u64::MAX),
            };
            u32::try_from(id).context("an owner's number over 32 bits")
        };
        let device = |field| u32::try_from(number(field)?).context("a device's number");
        let is_device = matches!(kind, Type::CharDevice | Type::BlockDevice);
        Ok(Entry {
            kind,
            mode: (number(&header[100..108])? & 0o7777) as u32,
            uid: id("uid", &header[108..116])?,
            gid: id("gid", &header[116..124])?,
            mtime: match records.values.get(&b"mtime"[..]) {
                Some(text) => seconds(text).context("the pax record mtime")?,
                None => number(&header[136..148])?,
            },
            size,
            link: records
                .values
                .get(&b"linkpath"[..])
                .cloned()
                .or(link)
                .unwrap_or_else(|| until_nul(&header[157..257])),
            device: match is_device {
                true => (device(&header[329..337])?, device(&header[337..345])?),
                false => (0, 0),
            },
            attributes: records.attributes(),
            pieces,
            name,
        })
    }

    /// The size of a file and where its content is; moves on to what follows.
    fn content(
        &mut self,
        header: &[u8; 512],
        stored: u64,
        records: &Records,
    ) -> Result<(u64, Vec<Piece>)> {
        if header[156] == b'S' {
            let (size, map) = self.gnu_map(header)?;
            let start = self.position;
            self.skip(stored)?;
            return Ok((size, pieces(&map, start, stored, size)?));
        }
        let start = self.position;
        self.skip(stored)?;
        let (size, map, before) = match records.sparse_version()? {
            Sparse::None => {
                let piece = Piece {
                    at: 0,
                    stored: start,
                    length: stored,
                };
                let pieces = if stored > 0 { vec![piece] } else { Vec::new() };
                return Ok((stored, pieces));
            }
            Sparse::InRecords(size, map) => (size, map, 0),
            Sparse::InData(size) => {
                let (map, length) = self.map_in_data(start, stored)?;
                (size, map, length)
            }
        };
        let left = stored.saturating_sub(before);
        Ok((size, pieces(&map, start + before, left, size)?))
    }

    /// The map of GNU tar's own format: four pairs in the header, more in blocks after it.
    fn gnu_map(&mut self, header: &[u8; 512]) -> Result<(u64, Vec<u64>)> {
        let unsigned = |field: &[u8]| u64::try_from(number(field)?).context("a sparse file's map");
        let size = unsigned(&header[483..495])?;
        let mut map = Vec::new();
        let mut pairs = header[386..482].to_vec();
        let mut goes_on = header[482] != 0;
        loop {
            for pair in pairs.chunks_exact(24) {
                // An unused pair is empty.
                if pair[0] == 0 && pair[12] == 0 {
                    continue;
                }
                map.extend([unsigned(&pair[..12])?, unsigned(&pair[12..])?]);
            }
            ensure!(
                map.len() as u64 / 2 <= MOST_PIECES,
                "a sparse file of too many pieces"
            );
            if !goes_on {
                return Ok((size, map));
            }
            let block = self.block(self.position).context("it is cut short")?;
            self.position += BLOCK;
            pairs = block[..504].to_vec();
            goes_on = block[504] != 0;
        }
    }

    /// The map of PAX 1.0 before the data: numbers in lines, padded to a block. Returns its length too.
    fn map_in_data(&mut self, start: u64, stored: u64) -> Result<(Vec<u64>, u64)> {
        let mut map = Vec::new();
        let (mut expected, mut line, mut at) = (None, Vec::new(), 0);
        while expected.is_none_or(|count| (map.len() as u64) < count) {
            ensure!(at < stored, "a sparse file's map is cut short");
            let block = self.block(start + at)?;
            at += BLOCK;
            for &byte in &block {
                if byte != b'\n' {
                    ensure!(line.len() < 20, "a sparse file's map");
                    line.push(byte);
                    continue;
                }
                let value = decimal(&line).context("a sparse file's map")?;
                line.clear();
                match expected {
                    None => {
                        ensure!(value <= MOST_PIECES, "a sparse file of too many pieces");
                        expected = Some(value * 2);
                    }
                    Some(_) => map.push(value),
                }
                if expected == Some(map.len() as u64) {
                    break;
                }
            }
        }
        Ok((map, at))
    }

    /// One block, out of what was read ahead.
    fn block(&mut self, at: u64) -> io::Result<[u8; 512]> {
        let is_there =
            at >= self.window_at && at + BLOCK <= self.window_at + self.window.len() as u64;
        if !is_there {
            let ahead = self.length.saturating_sub(at).min(WINDOW as u64);
            if ahead < BLOCK {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.window.resize(ahead as usize, 0);
            self.window_at = at;
            if let Err(error) = self.input.fill_at(&mut self.window, at) {
                self.window.clear();
                return Err(error);
            }
        }
        let from = (at - self.window_at) as usize;
        let mut block = [0; 512];
        block.copy_from_slice(&self.window[from..from + 512]);
        Ok(block)
    }

    /// Moves on over a member's data.
    fn skip(&mut self, size: u64) -> Result<()> {
        let end = self.position.checked_add(size).context("a size")?;
        ensure!(
            end <= self.length,
            "it ends at byte {end}, but the tar is cut short at byte {}",
            self.length
        );
        self.position = end.next_multiple_of(BLOCK);
        Ok(())
    }

    fn records(&mut self, size: u64) -> Result<Vec<u8>> {
        ensure!(
            size <= LARGEST_RECORDS,
            "a name or pax header of {size} bytes"
        );
        let mut data = vec![0; size as usize];
        let at = self.position;
        self.skip(size).context("a pax header")?;
        self.input.fill_at(&mut data, at)?;
        Ok(data)
    }

    /// A long name, without the NUL at its end.
    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        Ok(until_nul(&self.records(size)?))
    }
}

/// How a file is sparse according to its pax records.
enum Sparse {
    None,
    /// Its size, and its map.
    InRecords(u64, Vec<u64>),
    /// Its size; the map is before the data.
    InData(u64),
}

impl Records {
    /// Adds records: `LENGTH KEYWORD=VALUE\n`, where the length counts itself. A value may hold any byte.
    fn add(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() && data[0] != 0 {
            let damaged = || "a pax header is damaged";
            let space = data
                .iter()
                .position(|&byte| byte == b' ')
                .with_context(damaged)?;
            let length = usize::try_from(decimal(&data[..space])?)?;
            let record = data.get(space + 1..length).with_context(damaged)?;
            let record = record.strip_suffix(b"\n").with_context(damaged)?;
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .with_context(damaged)?;
            let (keyword, value) = (&record[..equals], &record[equals + 1..]);
            data = &data[length..];
            match keyword {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    self.sparse.push(decimal(value).with_context(damaged)?);
                }
                // An empty value takes back what a global header said.
                _ if value.is_empty() => drop(self.values.remove(keyword)),
                _ => drop(self.values.insert(keyword.to_vec(), value.to_vec())),
            }
        }
        Ok(())
    }

    fn number(&self, keyword: &str) -> Result<Option<u64>> {
        let value = self.values.get(keyword.as_bytes());
        value
            .map(|text| decimal(text).with_context(|| format!("the pax record {keyword}")))
            .transpose()
    }

    fn sparse_version(&self) -> Result<Sparse> {
        let size = self.number("GNU.sparse.size")?;
        if let Some(major) = self.number("GNU.sparse.major")? {
            let minor = self.number("GNU.sparse.minor")?.unwrap_or(0);
            if (major, minor) == (1, 0) {
                let size = self.number("GNU.sparse.realsize")?;
                return Ok(Sparse::InData(
                    size.context("a sparse file without a size")?,
                ));
            }
            ensure!(
                major == 0,
                "a sparse file of the unknown version {major}.{minor}"
            );
        }
        let map = match self.values.get(&b"GNU.sparse.map"[..]) {
            Some(text) => text
                .split(|&byte| byte == b',')
                .map(decimal)
                .collect::<Result<Vec<u64>>>()
                .context("a sparse file's map")?,
            None if size.is_none() => return Ok(Sparse::None),
            None => self.sparse.clone(),
        };
        let size = size.or(self.number("GNU.sparse.realsize")?);
        Ok(Sparse::InRecords(
            size.context("a sparse file without a size")?,
            map,
        ))
    }

    fn attributes(&self) -> Vec<(String, Vec<u8>)> {
        let attribute = |(keyword, value): (&Vec<u8>, &Vec<u8>)| {
            let name = keyword.strip_prefix(b"SCHILY.xattr.")?;
            Some((String::from_utf8(name.to_vec()).ok()?, value.clone()))
        };
        self.values.iter().filter_map(attribute).collect()
    }
}

/// The pieces of a file's map, whose data follow each other from `start` on.
fn pieces(map: &[u64], start: u64, stored: u64, size: u64) -> Result<Vec<Piece>> {
    let wrong = || "a sparse file's map does not fit its data";
    ensure!(map.len().is_multiple_of(2), "{}", wrong());
    let (mut pieces, mut used, mut last) = (Vec::new(), 0u64, 0);
    for pair in map.chunks_exact(2) {
        let (at, length) = (pair[0], pair[1]);
        let end = at.checked_add(length).with_context(wrong)?;
        ensure!(at >= last && end <= size, "{}", wrong());
        last = end;
        if length > 0 {
            pieces.push(Piece {
                at,
                stored: start + used,
                length,
            });
        }
        used = used
            .checked_add(length)
            .filter(|&used| used <= stored)
            .with_context(wrong)?;
    }
    Ok(pieces)
}

fn kind_of(flag: u8) -> Result<Type> {
    Ok(match flag {
        0 | b'0' | b'7' | b'S' => Type::File,
        b'1' => Type::HardLink,
        b'2' => Type::Symlink,
        b'3' => Type::CharDevice,
        b'4' => Type::BlockDevice,
        b'5' | b'D' => Type::Directory,
        b'6' => Type::Fifo,
        b'M' => bail!("it goes on from another volume of a tar in several"),
        other => bail!("its type `{}` is unknown", other.escape_ascii()),
    })
}

/// The name in a header; POSIX headers have a second part of it.
fn name_of(header: &[u8; 512]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name;
    }
    [prefix, name].join(&b'/')
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|&byte| byte == 0);
    field[..end.unwrap_or(field.len())].to_vec()
}

/// Whether a block is the header of a member.
pub fn is_header(block: &[u8]) -> bool {
    let block: Result<&[u8; 512], _> = block.try_into();
    block.is_ok_and(|block| block.iter().any(|&byte| byte != 0) && has_checksum(block))
}

/// Whether a header's checksum is right; some old tars took the bytes for signed ones.
fn has_checksum(header: &[u8; 512]) -> bool {
    let bytes = || {
        let fixed = |(at, &byte): (usize, &u8)| match at {
            148..156 => b' ',
            _ => byte,
        };
        header.iter().enumerate().map(fixed)
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    number(&header[148..156]).is_ok_and(|told| told == unsigned || told == signed)
}

/// A header's number: octal, or base 256 where the first bit is set (negative where the second is set as well).
fn number(field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x7f) - if negative { 0x80 } else { 0 };
        let value = field[1..].iter().fold(first, |value, &byte| {
            value.saturating_mul(256).saturating_add(i128::from(byte))
        });
        return i64::try_from(value).context("a number that is too large");
    }
    let text = until_nul(field);
    let text = std::str::from_utf8(&text).context("a number")?.trim();
    match text {
        "" => Ok(0),
        text => {
            i64::from_str_radix(text, 8).with_context(|| format!("`{text}` is no octal number"))
        }
    }
}

fn decimal(text: &[u8]) -> Result<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).context("a number")?;
    text.parse()
        .ok()
        .filter(|_| digits)
        .with_context(|| format!("`{text}` is no number"))
}

/// The whole seconds of a pax time, rounded down.
fn seconds(text: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(text).context("a time")?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole
        .parse()
        .with_context(|| format!("`{text}` is no time"))?;
    let is_cut = whole.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    Ok(seconds.saturating_sub(i64::from(is_cut)))
}
