//! Owns the mounts of a root: what a program of the image sees. Never mounts anything on the host.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, pivot_root, ttyname};

use super::root::Root;
use crate::error::Fault;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Files of `/proc` that would reach the host's kernel: user 0 of root's user namespace is the host's.
const PROC_READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// Keeps what is mounted here from reaching the host, and the other way round.
pub fn make_private() -> Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("cannot make mounts private")
}

/// Makes the image's directory the root directory of this process, which has a mount namespace, a pid namespace and, unless it
/// keeps the host's network, a net namespace of its own.
///
/// # Errors
/// [`Fault::input`] if the directory is no root file system.
pub fn enter(root: &Root) -> Result<()> {
    make_private()?;
    let host = Host::open(root)?;
    let directory = fs::canonicalize(&root.directory)
        .with_context(|| format!("cannot enter {}", root.directory.display()))?;
    if root.throw_away {
        chdir(&overlay(&directory)?)?;
    } else {
        bind(&directory, &directory)?;
        chdir(&directory)?;
    }
    // As pivot_root(2) describes: the old root is then mounted over the new one.
    pivot_root(".", ".").context("cannot make the image's directory the root")?;
    proc_and_sys(root)?;
    devices(&host)?;
    file_system("tmpfs", "/run", SAFE, "mode=755")?;
    make("/run/lock", 0o1777)?;
    file_system(
        "tmpfs",
        "/tmp",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    if let Some(resolv_conf) = &host.resolv_conf {
        names(resolv_conf)?;
    }
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the host's root")?;
    chdir("/").context("cannot enter the image")
}

const SAFE: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// What a program gets of the host's, opened before the host's root is out of reach.
struct Host {
    devices: Vec<(&'static str, OwnedFd)>,
    terminal: Option<OwnedFd>,
    resolv_conf: Option<Vec<u8>>,
}

impl Host {
    fn open(root: &Root) -> Result<Self> {
        let mut devices = Vec::new();
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            devices.push((name, path_only(&path)?));
        }
        let terminal = match ttyname(io::stdin()) {
            Ok(path) if io::stdin().is_terminal() => path_only(&path).ok(),
            _ => None,
        };
        let resolv_conf = root
            .network
            .then(|| fs::read("/etc/resolv.conf").unwrap_or_default());
        Ok(Host {
            devices,
            terminal,
            resolv_conf,
        })
    }
}

fn path_only(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Lays memory over a directory, out of sight of the host; gives the path of the merged directory. Its mounts
/// live on the directory itself, which is the one place that surely exists.
fn overlay(directory: &Path) -> Result<std::path::PathBuf> {
    let lower = path_only(directory)?;
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        MsFlags::MS_NODEV,
        Some("mode=700"),
    )
    .context("cannot mount a tmpfs")?;
    for name in ["upper", "work", "merged"] {
        fs::create_dir(directory.join(name))?;
    }
    // The upper directory's mode and owner become those of the merged root.
    fs::set_permissions(directory.join("upper"), fs::Permissions::from_mode(0o755))?;
    // By descriptor, and by names relative to here: an option's value can hold neither comma nor colon.
    chdir(directory)?;
    let options = format!(
        "lowerdir=/proc/self/fd/{},upperdir=upper,workdir=work,userxattr",
        lower.as_raw_fd()
    );
    mount(
        Some("overlay"),
        "merged",
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|errno| {
        Fault::host(format!(
            "the kernel mounts no overlay over {}: {}",
            directory.display(),
            errno.desc()
        ))
        .remedy("hearth run and hearth shell need Linux 5.11 or newer with overlayfs")
    })?;
    Ok(directory.join("merged"))
}

fn proc_and_sys(root: &Root) -> Result<()> {
    file_system("proc", "/proc", SAFE, "").context(
        Fault::host("the kernel lets hearth mount no /proc")
            .remedy("in a container, start it with an unmasked /proc, or run hearth outside it"),
    )?;
    for name in PROC_READ_ONLY {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind(&path, &path)?;
            read_only(&path, SAFE)?;
        }
    }
    // sysfs belongs to a net namespace; the host's, writable for its root, is not for the image.
    if root.network || file_system("sysfs", "/sys", SAFE | MsFlags::MS_RDONLY, "").is_err() {
        file_system("tmpfs", "/sys", SAFE | MsFlags::MS_RDONLY, "mode=555")?;
    }
    Ok(())
}

fn devices(host: &Host) -> Result<()> {
    let no_suid = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    file_system("tmpfs", "/dev", no_suid, "mode=755,size=1m")?;
    for (name, device) in &host.devices {
        bind_device(device, &Path::new("/dev").join(name))?;
    }
    make("/dev/pts", 0o755)?;
    file_system(
        "devpts",
        "/dev/pts",
        no_suid,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    make("/dev/shm", 0o1777)?;
    file_system("tmpfs", "/dev/shm", SAFE, "mode=1777")?;
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, Path::new("/dev").join(link))?;
    }
    // Under this name ttyname(3) finds it.
    if let Some(terminal) = &host.terminal {
        bind_device(terminal, Path::new("/dev/console"))?;
    }
    Ok(())
}

fn bind_device(device: &OwnedFd, target: &Path) -> Result<()> {
    File::create(target)?;
    bind(
        Path::new(&format!("/proc/self/fd/{}", device.as_raw_fd())),
        target,
    )
}

/// Puts the host's `resolv.conf` in the image's place for it; a link into `/run` is kept.
fn names(resolv_conf: &[u8]) -> Result<()> {
    fs::write("/run/resolv.conf", resolv_conf)?;
    let place = Path::new("/etc/resolv.conf");
    match fs::read_link(place) {
        Ok(target) => {
            let target = Path::new("/etc").join(target);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&target, resolv_conf)
                .with_context(|| format!("cannot write {}", target.display()))
        }
        Err(_) if place.is_file() => bind(Path::new("/run/resolv.conf"), place),
        Err(_) => Ok(()),
    }
}

/// Mounts a fresh file system on a directory of the image, which is made if it is missing.
fn file_system(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => {
            return Err(Fault::input(format!("the image's {target} is not a directory")).into());
        }
        Err(_) => make(target, 0o755)?,
    }
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .with_context(|| format!("cannot mount {kind} on the image's {target}"))
}

fn make(directory: &str, mode: u32) -> Result<()> {
    fs::create_dir(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make the image's {directory}"))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("cannot bind to {}", target.display()))
}

fn read_only(target: &Path, flags: MsFlags) -> Result<()> {
    mount(
        None::<&str>,
        target,
        None::<&str>,
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags,
        None::<&str>,
    )
    .with_context(|| format!("cannot make {} read-only", target.display()))
}
