//! Owns the work that is done inside the namespaces, where files have their true owners: one function a stage.
//! Never decides what is to be made: see `build`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::customise::Customisation;
use super::install::configure;
use super::package::{PackageFile, order, pick, read_all};
use super::tree::Tree;
use super::unpack::unpack_first;
use super::{customise, dpkg, merged_usr, normalise, tarball, tools};
use crate::progress::{Progress, Unit};
use crate::recipe::Arch;
use crate::sandbox::{hand_over, overlay, steps};

steps! {
    /// Unpacks what needs no script to have run before.
    pub UNPACK: PackagesInput => () = unpack;
    /// Makes the layer of native programs.
    pub TOOLS: PackagesInput => () = tools::unpack;
    /// Runs the maintainer scripts, and unpacks the rest.
    pub CONFIGURE: PackagesInput => () = configure;
    /// Applies the recipe, and writes the image.
    pub IMAGE: ImageInput => ImageMade = image;
    /// Removes files, and directories whose files may belong to other ids.
    pub REMOVE: Vec<PathBuf> => () = remove;
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
    /// For `tools`: the packages of the image.
    pub image: Vec<PackageFile>,
    /// For `configure`: the directory of the native programs.
    pub tools: Option<PathBuf>,
    /// For `configure`: names of packages whose scripts run the image's own programs all the same.
    pub emulated: BTreeSet<String>,
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
    let pairs: Vec<_> = first.iter().copied().zip(&unpacked).collect();
    dpkg::add(&mut tree, &pairs, input.epoch)?;
    stage.finish(&format!(
        "{} packages, {} files",
        first.len(),
        unpacked.iter().map(|one| one.list.len()).sum::<usize>()
    ));
    Ok(())
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
    /// What the user is to be told whenever the image is used.
    pub warnings: Vec<String>,
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
    let warnings = customise::apply(&context, &input.customisation)?;
    normalise::apply(&mut Tree::open(&mounted.root)?, input.epoch)?;
    stage.finish("recipe applied");
    let stage = progress.stage("tar", None, Unit::Bytes);
    let made = ImageMade {
        warnings,
        ..write_tar(
            &mounted.root,
            &input.directory.join("rootfs.tar"),
            input.epoch,
        )?
    };
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
    let mut file = File::create(path).with_context(failed)?;
    hand_over(&file)?;
    let (sender, receiver) = sync_channel::<Vec<u8>>(PENDING);
    thread::scope(|scope| {
        // Hashing and writing take about as long as reading the tree.
        let written = scope.spawn(move || {
            let mut hash = Sha256::new();
            for chunk in receiver {
                file.write_all(&chunk)?;
                hash.update(&chunk);
            }
            Ok::<_, io::Error>(hash.finalize())
        });
        let mut out = BufWriter::with_capacity(1 << 20, Chunks(sender));
        let contents = tarball::write(root, epoch, &normalise::is_omitted, &mut out)
            .and_then(|contents| Ok(out.flush().map(|()| contents)?));
        drop(out);
        // First, since it knows why a chunk was not taken.
        let hash = written.join().expect("writing does not panic");
        let hash = hash.with_context(failed)?;
        let contents = contents?;
        Ok(ImageMade {
            entries: contents.entries,
            size: contents.size,
            sha256: hex::encode(hash),
            warnings: Vec::new(),
        })
    })
}

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
    layers: Vec<PathBuf>,
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
        Ok(Mounted {
            root,
            layers: layers.to_vec(),
            upper,
            work,
        })
    }

    /// The same with the layer of native tools above the others.
    pub fn with_tools(directory: &Path, tools: Option<&Path>, layers: &[PathBuf]) -> Result<Self> {
        let tools = tools.map(tools::layer).into_iter();
        let layers: Vec<PathBuf> = tools.chain(layers.iter().cloned()).collect();
        Mounted::new(directory, &layers)
    }

    /// The layer of the changes.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Mounts it again, with a further layer below all others.
    pub fn lay_below(&self, layer: &Path) -> Result<()> {
        self.unmount()?;
        // The kernel does not take the directory of another mount that was `volatile`.
        fs::remove_dir_all(&self.work)?;
        fs::create_dir(&self.work)?;
        let mut layers = self.layers.clone();
        layers.push(layer.to_path_buf());
        overlay(&layers, &self.upper, &self.work, &self.root)
    }

    fn unmount(&self) -> Result<()> {
        umount2(&self.root, MntFlags::empty()).context("cannot unmount the image's overlay")
    }

    /// Unmounts, and removes all but `upper`.
    pub fn close(self) -> Result<()> {
        self.unmount()?;
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

/// How many chunks may wait to be written.
const PENDING: usize = 8;

/// Sends what is written to it to another thread.
struct Chunks(SyncSender<Vec<u8>>);

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0
            .send(data.to_vec())
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
