//! Owns the work that is done inside the namespaces, where files have their true owners: one function a stage.
//! Never decides what is to be made: see `build`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::configure::Configure;
use super::customise::Customisation;
use super::decompress::decompress;
use super::package::{Order, Package, PackageFile, order, read_all};
use super::tree::Tree;
use super::unpack::{Unpacked, unpack_first, unpack_more};
use super::{customise, dpkg, merged_usr, normalise, tarball, tools};
use crate::progress::{Progress, Stage, Unit};
use crate::recipe::Arch;
use crate::sandbox::{Step, overlay};

/// What runs inside the namespaces, for `main` to register.
pub const STEPS: &[Step] = &[
    Step::new("unpack", |input, progress| call(unpack, input, progress)),
    Step::new("tools", |input, progress| {
        call(tools::unpack, input, progress)
    }),
    Step::new("configure", |input, progress| {
        call(configure, input, progress)
    }),
    Step::new("image", |input, progress| call(image, input, progress)),
    Step::new("remove", |input, progress| call(remove, input, progress)),
];

fn call<I, O>(
    step: fn(I, &dyn Progress) -> Result<O>,
    input: Value,
    progress: &dyn Progress,
) -> Result<Value>
where
    I: serde::de::DeserializeOwned,
    O: Serialize,
{
    Ok(serde_json::to_value(step(
        serde_json::from_value(input)?,
        progress,
    )?)?)
}

/// What `unpack`, `tools` and `configure` need to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackagesInput {
    pub files: Vec<PackageFile>,
    pub arch: Arch,
    pub epoch: i64,
    /// The stage's directory.
    pub directory: PathBuf,
    /// Layers of earlier stages, topmost first.
    pub layers: Vec<PathBuf>,
    /// For `configure`: the directory of the native programs.
    pub tools: Option<PathBuf>,
    pub threads: usize,
}

/// Unpacks what needs no script to have run before, into `tree`.
fn unpack(input: PackagesInput, progress: &dyn Progress) -> Result<()> {
    let packages = read_all(&input.files, input.threads)?;
    let order = order(&packages)?;
    let root = input.directory.join("tree");
    fs::create_dir(&root)?;
    merged_usr(&mut Tree::open(&root)?)?;
    let first = pick(&packages, &order.first);
    let stage = progress.stage("unpack", Some(first.len() as u64), Unit::Items);
    let unpacked = unpack_first(&root, &first, |_| true, input.threads, &*stage)?;
    let mut tree = Tree::open(&root)?;
    dpkg::create(&mut tree, input.arch, input.epoch)?;
    register(&mut tree, &first, &unpacked, input.epoch)?;
    stage.finish(&format!(
        "{} packages, {} files",
        first.len(),
        unpacked.iter().map(|one| one.list.len()).sum::<usize>()
    ));
    Ok(())
}

/// In the order that decides who has a shared directory's mode: base-files first.
fn pick<'a>(packages: &'a [Package], indices: &[usize]) -> Vec<&'a Package> {
    let mut picked: Vec<&Package> = indices.iter().map(|&index| &packages[index]).collect();
    picked.sort_by_key(|package| (package.name() != "base-files", package.name()));
    picked
}

fn register(
    tree: &mut Tree,
    packages: &[&Package],
    unpacked: &[Unpacked],
    epoch: i64,
) -> Result<()> {
    let pairs: Vec<_> = packages.iter().copied().zip(unpacked).collect();
    dpkg::add(tree, &pairs, epoch)
}

/// Runs the maintainer scripts, over an overlay whose changes end up in `upper`.
fn configure(input: PackagesInput, progress: &dyn Progress) -> Result<()> {
    let packages = read_all(&input.files, input.threads)?;
    let order = order(&packages)?;
    let mounted = Mounted::with_tools(&input.directory, input.tools.as_deref(), &input.layers)?;
    let stage = progress.stage("configure", None, Unit::Items);
    scripts(&input, &packages, &order, &mounted.root, progress, &*stage)?;
    let mut tree = Tree::open(&mounted.root)?;
    dpkg::check_configured(&mut tree)?;
    drop(tree);
    if input.tools.is_some() {
        tools::check_absent(&mounted.upper)?;
    }
    mounted.close()?;
    stage.finish(&format!("{} packages", packages.len()));
    Ok(())
}

fn scripts(
    input: &PackagesInput,
    packages: &[Package],
    order: &Order,
    root: &Path,
    progress: &dyn Progress,
    stage: &dyn Stage,
) -> Result<()> {
    let scripts = Configure::new(
        root,
        input.tools.as_deref(),
        u64::try_from(input.epoch)?,
        stage,
    )?;
    let stems = |indices: &[usize]| -> Vec<String> {
        indices
            .iter()
            .map(|&index| packages[index].qualified_name())
            .collect()
    };
    let late: Vec<&Package> = order
        .rounds
        .iter()
        .flat_map(|round| pick(packages, &round.unpack))
        .collect();
    // Scripts keep one processor busy.
    let threads = input.threads.saturating_sub(1);
    let decompressed = thread::scope(|scope| {
        let decompressed = scope.spawn(|| decompress(&late, &input.directory, threads));
        let mut with_preinst = pick(packages, &order.first);
        with_preinst.retain(|package| package.control_file("preinst").is_some());
        // It makes /etc/passwd, which other scripts look at.
        with_preinst.sort_by_key(|package| package.name() != "base-passwd");
        for package in with_preinst {
            scripts.preinst(&package.qualified_name(), &package.file.arch)?;
        }
        scripts.configure(&stems(&order.essential))?;
        decompressed.join().expect("decompressing does not panic")
    })?;
    for round in &order.rounds {
        if !round.configure.is_empty() {
            scripts.configure(&stems(&round.configure))?;
        }
        let late = pick(packages, &round.unpack);
        for package in &late {
            dpkg::add_preinst(&mut Tree::open(root)?, package, input.epoch)?;
            scripts.preinst(&package.qualified_name(), &package.file.arch)?;
        }
        let mut tree = Tree::open(root)?;
        let diversions = dpkg::Diversions::load(&mut tree)?;
        let claims = dpkg::claims(&mut tree)?;
        let stage = progress.stage("unpack", Some(late.len() as u64), Unit::Items);
        let unpacked = unpack_more(root, &late, claims, &diversions, &decompressed, &*stage)?;
        register(&mut tree, &late, &unpacked, input.epoch)?;
        stage.finish(&format!(
            "{} packages more, after their preinst",
            late.len()
        ));
    }
    scripts.configure_all()
}

/// What `image` needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageInput {
    pub arch: Arch,
    pub epoch: i64,
    pub directory: PathBuf,
    pub layers: Vec<PathBuf>,
    pub customisation: Customisation,
}

/// What `image` has made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageMade {
    pub entries: u64,
    pub size: u64,
    pub sha256: String,
}

/// Applies the recipe, removes what is not to be in an image, and writes `rootfs.tar`.
fn image(input: ImageInput, progress: &dyn Progress) -> Result<ImageMade> {
    let mounted = Mounted::new(&input.directory, &input.layers)?;
    let stage = progress.stage("customise", None, Unit::Items);
    let context = customise::Context {
        root: &mounted.root,
        arch: input.arch,
        epoch: input.epoch,
    };
    customise::apply(&context, &input.customisation)?;
    normalise::apply(&mut Tree::open(&mounted.root)?, input.epoch)?;
    stage.finish("recipe applied");
    let stage = progress.stage("tar", None, Unit::Bytes);
    let made = write_tar(
        &mounted.root,
        &input.directory.join("rootfs.tar"),
        input.epoch,
    )?;
    mounted.close()?;
    stage.finish(&format!(
        "{} entries, {:.1} MiB",
        made.entries,
        made.size as f64 / 1048576.0
    ));
    Ok(made)
}

fn write_tar(root: &Path, path: &Path, epoch: i64) -> Result<ImageMade> {
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let mut out = HashingWriter {
        inner: BufWriter::with_capacity(1 << 20, file),
        hash: Sha256::new(),
    };
    let contents = tarball::write(root, epoch, &normalise::is_omitted, &mut out)?;
    out.flush().with_context(failed)?;
    Ok(ImageMade {
        entries: contents.entries,
        size: contents.size,
        sha256: hex::encode(out.hash.finalize()),
    })
}

/// Removes files, and directories whose files may belong to other ids.
fn remove(paths: Vec<PathBuf>, _progress: &dyn Progress) -> Result<()> {
    for path in paths {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let removed = match is_directory {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// An overlay over earlier layers: `upper` in a stage's directory takes the changes.
pub(crate) struct Mounted {
    /// Where it is mounted.
    pub root: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Mounted {
    pub fn new(directory: &Path, layers: &[PathBuf]) -> Result<Self> {
        let [upper, work, root] = ["upper", "work", "root"].map(|name| directory.join(name));
        for path in [&upper, &work, &root] {
            fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        overlay(layers, &upper, &work, &root)?;
        Ok(Mounted { root, upper, work })
    }

    /// The same with the layer of native tools above the others.
    pub fn with_tools(directory: &Path, tools: Option<&Path>, layers: &[PathBuf]) -> Result<Self> {
        let tools = tools.map(tools::layer).into_iter();
        let layers: Vec<PathBuf> = tools.chain(layers.iter().cloned()).collect();
        Mounted::new(directory, &layers)
    }

    /// Unmounts, and removes all but `upper`.
    fn close(self) -> Result<()> {
        umount2(&self.root, MntFlags::empty()).context("cannot unmount the image's overlay")?;
        fs::remove_dir(&self.root)?;
        fs::remove_dir_all(&self.work)?;
        Ok(())
    }

    /// Unmounts, and removes everything.
    pub fn discard(self) -> Result<()> {
        let upper = self.upper.clone();
        self.close()?;
        fs::remove_dir_all(&upper).with_context(|| format!("cannot remove {}", upper.display()))
    }
}

struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
