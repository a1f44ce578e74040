//! Owns which modules a kernel comes with: where each file is, and what lies beside them. Never reads a module.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::form::is_release;
use crate::error::Fault;
use crate::initrd::modinfo::is_module;
use crate::input;

/// Directories deeper than this are no modules' directory.
const DEEPEST: usize = 32;
/// What the kernel's build writes beside the modules and depmod does not, in addition to those that are read.
const FURTHER: [&str; 1] = ["modules.builtin.ranges"];

/// The modules of one kernel, as `make modules_install` arranges them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleFiles {
    /// The kernel's release.
    pub release: String,
    /// Files by path below the modules' directory, such as `kernel/fs/nfs/nfs.ko`.
    pub files: BTreeMap<String, PathBuf>,
    /// `modules.order`.
    pub order: Option<String>,
    /// `modules.builtin`.
    pub builtin: Option<String>,
    /// `modules.builtin.modinfo`.
    pub builtin_modinfo: Option<Vec<u8>>,
}

impl ModuleFiles {
    /// Those of a kernel of this release that has none, and does not say what is built in.
    pub fn none(release: &str) -> Self {
        ModuleFiles {
            release: release.to_string(),
            ..ModuleFiles::default()
        }
    }

    /// A digest that changes when a module is added, removed or written: of their names, sizes and times.
    ///
    /// # Errors
    /// If a file is gone.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(&self.release);
        for text in [&self.order, &self.builtin] {
            hash.update([0]);
            hash.update(text.as_deref().unwrap_or_default());
        }
        hash.update([0]);
        hash.update(self.builtin_modinfo.as_deref().unwrap_or_default());
        for (name, file) in &self.files {
            hash.update(format!("\0{name}\0{}", version(file)?));
        }
        Ok(hex::encode(hash.finalize()))
    }
}

/// What changes when a file is written or replaced: its device, inode, size, and the times of its content and its inode.
///
/// # Errors
/// If it is not there.
pub fn version(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!(
        "{} {} {} {}.{} {}.{}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    ))
}

/// The modules' directories below what `make modules_install` wrote: `DIR/lib/modules/RELEASE`, or `DIR` itself.
pub fn directories(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for parent in ["lib/modules", "usr/lib/modules", "."] {
        let parent = below.join(parent);
        // A link of a merged /usr would show them twice.
        if parent.parent().is_some_and(Path::is_symlink) {
            continue;
        }
        for name in input::names_in(&parent) {
            let directory = parent.join(&name);
            if is_release(&name) && is_modules_directory(&directory) && !directory.is_symlink() {
                found.push(directory);
            }
        }
    }
    if found.is_empty() && is_modules_directory(below) {
        found.push(below.to_path_buf());
    }
    found
}

fn is_modules_directory(directory: &Path) -> bool {
    ["modules.order", "modules.builtin", "modules.dep"]
        .iter()
        .any(|name| directory.join(name).is_file())
        || directory.join("kernel").is_dir()
}

/// The modules in what `make modules_install` wrote: of `release` if there are several kernels'.
///
/// # Errors
/// If there are none, or several and none is of this release.
pub fn installed(below: &Path, release: Option<&str>) -> Result<ModuleFiles> {
    let found = directories(below);
    let named = |directory: &&PathBuf| {
        let name = directory.file_name().unwrap_or_default();
        Some(name.as_encoded_bytes()) == release.map(str::as_bytes)
    };
    let directory = match (found.iter().find(named), &found[..]) {
        (Some(directory), _) | (None, [directory]) => directory,
        (None, []) => {
            return Err(Fault::input(format!(
                "{} has no kernel modules: no lib/modules/RELEASE, and no modules.order",
                below.display()
            ))
            .remedy("give what `make modules_install INSTALL_MOD_PATH=DIR` wrote, or a tar of it")
            .into());
        }
        (None, several) => {
            let names: Vec<_> = several
                .iter()
                .map(|path| path.file_name().unwrap_or_default().to_string_lossy())
                .collect();
            return Err(Fault::input(format!(
                "{} has modules of several kernels: {}",
                below.display(),
                names.join(", ")
            ))
            .remedy("name the directory of one of them")
            .into());
        }
    };
    of_directory(directory)
}

/// The modules in one modules' directory, whose name is the release.
fn of_directory(directory: &Path) -> Result<ModuleFiles> {
    let whole = fs::canonicalize(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let mut modules = beside(&whole)?;
    walk(&whole, &whole, "", 0, &mut modules.files)?;
    // Under another name, the modules themselves tell.
    if is_release(&name) {
        modules.release = name.into_owned();
    }
    Ok(modules)
}

/// What lies beside the modules in a modules' directory, or at the top of a kernel's tree.
///
/// # Errors
/// If a file is there and cannot be read.
pub fn beside(directory: &Path) -> Result<ModuleFiles> {
    let text = |name: &str| read_if_there(&directory.join(name));
    let mut modules = ModuleFiles {
        order: text("modules.order")?.map(lossy),
        builtin: text("modules.builtin")?.map(lossy),
        builtin_modinfo: text("modules.builtin.modinfo")?,
        ..ModuleFiles::default()
    };
    for name in FURTHER {
        let path = directory.join(name);
        if path.is_file() {
            modules.files.insert(name.to_string(), path);
        }
    }
    Ok(modules)
}

fn lossy(data: Vec<u8>) -> String {
    String::from_utf8_lossy(&data).into_owned()
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match input::read(path) {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Finds module files. Links to directories, as `build` and `source` are, are not followed, and links out of the
/// directory are not there on the board either.
fn walk(
    top: &Path,
    directory: &Path,
    below: &str,
    depth: usize,
    found: &mut BTreeMap<String, PathBuf>,
) -> Result<()> {
    let failed = || format!("cannot read {}", directory.display());
    if depth > DEEPEST {
        return Err(Fault::input(format!(
            "{} is no directory of modules: it is over {DEEPEST} levels deep",
            top.display()
        ))
        .into());
    }
    for entry in fs::read_dir(directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type().with_context(failed)?;
        if kind.is_dir() {
            walk(top, &entry.path(), &path, depth + 1, found)?;
        } else if is_module(&path) && (kind.is_file() || leads_inside(top, &entry.path())) {
            found.insert(path, entry.path());
        }
    }
    Ok(())
}

fn leads_inside(top: &Path, link: &Path) -> bool {
    let inside = fs::canonicalize(link).is_ok_and(|path| path.starts_with(top) && path.is_file());
    if !inside {
        log::warn!(
            "{} is left out: it leads out of the directory of modules",
            link.display()
        );
    }
    inside
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(root: &Path, name: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }

    #[test]
    fn modules_are_found_wherever_they_were_installed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let release = root.join("lib/modules/6.1.0-x");
        put(&release, "kernel/fs/a.ko");
        put(&release, "kernel/fs/b.ko.xz");
        put(&release, "kernel/fs/readme");
        put(&release, "modules.order");
        symlink("/", release.join("build")).unwrap();
        symlink("/proc/self/exe", release.join("kernel/out.ko")).unwrap();
        symlink("fs/a.ko", release.join("kernel/in.ko")).unwrap();
        for place in [root, &root.join("lib/modules"), &release] {
            let modules = installed(place, None).unwrap();
            assert_eq!(modules.release, "6.1.0-x");
            let names: Vec<&String> = modules.files.keys().collect();
            let expected = ["kernel/fs/a.ko", "kernel/fs/b.ko.xz", "kernel/in.ko"];
            assert_eq!(names, expected);
            assert_eq!(modules.order.as_deref(), Some("modules.order"));
        }
        put(root, "lib/modules/6.2/modules.builtin");
        let error = installed(root, None).unwrap_err().to_string();
        assert!(error.contains("6.1.0-x, 6.2"), "{error}");
        assert_eq!(installed(root, Some("6.2")).unwrap().release, "6.2");
        let nothing = installed(&root.join("lib/modules/6.1.0-x/kernel/fs"), None);
        assert!(
            nothing
                .unwrap_err()
                .to_string()
                .contains("no kernel modules")
        );
    }

    #[test]
    fn the_fingerprint_changes_with_names_contents_and_texts() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "kernel/a.ko");
        let print = || {
            let modules = of_directory(dir.path()).unwrap();
            modules.fingerprint().unwrap()
        };
        let mut seen = std::collections::HashSet::new();
        assert!(seen.insert(print()));
        assert!(!seen.insert(print()));
        put(dir.path(), "kernel/b.ko");
        assert!(seen.insert(print()));
        fs::write(dir.path().join("kernel/b.ko"), "kernel/c.ko").unwrap();
        assert!(seen.insert(print()), "the same size");
        put(dir.path(), "modules.builtin");
        assert!(seen.insert(print()));
    }
}
