//! Owns the stage that makes `rootfs.tar` of the configured layers: customise, normalise, write the tar.
//! Never runs a maintainer script.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::image::tarball;
use crate::progress::{Progress, Unit};
use crate::recipe::Arch;
use crate::rootfs::customise::{self, Customisation};
use crate::rootfs::tree::Tree;
use crate::rootfs::{Mounted, normalise};
use crate::sandbox::{Limits, hand_over, steps};

steps! {
    /// Applies the recipe and writes `rootfs.tar`.
    pub(super) IMAGE = "image": image, ImageInput => ImageMade;
}

/// Input of `image`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageInput {
    pub arch: Arch,
    pub epoch: i64,
    pub directory: PathBuf,
    pub layers: Vec<PathBuf>,
    pub customisation: Customisation,
    pub limits: Limits,
}

/// Output of `image`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageMade {
    pub entries: u64,
    pub size: u64,
    pub sha256: String,
    /// Warnings to show whenever the image is used.
    pub warnings: Vec<String>,
}

/// Applies the recipe, removes what does not belong into an image, and writes `rootfs.tar`.
fn image(input: ImageInput, progress: &dyn Progress) -> Result<ImageMade> {
    let mounted = Mounted::new(&input.directory, &input.layers)?;
    let stage = progress.stage("customise", None, Unit::Items);
    let context = customise::Context {
        root: &mounted.root,
        arch: input.arch,
        epoch: input.epoch,
        limits: &input.limits,
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
        // In a thread of its own: hashing and writing take about as long as reading the tree.
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
        // First, because its error explains why the channel was closed.
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

/// Capacity of the channel, in chunks.
const PENDING: usize = 8;

/// A writer that sends its data to another thread.
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
