//! Owns the layer with a kernel's modules: a tar with the modules as they are, and what depmod makes of them.
//! Never lays it over an image.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::depmod::{Texts, depmod};
use super::module::Module;
use super::modules::ModuleFiles;
use crate::arch;
use crate::error::Fault;
use crate::image::Artifact;
use crate::initrd::modinfo::{decompress, is_module};
use crate::input;

/// The time of all files, in Unix seconds: a layer of the same modules has the same bytes whenever they were built. It is
/// before every image's epoch, and not 0, which NFS clients take for no time.
const TIME: u64 = 946_684_800;
/// Modules that wait for a thread to read them; each is in memory.
const WAITING: usize = 16;
/// Hides the modules that the image below has of the same release (OCI image specification).
const OPAQUE: &str = ".wh..wh..opq";

/// What a layer is made of.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    pub modules: &'a ModuleFiles,
    pub arch: arch::Arch,
    /// The kernel's configuration, which becomes `boot/config-RELEASE`.
    pub config: Option<&'a [u8]>,
    /// Where the image has modules: `usr/lib/modules`, or `lib/modules` if its `/lib` is no link.
    pub directory: &'a str,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub tar: Artifact,
    /// How many loadable modules are in it.
    pub modules: usize,
}

/// Writes the layer's tar to `path`, reading each module once.
///
/// # Errors
/// If a module is damaged, or for another architecture or release; if they need each other in a loop; if the disk is full.
pub fn write(contents: &Contents<'_>, path: &Path) -> Result<Layer> {
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let mut tar = Tar {
        out: Hashing::new(BufWriter::with_capacity(1 << 18, file)),
    };
    let directory = format!("{}/{}", contents.directory, contents.modules.release);
    tar.directory(&directory)?;
    tar.file(&format!("{directory}/{OPAQUE}"), b"")?;
    let read = add_modules(contents, &directory, &mut tar)?;
    let modules = read.len();
    check(&read, contents)?;
    let files = contents.modules;
    let texts = Texts {
        order: files.order.as_deref(),
        builtin: files.builtin.as_deref(),
        builtin_modinfo: files.builtin_modinfo.as_deref(),
    };
    for (name, data) in depmod(read, texts)? {
        tar.file(&format!("{directory}/{name}"), &data)?;
    }
    let given = [
        ("modules.order", files.order.as_deref().map(str::as_bytes)),
        (
            "modules.builtin",
            files.builtin.as_deref().map(str::as_bytes),
        ),
        ("modules.builtin.modinfo", files.builtin_modinfo.as_deref()),
    ];
    for (name, data) in given {
        if let Some(data) = data {
            tar.file(&format!("{directory}/{name}"), data)?;
        }
    }
    if let Some(config) = contents.config {
        tar.file(&format!("boot/config-{}", files.release), config)?;
    }
    let tar = tar.finish().with_context(failed)?;
    Ok(Layer { tar, modules })
}

/// A module's name and what its file holds.
type ReadModule = (String, Arc<Vec<u8>>);

/// Writes the modules into the tar, while other threads read what depmod needs of them.
fn add_modules(contents: &Contents<'_>, directory: &str, tar: &mut Tar) -> Result<Vec<Module>> {
    let readers = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = sync_channel::<ReadModule>(WAITING);
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        let reading: Vec<_> = (0..readers)
            .map(|_| scope.spawn(|| read_all(&receiver)))
            .collect();
        let written = put_all(contents, directory, tar, sender);
        let mut modules = Vec::new();
        for thread in reading {
            modules.extend(thread.join().expect("reading a module does not panic")?);
        }
        written?;
        Ok(modules)
    })
}

fn put_all(
    contents: &Contents<'_>,
    directory: &str,
    tar: &mut Tar,
    sender: SyncSender<ReadModule>,
) -> Result<()> {
    for (name, file) in &contents.modules.files {
        let data = input::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let data = Arc::new(data);
        tar.file(&format!("{directory}/{name}"), &data)?;
        if is_module(name) {
            sender
                .send((name.clone(), data))
                .context("the readers of modules ended")?;
        }
    }
    Ok(())
}

/// Reads modules until there are no more, also after a damaged one, so that the sender does not wait for ever.
fn read_all(receiver: &Mutex<Receiver<ReadModule>>) -> Result<Vec<Module>> {
    let mut modules = Ok(Vec::new());
    loop {
        let next = receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((name, data)) = next else {
            return modules;
        };
        if let Ok(read) = &mut modules {
            match read_one(&name, &data) {
                Ok(module) => read.push(module),
                Err(error) => modules = Err(error),
            }
        }
    }
}

fn read_one(name: &str, data: &[u8]) -> Result<Module> {
    let read = match name.ends_with(".ko") {
        true => Module::read(name, data),
        false => decompress(name, data).and_then(|plain| Module::read(name, &plain)),
    };
    read.map_err(|error| {
        let fault = Fault::input(format!("the module {name} cannot be read"));
        error.context(fault.remedy("build the modules again"))
    })
}

/// Checks that the kernel can load the modules.
fn check(modules: &[Module], contents: &Contents<'_>) -> Result<()> {
    let (arch, release) = (contents.arch, &contents.modules.release);
    if let Some(module) = modules.iter().find(|module| !module.is_for(arch)) {
        return Err(Fault::input(format!(
            "the module {} is for another architecture than {arch}",
            module.path
        ))
        .remedy("give modules that were built with the kernel")
        .into());
    }
    // What was added to a kernel later may be told apart by checksums alone.
    let is_own = |module: &&Module| module.path.starts_with("kernel/");
    let other = modules.iter().filter(is_own).find_map(|module| {
        let built_for = module.release.as_ref()?;
        (built_for != release).then_some((module, built_for))
    });
    if let Some((module, built_for)) = other {
        return Err(Fault::input(format!(
            "the module {} is for the kernel {built_for}, not for {release}",
            module.path
        ))
        .remedy("build kernel and modules together: make zImage modules, or make Image modules")
        .into());
    }
    Ok(())
}

/// A tar whose files are root's.
struct Tar {
    out: Hashing<BufWriter<File>>,
}

impl Tar {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(&format!("{name}/"), EntryType::Directory, 0o755, b"")
    }

    fn file(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.entry(name, EntryType::Regular, 0o644, data)
    }

    fn entry(&mut self, name: &str, kind: EntryType, mode: u32, data: &[u8]) -> Result<()> {
        if name.len() > 100 {
            let mut header = header("././@LongLink", EntryType::GNULongName, 0o644)?;
            header.set_size(name.len() as u64 + 1);
            let terminated = [name.as_bytes(), &[0]].concat();
            self.put(header, &terminated)?;
        }
        let short = name.get(..100).unwrap_or(name);
        let mut header = header(short, kind, mode)?;
        header.set_size(data.len() as u64);
        self.put(header, data)
    }

    fn put(&mut self, mut header: Header, data: &[u8]) -> Result<()> {
        header.set_cksum();
        let padding = (512 - data.len() % 512) % 512;
        self.out
            .write_all(header.as_bytes())
            .and_then(|()| self.out.write_all(data))
            .and_then(|()| self.out.write_all(&[0; 512][..padding]))
            .context("cannot write the layer of modules")
    }

    fn finish(mut self) -> std::io::Result<Artifact> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()?;
        Ok(Artifact {
            sha256: hex::encode(self.out.hash.finalize()),
            size: self.out.size,
        })
    }
}

fn header(name: &str, kind: EntryType, mode: u32) -> Result<Header> {
    let mut header = Header::new_gnu();
    let field = &mut header.as_old_mut().name;
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    Ok(header)
}

/// Hashes and counts what is written.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
