//! Owns what is done beside the maintainer scripts, which keep one processor busy: unpacking the
//! first packages with a preinst into a layer of their own, and making indices of all packages.
//! Never changes the result: what was done beside is used only if it is what the serial order would
//! have made, else it is thrown away and done in order. With one thread nothing is done beside.
//!
//! Gain: the configure stage of trixie-armhf took 30.3 s instead of 41.1 s (two busy processors,
//! unoptimised build).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result};

use super::configure::{Configure, INDEXED};
use super::diversions::Diversions;
use super::merged_usr::{MERGED_USR, merged_usr};
use super::mounted::Mounted;
use super::package::{Package, PackagesInput};
use super::tools;
use super::tree::{Kind, Tree};
use super::unpack::{Claims, Unpacked, unpack_first};
use crate::progress::{NoProgress, Progress, Stage, Unit};

/// Lowerdirs below the image's that the stage makes in its directory, topmost first; either may be
/// empty.
pub const LAYERS_BELOW: [&str; 2] = [AHEAD, INDEX_LAYER];
/// The layer of packages unpacked ahead of their preinst.
const AHEAD: &str = "ahead";
/// The mount point of an overlay over all packages' files, for making the indices.
const INDICES: &str = "indices";
/// The upperdir of that overlay.
const INDEX_LAYER: &str = "indices/upper";

/// What there is to do beside the scripts.
pub struct Beside<'a> {
    pub input: &'a PackagesInput,
    pub mounted: &'a Mounted,
    /// The packages that are unpacked first after their preinst.
    pub packages: Vec<&'a Package>,
}

/// What was done beside the scripts, for the serial order to take.
pub struct Ahead<'a> {
    beside: &'a Beside<'a>,
    running: Option<Running<'a>>,
}

struct Running<'a> {
    unpacked: Option<Receiver<Result<Vec<Unpacked>>>>,
    indices: ScopedJoinHandle<'a, Result<()>>,
}

impl Beside<'_> {
    /// Runs `serial`, with what there is to do beside it in another thread.
    ///
    /// # Errors
    /// Those of `serial`.
    pub fn run(&self, serial: impl FnOnce(&mut Ahead<'_>) -> Result<()>) -> Result<()> {
        if self.input.threads < 2 {
            return serial(&mut Ahead {
                beside: self,
                running: None,
            });
        }
        thread::scope(|scope| {
            let (sender, receiver) = channel();
            let indices = scope.spawn(move || {
                let stage = NoProgress.stage("unpack", None, Unit::Items);
                let threads = self.input.threads - 1;
                let unpacked = unpack_ahead(&self.layer(), &self.packages, threads, &*stage);
                let go_on = unpacked.is_ok();
                // After a failed script the result of the thread is not needed.
                if sender.send(unpacked).is_ok() && go_on {
                    self.make_indices()?;
                }
                Ok(())
            });
            serial(&mut Ahead {
                beside: self,
                running: Some(Running {
                    unpacked: Some(receiver),
                    indices,
                }),
            })
        })
    }

    fn layer(&self) -> PathBuf {
        self.input.directory.join(AHEAD)
    }

    /// The image's layers below the changes, topmost first, with what was unpacked ahead.
    fn layers(&self) -> Vec<PathBuf> {
        let mut layers = self.input.layers.clone();
        layers.push(self.layer());
        layers
    }

    /// Makes the indices of all packages unpacked so far, in a layer of its own.
    fn make_indices(&self) -> Result<()> {
        let directory = self.input.directory.join(INDICES);
        fs::remove_dir_all(&directory)?;
        fs::create_dir(&directory)?;
        let layers = self.layers();
        let mounted = Mounted::with_tools(&directory, self.input.tools.as_deref(), &layers)?;
        let stage = NoProgress.stage("indices", None, Unit::Items);
        let made = Configure::of(self.input, &mounted, &layers, &*stage)
            .and_then(|scripts| scripts.indices());
        mounted.close()?;
        made
    }

    /// Checks that indices made beside the scripts are what they would be now.
    ///
    /// # Errors
    /// Names the path that hides them, or the input file that has changed.
    fn check_indices(&self) -> Result<()> {
        let layer = self.input.directory.join(INDEX_LAYER);
        let mut changed = self.obstacle(&layer, &Claims::default())?;
        for path in INDEXED.map(Path::new) {
            changed = changed.or(change(self.mounted.upper(), path)?);
        }
        if let Some(path) = changed {
            anyhow::bail!("a script has changed /{}", path.display());
        }
        if self.input.tools.is_some() {
            tools::check_absent(&layer)?;
        }
        Ok(())
    }

    fn obstacle(&self, layer: &Path, claims: &Claims) -> Result<Option<PathBuf>> {
        obstacle(layer, &self.mounted.root, self.mounted.upper(), claims)
    }
}

impl Ahead<'_> {
    /// The layers below the changes, topmost first, as they are now.
    pub fn layers(&self) -> Vec<PathBuf> {
        self.beside.layers()
    }

    /// Adds the layer of packages that were unpacked ahead; `None` if they have to be unpacked in
    /// order. Only the first packages are ahead.
    ///
    /// # Errors
    /// If the layers cannot be compared or mounted.
    pub fn take(
        &mut self,
        packages: &[&Package],
        claims: &Claims,
        diversions: &Diversions,
    ) -> Result<Option<Vec<Unpacked>>> {
        let running = self.running.as_mut();
        let Some(receiver) = running.and_then(|running| running.unpacked.take()) else {
            return Ok(None);
        };
        let layer = self.beside.layer();
        let reason = match receiver.recv()? {
            // It may succeed now: a preinst can have diverted another package's file.
            Err(reason) => format!("{reason:#}"),
            Ok(unpacked) => match self.in_the_way(packages, &unpacked, claims, diversions)? {
                None => {
                    self.beside.mounted.lay_below(&layer)?;
                    return Ok(Some(unpacked));
                }
                Some(path) => format!("{} is in the way", path.display()),
            },
        };
        log::debug!("unpacking again: {reason}");
        Tree::open(&layer)?.clear()?;
        Ok(None)
    }

    /// The first path for which the layer is not what unpacking in order would make.
    fn in_the_way(
        &self,
        packages: &[&Package],
        unpacked: &[Unpacked],
        claims: &Claims,
        diversions: &Diversions,
    ) -> Result<Option<PathBuf>> {
        let diverted = packages
            .iter()
            .zip(unpacked)
            .find_map(|(package, unpacked)| {
                let mut paths = unpacked.list.iter();
                paths.find(|path| diversions.place(path, package.name()).is_some())
            });
        match diverted {
            Some(path) => Ok(Some(PathBuf::from(path))),
            None => self.beside.obstacle(&self.beside.layer(), claims),
        }
    }

    /// Whether the indices are made, and as they would be made now.
    ///
    /// # Errors
    /// If those that are not cannot be removed.
    pub fn has_made_indices(&mut self) -> Result<bool> {
        let Some(running) = self.running.take() else {
            return Ok(false);
        };
        let made = running
            .indices
            .join()
            .expect("making indices does not panic");
        let Err(reason) = made.and_then(|()| self.beside.check_indices()) else {
            return Ok(true);
        };
        log::debug!("making the indices again: {reason:#}");
        fs::remove_dir_all(self.beside.input.directory.join(INDICES))?;
        fs::create_dir_all(self.beside.input.directory.join(INDEX_LAYER))?;
        Ok(false)
    }
}

/// Unpacks `packages` into the empty directory `layer`.
///
/// # Errors
/// As [`unpack_first`].
fn unpack_ahead(
    layer: &Path,
    packages: &[&Package],
    threads: usize,
    stage: &dyn Stage,
) -> Result<Vec<Unpacked>> {
    let mut tree = Tree::open(layer)?;
    merged_usr(&mut tree)?;
    let unpacked = unpack_first(layer, packages, |_| true, threads, stage)?;
    // The image has these links already.
    for name in MERGED_USR {
        tree.remove_file(Path::new(name))?;
    }
    Ok(unpacked)
}

/// The first path of `layer` that would be hidden or changed if the layer became the lowest
/// lowerdir of the image at `root`: one that another layer has, or that `upper`, the topmost,
/// hides. A path for which `claims` returns a package counts as well, wherever the file is now.
///
/// # Errors
/// If a directory cannot be read.
fn obstacle(layer: &Path, root: &Path, upper: &Path, claims: &Claims) -> Result<Option<PathBuf>> {
    LayerComparison {
        layer: Tree::open(layer)?,
        root: Tree::open(root)?,
        upper: Tree::open(upper)?,
        upper_path: upper,
        claims,
    }
    .obstacle(Path::new(""))
    .with_context(|| format!("cannot compare {} with the image", layer.display()))
}

struct LayerComparison<'a> {
    layer: Tree,
    root: Tree,
    upper: Tree,
    upper_path: &'a Path,
    claims: &'a Claims,
}

impl LayerComparison<'_> {
    fn obstacle(&mut self, directory: &Path) -> io::Result<Option<PathBuf>> {
        for name in self.layer.list(directory)? {
            let path = directory.join(name);
            let is_directory = self.layer.kind(&path) == Some(Kind::Directory);
            let is_free = match self.root.kind(&path) {
                Some(Kind::Directory) => is_directory && !hides(&self.upper_path.join(&path))?,
                Some(_) => false,
                // An entry that is in `upper` but not visible is a whiteout.
                None => {
                    self.upper.kind(&path).is_none()
                        && (is_directory || !self.claims.hold_file(&path))
                }
            };
            if !is_free {
                return Ok(Some(path));
            }
            if is_directory && let Some(found) = self.obstacle(&path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The first path at or below `path` at which `upper`, the topmost layer of an image, differs from
/// the layers below. A directory without files is no difference: a script may have created a file
/// in it and removed it again.
///
/// # Errors
/// If a directory cannot be read.
fn change(upper: &Path, path: &Path) -> Result<Option<PathBuf>> {
    let mut tree = Tree::open(upper)?;
    let mut todo = vec![path.to_path_buf()];
    while let Some(path) = todo.pop() {
        match tree.kind(&path) {
            Some(Kind::Directory) if !hides(&upper.join(&path))? => {
                let names = tree.list(&path)?;
                todo.extend(names.iter().map(|name| path.join(name)));
            }
            Some(_) => return Ok(Some(path)),
            None => {}
        }
    }
    Ok(None)
}

/// Whether a directory of `upper` is not merged with those below it (the kernel's overlayfs.rst,
/// "whiteouts and opaque directories" and "redirect_dir").
fn hides(directory: &Path) -> io::Result<bool> {
    for name in ["user.overlay.opaque", "user.overlay.redirect"] {
        match xattr::get(directory, name) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_script_or_another_package_has_made_or_removed_is_an_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let [layer, root, upper] = ["layer", "root", "upper"].map(|name| dir.path().join(name));
        for directory in [
            layer.join("usr/share/doc"),
            layer.join("opt/new"),
            root.join("usr/share"),
            upper.join("usr"),
        ] {
            fs::create_dir_all(directory).unwrap();
        }
        for file in ["usr/share/doc/file", "usr/share/file", "opt/new/file"] {
            fs::write(layer.join(file), "").unwrap();
        }
        let found = |claims: &Claims| obstacle(&layer, &root, &upper, claims).unwrap();
        let none = Claims::default();
        assert_eq!(found(&none), None, "directories are shared");

        let mut claims = Claims::default();
        claims.add_list("other", "/usr/share\n/usr/share/file\n");
        let file = Some(PathBuf::from("usr/share/file"));
        assert_eq!(found(&claims), file, "another package's");

        fs::write(root.join("usr/share/file"), "").unwrap();
        assert_eq!(found(&none), file, "something is there");
        fs::remove_file(root.join("usr/share/file")).unwrap();

        fs::create_dir(upper.join("usr/share")).unwrap();
        fs::write(upper.join("usr/share/file"), "").unwrap();
        assert_eq!(found(&none), file, "a whiteout hides it");
        fs::remove_file(upper.join("usr/share/file")).unwrap();

        xattr::set(upper.join("usr/share"), "user.overlay.opaque", b"y").unwrap();
        assert_eq!(found(&none), Some("usr/share".into()), "made anew");
        fs::remove_dir(upper.join("usr/share")).unwrap();

        fs::create_dir_all(upper.join("etc/empty")).unwrap();
        assert_eq!(change(&upper, Path::new("etc")).unwrap(), None);
        fs::write(upper.join("etc/empty/not"), "").unwrap();
        let changed = change(&upper, Path::new("etc")).unwrap();
        assert_eq!(changed, Some("etc/empty/not".into()));

        symlink("usr/share", root.join("opt")).unwrap();
        assert_eq!(found(&none), Some("opt".into()), "a link, not a directory");
    }
}
