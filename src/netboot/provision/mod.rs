//! Owns the directory of extracted versions of a master image, and which of them is current.
//! Never removes an exported version, nor the current one.

mod compare;
pub mod exports_file;
mod extract;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use self::compare::{Difference, compare};
use self::exports_file::exported_paths;
pub use self::extract::{Devices, extract};
use crate::error::Fault;
use crate::image::index::Image;
use crate::output::{AtomicDir, Replaces};
use crate::progress::{Progress, Unit};

/// The symbolic link to the version for the next boot.
pub const CURRENT: &str = "current";

/// The prefix of [`AtomicDir`]'s incomplete directories.
const UNFINISHED: &str = ".hearth-";

/// A directory with versions of images, each in a directory named by its image id.
#[derive(Debug)]
pub struct Provision {
    directory: PathBuf,
    /// Whether every user of the host may enter the trees and run their setuid programs.
    pub open: bool,
}

impl Provision {
    /// Creates the directory if it does not exist; its path becomes absolute.
    pub fn at(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        Ok(Provision {
            directory: fs::canonicalize(directory)?,
            open: false,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn version(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    pub fn is_laid_out(&self, id: &str) -> bool {
        self.version(id).is_dir()
    }

    /// Extracts the tar as version `id`, atomically, unless it exists.
    ///
    /// # Errors
    /// If the caller is not root, the tar is damaged, or the file system is full or cannot hold it.
    pub fn lay_out(&self, id: &str, tars: &[PathBuf], progress: &dyn Progress) -> Result<bool> {
        if self.is_laid_out(id) {
            return Ok(false);
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(Fault::host("only root can give the files of an image their owners")
                .remedy("run it with sudo, or serve the image with `hearth serve`, which needs no root")
                .into());
        }
        if !self.open {
            self.keep_others_out()?;
        }
        let _lock = self.lock()?;
        if self.is_laid_out(id) {
            // Another process has made it meanwhile, and it may be in use already.
            return Ok(false);
        }
        self.sweep()?;
        let image = Image::open_stack(tars)?;
        let stage = progress.stage("lay out", Some(image.count()), Unit::Items);
        let output = AtomicDir::create(&self.version(id), Replaces::Nothing)?;
        let root = File::open(output.path())?;
        extract(&image, &root, Devices::Made, &*stage)?;
        output.commit()?;
        stage.finish(&format!(
            "{} files, {} MiB",
            image.count(),
            image.total_size() >> 20
        ));
        Ok(true)
    }

    /// Closes the directory to all users but root: an image's setuid programs have their true
    /// owners here. nfsd needs no more.
    ///
    /// # Errors
    /// If the directory is open to others and contains other files, which they may need.
    fn keep_others_out(&self) -> Result<()> {
        let mode = fs::metadata(&self.directory)?.permissions().mode();
        if mode & 0o077 == 0 {
            return Ok(());
        }
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != CURRENT && !name.starts_with(UNFINISHED) && !is_image_id(&name) {
                return Err(Fault::input(format!(
                    "every user of this host could start the image's setuid programs: {} is open to all",
                    self.directory.display()
                ))
                .remedy("name a directory of its own, which becomes root's alone, or give --open")
                .into());
            }
        }
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close {} to others", self.directory.display()))
    }

    /// Atomically changes `current` to version `id`; boards that run keep theirs.
    pub fn switch(&self, id: &str) -> Result<()> {
        let _lock = self.lock()?;
        let link = self.directory.join(CURRENT);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(id)) {
            return Ok(());
        }
        if fs::symlink_metadata(&link).is_ok_and(|meta| !meta.is_symlink()) {
            return Err(
                Fault::input(format!("{} is not a symbolic link", link.display()))
                    .remedy("move it away")
                    .into(),
            );
        }
        let beside = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .make_in(&self.directory, |path| symlink(id, path))
            .with_context(|| format!("cannot write in {}", self.directory.display()))?;
        beside
            .persist(&link)
            .map_err(|failed| failed.error)
            .with_context(|| format!("cannot switch {}", link.display()))?;
        Ok(())
    }

    /// The differences between the tree of version `id` and the tar, sorted by path.
    pub fn check(
        &self,
        id: &str,
        tars: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<Vec<Difference>> {
        let path = self.version(id);
        let root = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::Error::new(
                Fault::input(format!("{} is not laid out", path.display()))
                    .remedy("run `hearth provision` without --check first"),
            ),
            _ => anyhow::Error::new(error).context(format!("cannot read {}", path.display())),
        })?;
        let image = Image::open_stack(tars)?;
        let stage = progress.stage("compare", Some(image.count()), Unit::Items);
        let differences = compare(&image, &root, &*stage)?;
        stage.finish(&format!("{} files", image.count()));
        Ok(differences)
    }

    /// All versions, sorted: the directories whose names are image ids.
    pub fn versions(&self) -> Result<Vec<String>> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && is_image_id(&name) {
                versions.push(name);
            }
        }
        versions.sort();
        Ok(versions)
    }

    /// The existing versions named in `exports`, the text of an exports file.
    pub fn named_by(&self, exports: &str) -> Result<Vec<String>> {
        let paths = exported_paths(exports);
        let mut versions = self.versions()?;
        versions.retain(|version| paths.contains(&self.version(version)));
        Ok(versions)
    }

    /// Removes the versions that no exports file names and that are not current; returns them.
    pub fn collect(&self, exports: &[String]) -> Result<Vec<String>> {
        let _lock = self.lock()?;
        self.sweep()?;
        let current = fs::read_link(self.directory.join(CURRENT)).ok();
        let mut kept = Vec::new();
        for text in exports {
            kept.extend(self.named_by(text)?);
        }
        let mut removed = Vec::new();
        for version in self.versions()? {
            if kept.contains(&version) || current.as_deref() == Some(Path::new(&version)) {
                continue;
            }
            // Renamed first, so that no incomplete version is visible.
            let doomed = self.directory.join(format!("{UNFINISHED}{version}"));
            fs::rename(self.version(&version), &doomed)
                .and_then(|()| fs::remove_dir_all(&doomed))
                .with_context(|| format!("cannot remove {}", self.version(&version).display()))?;
            removed.push(version);
        }
        Ok(removed)
    }

    /// Lock for adding and removing versions; the kernel releases it when the process ends.
    fn lock(&self) -> Result<Flock<File>> {
        let file = File::open(&self.directory)
            .with_context(|| format!("cannot read {}", self.directory.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))
            .with_context(|| format!("cannot lock {}", self.directory.display()))
    }

    /// Removes the incomplete directories of killed processes.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                continue;
            }
            let path = entry.path();
            let removed = if entry.file_type()?.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether a name is an image id: a recipe's name, a hyphen and 12 hex digits.
fn is_image_id(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(recipe, hash)| {
        !recipe.is_empty() && hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_version_and_those_exported_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let provision = Provision::at(dir.path()).unwrap();
        let id = |n: u8| format!("trixie-armhf-{n:012x}");
        for n in 1..=4 {
            fs::create_dir(provision.version(&id(n))).unwrap();
        }
        fs::create_dir(dir.path().join("mine")).unwrap();
        fs::create_dir(dir.path().join(".hearth-left")).unwrap();
        provision.switch(&id(1)).unwrap();
        provision.switch(&id(2)).unwrap();
        let exports = format!("{} *(ro)\n", provision.version(&id(3)).display());
        let removed = provision.collect(&[exports]).unwrap();
        assert_eq!(removed, [id(1), id(4)]);
        assert_eq!(provision.versions().unwrap(), [id(2), id(3)]);
        assert!(dir.path().join("mine").exists());
        assert!(!dir.path().join(".hearth-left").exists());
    }

    #[test]
    fn a_directory_that_others_can_enter_is_closed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = || fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
        let provision = Provision::at(dir.path()).unwrap();
        fs::create_dir(provision.version("trixie-armhf-0123456789ab")).unwrap();
        open();
        provision.keep_others_out().unwrap();
        assert_eq!(mode(), 0o700);
        open();
        fs::create_dir(dir.path().join("home")).unwrap();
        let error = provision.keep_others_out().unwrap_err();
        assert!(error.to_string().contains("setuid"), "{error}");
        assert_eq!(mode(), 0o755);
    }
}
