//! Owns the outer form of a `.deb` (deb(5)): an ar archive of a version, a control and a data
//! member.
//! Never writes a file; `rootfs::unpack` handles the data member's content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use liblzma::stream::{IGNORE_CHECK, MtStreamBuilder, Stream};
use sha2::{Digest, Sha256};

use super::limit::{Limited, each_entry};
use crate::error::{Fault, InputContext};
use crate::input;

/// Limit on a package's control files together, in bytes; they are held in memory.
const CONTROL_LIMIT: u64 = 32 << 20;
/// Memory limit of one xz stream, in bytes: `xz -9` takes 65 MiB, threads multiply it.
const XZ_MEMORY: u64 = 160 << 20;
/// A data member may be this many times as large as the package,
const EXPANSION: u64 = 250;
/// or this many bytes, whichever is more. Guards against archives that fill the disk.
const EXPANSION_FLOOR: u64 = 256 << 20;

/// The control member's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The `control` file: one paragraph in deb822 form.
    pub paragraph: String,
    /// The other files by name: content and mode.
    pub files: BTreeMap<String, (Vec<u8>, u32)>,
}

impl Control {
    /// Bytes that the files take.
    pub fn size(&self) -> u64 {
        let files = self.files.values().map(|(content, _)| content.len() as u64);
        self.paragraph.len() as u64 + files.sum::<u64>()
    }
}

/// A `.deb` being read, from front to end.
///
/// The ar headers are parsed here and not by the crate `ar`, which allocates whatever length a
/// header claims for a name table.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("hello.deb");
/// # let member = |name, text| common::tarball::tar(&[common::tarball::file(name, 0o644, text)]);
/// # let mut ar = ar::Builder::new(std::fs::File::create(&path)?);
/// # for (name, data) in [
/// #     ("debian-binary", b"2.0\n".to_vec()),
/// #     ("control.tar", member("./control", "Package: hello\nVersion: 1\n")),
/// #     ("data.tar", member("./etc/hello", "hello")),
/// # ] {
/// #     ar.append(&ar::Header::new(name.into(), data.len() as u64), &data[..])?;
/// # }
/// # drop(ar);
/// use hearth::archive::deb::Deb;
///
/// let mut deb = Deb::open(&path)?;
/// assert!(deb.control()?.paragraph.starts_with("Package: hello\n"));
/// let mut files = tar::Archive::new(deb.data(1)?);
/// let first = files.entries()?.next().unwrap()?;
/// assert_eq!(&*first.path_bytes(), b"./etc/hello");
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Deb {
    path: PathBuf,
    size: u64,
    reader: Hashing<BufReader<File>>,
    /// Bytes left of the current member, with its padding byte.
    rest: u64,
}

impl Deb {
    /// # Errors
    /// If the file cannot be opened or is no ar archive.
    pub fn open(path: &Path) -> Result<Self> {
        let file = input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let size = file.metadata()?.len();
        let mut reader = Hashing::new(BufReader::with_capacity(1 << 17, file));
        let mut magic = [0; 8];
        match reader.read_exact(&mut magic) {
            Ok(()) if &magic == b"!<arch>\n" => {}
            _ => return Err(damaged(path, "it is no Debian package").into()),
        }
        Ok(Deb {
            path: path.to_path_buf(),
            size,
            reader,
            rest: 0,
        })
    }

    /// Reads the version member and the control member; call it first.
    ///
    /// # Errors
    /// If this is no `.deb` of format 2, or its control member is damaged or unreasonably large.
    pub fn control(&mut self) -> Result<Control> {
        let path = self.path.clone();
        let mut version = String::new();
        let read = self
            .member("debian-binary")?
            .1
            .take(64)
            .read_to_string(&mut version);
        if read.is_err() || !version.starts_with("2.") {
            return Err(damaged(&path, "its format is not version 2").into());
        }
        let (name, member) = self.member("control.tar")?;
        decoder(&name, member, 0, 0)
            .and_then(|tar| {
                let what = format!("it expands to more than {CONTROL_LIMIT} bytes");
                read_control(Limited::new(tar, CONTROL_LIMIT, what))
            })
            .input_context(|| format!("{} is damaged: its control member", path.display()))
    }

    /// The data member's tar stream, decompressed; call it after [`Deb::control`]. An xz stream of
    /// several blocks is decompressed with `threads` threads.
    ///
    /// # Errors
    /// If there is no data member, or its compression is unknown.
    pub fn data(&mut self, threads: usize) -> Result<Box<dyn Read + '_>> {
        let limit = self.size.saturating_mul(EXPANSION).max(EXPANSION_FLOOR);
        let threads = match u32::try_from(threads) {
            Ok(threads) if self.size > 8 << 20 => threads,
            _ => 0,
        };
        let path = self.path.clone();
        let (name, member) = self.member("data.tar")?;
        // `verify` compares the file's SHA-256, which covers more than the checks inside xz.
        let inner = decoder(&name, member, threads, IGNORE_CHECK)
            .input_context(|| format!("{} is damaged: its data member", path.display()))?;
        let what = format!("it expands to more than {EXPANSION} times its size");
        Ok(Box::new(Limited::new(inner, limit, what)))
    }

    /// Reads to the end and compares the whole file's SHA-256.
    ///
    /// # Errors
    /// If the SHA-256 differs from the expected one.
    pub fn verify(mut self, sha256: &str) -> Result<()> {
        io::copy(&mut self.reader, &mut io::sink())
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let found = hex::encode(self.reader.hash.finalize());
        if found == sha256 {
            return Ok(());
        }
        let sentence = format!(
            "{} has the SHA-256 {found}, not {sha256}",
            self.path.display()
        );
        Err(Fault::input(sentence)
            .remedy("remove the file: it will be fetched again")
            .into())
    }

    /// The next member, whose name must begin with `prefix`; skips members whose names begin with
    /// `_`, as deb(5) says.
    fn member(&mut self, prefix: &str) -> Result<(String, impl Read + '_)> {
        loop {
            let skipped = io::copy(&mut (&mut self.reader).take(self.rest), &mut io::sink());
            let header = skipped.and_then(|_| read_header(&mut self.reader));
            let (name, size) = header
                .map_err(|error| damaged(&self.path, &format!("no {prefix} member: {error}")))?;
            self.rest = size + size % 2;
            if name.starts_with(prefix) {
                let member = Member {
                    deb: self,
                    left: size,
                };
                return Ok((name, member));
            }
            if !name.starts_with('_') {
                let what = format!("it has `{name}` where {prefix} belongs");
                return Err(damaged(&self.path, &what).into());
            }
        }
    }
}

/// One ar header: name and size (ar(5), common form).
fn read_header(reader: &mut impl Read) -> io::Result<(String, u64)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the ar header is damaged");
    let mut header = [0; 60];
    reader.read_exact(&mut header)?;
    let text = std::str::from_utf8(&header).map_err(|_| invalid())?;
    let name = text[..16].trim_end().trim_end_matches('/');
    let size = text[48..58].trim_end().parse().map_err(|_| invalid())?;
    if &text[58..] != "`\n" {
        return Err(invalid());
    }
    Ok((name.to_string(), size))
}

/// Reads one member and counts down the archive's bytes left of it.
struct Member<'a> {
    deb: &'a mut Deb,
    left: u64,
}

impl Read for Member<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.deb.reader.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        self.deb.rest -= read as u64;
        Ok(read)
    }
}

fn damaged(path: &Path, what: &str) -> Fault {
    Fault::input(format!("{} is damaged: {what}", path.display()))
        .remedy("remove the file: it will be fetched again")
}

/// Decompresses a member according to the suffix of its name. `flags` are liblzma's.
fn decoder<'a>(
    name: &str,
    member: impl Read + 'a,
    threads: u32,
    flags: u32,
) -> Result<Box<dyn Read + 'a>> {
    Ok(
        match name.rsplit_once(".tar").map(|(_, compression)| compression) {
            Some("") => Box::new(member),
            Some(".gz") => Box::new(flate2::read::GzDecoder::new(member)),
            Some(".xz") if threads > 1 => {
                let stream = MtStreamBuilder::new()
                    .threads(threads)
                    .memlimit_threading(XZ_MEMORY)
                    .memlimit_stop(XZ_MEMORY)
                    .decoder()?;
                Box::new(liblzma::read::XzDecoder::new_stream(member, stream))
            }
            Some(".xz") => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, flags)?;
                Box::new(liblzma::read::XzDecoder::new_stream(member, stream))
            }
            Some(".zst") => Box::new(zstd::Decoder::new(member)?),
            _ => anyhow::bail!("the compression of {name} is none of gz, xz and zst"),
        },
    )
}

fn read_control(tar: impl Read) -> Result<Control> {
    let mut control = Control::default();
    each_entry(tar, |entry| {
        let name = String::from_utf8(entry.path_bytes().into_owned())?;
        let name = name.strip_prefix("./").unwrap_or(&name).to_string();
        match entry.header().entry_type() {
            tar::EntryType::Directory if name.is_empty() => return Ok(()),
            tar::EntryType::Regular => {}
            kind => anyhow::bail!("`{name}` is a {kind:?}, not a file"),
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            anyhow::bail!("`{name}` is no name of a control file");
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if name == "control" {
            control.paragraph = String::from_utf8(content)?;
        } else {
            let mode = entry.header().mode()? & 0o777;
            control.files.insert(name, (content, mode));
        }
        Ok(())
    })?;
    if control.paragraph.is_empty() {
        anyhow::bail!("there is no control file");
    }
    Ok(control)
}

/// Hashes data as it is read.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Hashing {
            inner,
            hash: Sha256::new(),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
