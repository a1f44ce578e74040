//! Owns the removal of traces of the build from an image: of the host, the time and the run.
//! Never removes what a board needs. Keys are removed in `secrets`.

use std::path::Path;

use anyhow::{Context, Result};

use super::berkeley_db;
use super::tree::{Kind, Tree};

/// Files to remove.
const FILES: [&str; 27] = [
    // Backups of files that the build changed.
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "etc/.pwd.lock",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/passwords.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/statoverride-old",
    // Locks.
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/cache/debconf/.lock",
    // Caches that are rebuilt on demand and contain inode numbers and times.
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/ldconfig/aux-cache",
    // Identities that each board generates for itself.
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/dhcp/dhclient.leases",
    // From the sandbox.
    "etc/ld.so.nohwcap",
    "root/.wget-hsts",
];

/// Directories to empty.
const EMPTY: [&str; 7] = [
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/tmp",
    "var/cache/man",
];

/// Removes and empties what is listed above; empties logs, and removes rotated ones.
pub fn apply(tree: &mut Tree, epoch: i64) -> Result<()> {
    let failed = |path: &Path| format!("cannot clean /{} of the image", path.display());
    for path in FILES.map(Path::new) {
        tree.remove_file(path).with_context(|| failed(path))?;
    }
    for path in EMPTY.map(Path::new) {
        if tree.kind(path) == Some(Kind::Directory) {
            for name in tree.list(path)? {
                let path = path.join(name);
                tree.remove_all(&path).with_context(|| failed(&path))?;
            }
        }
    }
    remove_matching(tree, Path::new("var/cache/apt/archives"), &|name| {
        name.ends_with(".deb")
    })?;
    remove_matching(tree, Path::new("var/lib/apt/lists"), &|name| {
        name != "partial"
    })?;
    // ucf's backups of its hash file and registry, one for each run.
    remove_matching(tree, Path::new("var/lib/ucf"), &|name| {
        name.starts_with("hashfile.") || name.starts_with("registry.")
    })?;
    logs(tree, Path::new("var/log"), epoch)?;
    machine_id(tree, epoch)?;
    berkeley_db::normalise(tree, epoch)?;
    up_to_date(tree, epoch)
}

/// Paths left out of the tar, which exist because of a mount or a running system.
pub fn is_omitted(path: &Path) -> bool {
    // Mount points of `hearth shell` and the sandbox.
    path == Path::new("run/hearth")
}

fn remove_matching(
    tree: &mut Tree,
    directory: &Path,
    matches: &dyn Fn(&str) -> bool,
) -> Result<()> {
    if tree.kind(directory) != Some(Kind::Directory) {
        return Ok(());
    }
    for name in tree.list(directory)? {
        if name.to_str().is_some_and(matches) {
            tree.remove_all(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Empties log files, which keep their owners and modes: some programs do not create them.
fn logs(tree: &mut Tree, directory: &Path, epoch: i64) -> Result<()> {
    if tree.kind(directory) != Some(Kind::Directory) {
        return Ok(());
    }
    for name in tree.list(directory)? {
        let path = directory.join(&name);
        match tree.kind(&path) {
            Some(Kind::Directory) => logs(tree, &path, epoch)?,
            Some(Kind::File) => {
                let stat = tree.stat(&path)?;
                // Written during the build; other files belong to packages.
                let own = [
                    "alternatives.log",
                    "dpkg.log",
                    "bootstrap.log",
                    "history.log",
                    "term.log",
                ];
                if own.iter().any(|log| name.as_os_str() == *log) {
                    tree.remove_file(&path)?;
                } else if stat.st_size > 0 {
                    let attributes = super::tree::Attributes {
                        uid: stat.st_uid,
                        gid: stat.st_gid,
                        mode: stat.st_mode & 0o7777,
                        mtime: epoch,
                    };
                    tree.replace(&path, attributes, &mut &b""[..], &mut |_| {})?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Marks `/etc` and `/var` as up to date with `/usr`, as systemd-update-done(8) does: the packages'
/// scripts have made the journal's catalog, `ld.so.cache` and the system users already. Otherwise
/// each boot from the read-only image does so again.
fn up_to_date(tree: &mut Tree, epoch: i64) -> Result<()> {
    if tree.kind(Path::new("usr/lib/systemd/systemd")).is_some() {
        for directory in ["etc", "var"] {
            tree.write(format!("{directory}/.updated"), 0o644, b"", epoch)?;
        }
    }
    Ok(())
}

/// Leaves `machine-id` empty (machine-id(5)): systemd then generates one at each boot, in memory if
/// the root is read-only. `uninitialized` would make every boot from the read-only image a first
/// boot, which applies unit presets and thereby undoes the recipe's settings.
fn machine_id(tree: &mut Tree, epoch: i64) -> Result<()> {
    let dbus = Path::new("var/lib/dbus/machine-id");
    if tree.kind(dbus) == Some(Kind::File) {
        tree.remove_file(dbus)?;
    }
    if tree.kind(Path::new("etc/machine-id")).is_some()
        || tree.kind(Path::new("usr/lib/systemd/systemd")).is_some()
    {
        tree.write("etc/machine-id", 0o644, b"", epoch)?;
    }
    Ok(())
}
