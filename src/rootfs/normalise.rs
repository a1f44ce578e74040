//! Owns what must not be in an image: traces of the build, of its machine and its hour.
//! Never removes what a board needs. Keys are `secrets`'.

use std::path::Path;

use anyhow::{Context, Result};

use super::tree::{Kind, Tree};

/// Files that go.
const FILES: [&str; 27] = [
    // Backups of what the build changed.
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
    // Caches that are made again, and tell of inodes and times.
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/ldconfig/aux-cache",
    // What is to be each board's own.
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/dhcp/dhclient.leases",
    // From the build's own sandbox.
    "etc/ld.so.nohwcap",
    "root/.wget-hsts",
];

/// Directories whose content goes.
const EMPTY: [&str; 7] = [
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/tmp",
    "var/cache/man",
];

/// Removes and empties what is listed above; logs are emptied, or removed where they are rotated ones.
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
    // How often a script of ucf's ran is of no use to the board.
    remove_matching(tree, Path::new("var/lib/ucf"), &|name| {
        name.starts_with("hashfile.") || name.starts_with("registry.")
    })?;
    logs(tree, Path::new("var/log"), epoch)?;
    machine_id(tree, epoch)?;
    up_to_date(tree, epoch)
}

/// Paths that are left out of the tar although a mount or a running system has them.
pub fn is_omitted(path: &Path) -> bool {
    // Where `hearth shell` and the sandbox mount things.
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

/// Empties log files, which keep their owners and modes: some programs do not make them.
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
                // Written by the build itself; the rest belongs to packages.
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

/// Says, as systemd-update-done(8) would, that what follows from `/usr` is up to date: the packages' scripts have made the
/// journal's catalog, `ld.so.cache` and the system users already. Else each boot from the read-only image does it again.
fn up_to_date(tree: &mut Tree, epoch: i64) -> Result<()> {
    if tree.kind(Path::new("usr/lib/systemd/systemd")).is_some() {
        for directory in ["etc", "var"] {
            tree.write(format!("{directory}/.updated"), 0o644, b"", epoch)?;
        }
    }
    Ok(())
}

/// Leaves `machine-id` empty (machine-id(5)): systemd makes one at each boot, in memory where the root is
/// read-only. `uninitialized` would make every boot from the read-only image a first boot, which enables
/// units by their presets and undoes what the recipe says.
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
