//! Owns unpacking packages ahead of their preinst, while scripts of other packages leave processors
//! idle: into a layer of its own, which becomes the lowest lowerdir once the preinst has run. Never
//! mounts.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::merged_usr::{MERGED_USR, merged_usr};
use super::package::Package;
use super::tree::{Kind, Tree};
use super::unpack::{Claims, Unpacked, unpack_first};
use crate::progress::Stage;

/// Unpacks `packages` into the empty directory `layer`.
///
/// # Errors
/// As [`unpack_first`].
pub fn unpack_ahead(
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
pub fn obstacle(
    layer: &Path,
    root: &Path,
    upper: &Path,
    claims: &Claims,
) -> Result<Option<PathBuf>> {
    Place {
        layer: Tree::open(layer)?,
        root: Tree::open(root)?,
        upper: Tree::open(upper)?,
        upper_path: upper,
        claims,
    }
    .obstacle(Path::new(""))
    .with_context(|| format!("cannot compare {} with the image", layer.display()))
}

struct Place<'a> {
    layer: Tree,
    root: Tree,
    upper: Tree,
    upper_path: &'a Path,
    claims: &'a Claims,
}

impl Place<'_> {
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
pub fn change(upper: &Path, path: &Path) -> Result<Option<PathBuf>> {
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
