//! Owns the mounts of a root: what a program of the image sees. Never mounts anything on the host.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{UnlinkatFlags, chdir, pivot_root, unlinkat};

use super::ids::IDS;
use super::root::{Root, View};
use crate::error::Fault;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Files of `/proc` that would reach the host's kernel: user 0 of root's user namespace is the host's.
const PROC_READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];
/// Files of `/proc` that tell of keys outside of the user namespace; `/dev/null` covers them.
const PROC_HIDDEN: [&str; 2] = ["keys", "key-users"];

/// Where a root has file systems that are not the image's.
const OWN_FILE_SYSTEMS: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Where the shims of a root are, on a file system that is not the image's: first in `PATH`.
pub const SHIMS: &str = "/run/hearth/shims";

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
/// keeps the host's network, a net namespace of its own. Says whether it had to make `/etc/resolv.conf` in the image for the
/// host's to be mounted on, which is not to stay.
///
/// # Errors
/// [`Fault::input`] if the directory is no root file system.
pub fn enter(root: &Root, has_terminal: bool) -> Result<bool> {
    make_private()?;
    let host = Host::open(root, has_terminal)?;
    let directory = fs::canonicalize(&root.directory)
        .with_context(|| format!("cannot enter {}", root.directory.display()))?;
    if root.throw_away {
        let mut layers = vec![directory];
        layers.extend_from_slice(&root.below);
        chdir(&throw_away(&layers, root.limits.disk)?)?;
    } else {
        bind(&directory, &directory)?;
        chdir(&directory)?;
    }
    // As pivot_root(2) describes: the old root is then mounted over the new one.
    pivot_root(".", ".").context("cannot make the image's directory the root")?;
    proc_and_sys(root, &host)?;
    devices(&host)?;
    let no_device = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    file_system("tmpfs", "/run", no_device, "mode=755,size=10%")?;
    make("/run/lock", 0o1777)?;
    file_system(
        "tmpfs",
        "/tmp",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777,size=25%",
    )?;
    let made = match &host.resolv_conf {
        Some(resolv_conf) => names(resolv_conf)?,
        None => false,
    };
    for (source, target) in &host.binds {
        bind_read_only(source, target)?;
    }
    shims(&root.shims, Path::new(SHIMS))?;
    if let Some(view) = &root.view {
        second_sight(view, &host)?;
    }
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the host's root")?;
    chdir("/").context("cannot enter the image")?;
    Ok(made)
}

/// Removes the `/etc/resolv.conf` that [`enter`] has made in an image, when its mounts are gone; follows no link.
pub fn give_back(image: &Path) -> Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    let etc = openat2(path_only(image)?, "etc", how)?;
    unlinkat(&etc, "resolv.conf", UnlinkatFlags::NoRemoveDir)
        .context("cannot remove the image's /etc/resolv.conf")
}

const SAFE: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// What a program gets of the host's, opened before the host's root is out of reach.
struct Host {
    devices: Vec<(&'static str, OwnedFd)>,
    resolv_conf: Option<Vec<u8>>,
    binds: Vec<(OwnedFd, PathBuf)>,
    /// Those of the root's view.
    view: Vec<(OwnedFd, PathBuf)>,
}

impl Host {
    /// A program with a terminal has `/dev/tty` as well: it is that of its own session.
    fn open(root: &Root, has_terminal: bool) -> Result<Self> {
        let mut devices = Vec::new();
        let tty = has_terminal.then_some("tty");
        for name in DEVICES.into_iter().chain(tty) {
            let path = Path::new("/dev").join(name);
            devices.push((name, path_only(&path)?));
        }
        let resolv_conf = root
            .network
            .then(|| fs::read("/etc/resolv.conf").unwrap_or_default());
        let view = root.view.as_ref().map_or(&[][..], |view| &view.binds);
        Ok(Host {
            devices,
            resolv_conf,
            binds: opened(&root.binds)?,
            view: opened(view)?,
        })
    }
}

fn opened(binds: &[(PathBuf, PathBuf)]) -> Result<Vec<(OwnedFd, PathBuf)>> {
    let open = |(source, target): &(PathBuf, PathBuf)| Ok((path_only(source)?, target.clone()));
    binds.iter().map(open).collect()
}

fn path_only(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Mounts an overlay of directories at `at`, which may be one of them: `lower` is read only, topmost first; changes go to
/// `upper`; `work` is an empty directory beside it, for one mount only. For a process inside [`super::Namespaces`], and gone with it.
///
/// # Errors
/// [`Fault::host`] where the kernel, or the file system of `upper`, does not do.
pub fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Result<()> {
    // By descriptor: an option's value can hold neither comma nor colon, and its length is limited.
    let open = |path: &Path| path_only(path);
    let lower = lower
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    overlay_of(&lower, &upper, &work, at)
}

fn overlay_of(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, at: &Path) -> Result<()> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower: Vec<String> = lower.iter().map(name).collect();
    // `volatile`, or unmounting would sync the whole file system.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,volatile",
        lower.join(":"),
        name(upper),
        name(work)
    );
    mount(
        Some("overlay"),
        at,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|errno| {
        Fault::host(format!("the kernel mounts no overlay at {}: {}", at.display(), errno.desc()))
            .remedy("this needs Linux 5.11 or newer with overlayfs, and HEARTH_CACHE on a file system such as ext4, xfs, btrfs or tmpfs")
            .into()
    })
}

/// Lays memory over directories, out of sight of the host; gives the merged directory. The mounts are made on the
/// topmost one itself, a place that surely exists. No more than `size` bytes can be written.
fn throw_away(layers: &[PathBuf], size: u64) -> Result<PathBuf> {
    let at = &layers[0];
    let lower = layers
        .iter()
        .map(|path| path_only(path))
        .collect::<Result<Vec<_>>>()?;
    let attributes = fs::metadata(at)?;
    let half = super::watch::total_memory().map_or(size, |total| total / 2);
    let size = size.min(half);
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        MsFlags::MS_NODEV,
        Some(format!("mode=700,size={size}").as_str()),
    )
    .context("cannot mount a tmpfs")?;
    for name in ["upper", "work", "merged"] {
        fs::create_dir(at.join(name))?;
    }
    let upper = at.join("upper");
    // The upper directory's mode and owner become those of the merged root. A tree whose owner is no id of an image, such as
    // one that a user of the host unpacked, is still good enough to look at.
    if attributes.uid() < IDS && attributes.gid() < IDS {
        chown(&upper, Some(attributes.uid()), Some(attributes.gid())).or_else(not_mapped)?;
    }
    fs::set_permissions(&upper, attributes.permissions())?;
    let merged = at.join("merged");
    overlay_of(
        &lower,
        &path_only(&upper)?,
        &path_only(&at.join("work"))?,
        &merged,
    )?;
    Ok(merged)
}

/// What a user of the host owns that has no id in the namespace looks like nobody's, and cannot be given to nobody.
fn not_mapped(error: io::Error) -> io::Result<()> {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EINVAL => Ok(()),
        _ => Err(error),
    }
}

fn proc_and_sys(root: &Root, host: &Host) -> Result<()> {
    file_system("proc", "/proc", SAFE, "").context(
        Fault::host("the kernel lets hearth mount no /proc")
            .remedy("in a container, start it with an unmasked /proc, or run hearth outside it"),
    )?;
    for name in PROC_READ_ONLY {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind(&path, &path)?;
            read_only(&path)?;
        }
    }
    for name in PROC_HIDDEN {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind_device(&host.devices[0].1, &path)?;
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
        let target = Path::new("/dev").join(name);
        File::create(&target)?;
        bind_device(device, &target)?;
    }
    make("/dev/pts", 0o755)?;
    file_system(
        "devpts",
        "/dev/pts",
        no_suid,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    make("/dev/shm", 0o1777)?;
    file_system("tmpfs", "/dev/shm", SAFE, "mode=1777,size=10%")?;
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, Path::new("/dev").join(link))?;
    }
    Ok(())
}

fn bind_device(device: &OwnedFd, target: &Path) -> Result<()> {
    bind(
        Path::new(&format!("/proc/self/fd/{}", device.as_raw_fd())),
        target,
    )
}

/// Puts the host's `resolv.conf` in the image's place for it; a link into `/run` is kept. Says whether the image
/// had none.
fn names(resolv_conf: &[u8]) -> Result<bool> {
    let place = Path::new("/etc/resolv.conf");
    if let Ok(target) = fs::read_link(place) {
        let target = Path::new("/etc").join(target);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, resolv_conf)
            .with_context(|| format!("cannot write {}", target.display()))?;
        return Ok(false);
    }
    let source = Path::new("/run/resolv.conf");
    fs::write(source, resolv_conf)?;
    let missing = !place.exists();
    if missing {
        match File::create(place) {
            // A tree whose owner has no id here: nothing can be made in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            other => other.context("cannot make the image's /etc/resolv.conf")?,
        };
    }
    bind(source, place)?;
    Ok(missing)
}

fn bind_read_only(source: &OwnedFd, target: &Path) -> Result<()> {
    let name = format!("/proc/self/fd/{}", source.as_raw_fd());
    if fs::symlink_metadata(target).is_err() {
        if fs::metadata(&name)?.is_dir() {
            fs::create_dir_all(target)?;
        } else {
            File::create(target)?;
        }
    }
    bind(Path::new(&name), target)?;
    read_only(target)
}

fn shims(shims: &[(String, String)], directory: &Path) -> Result<()> {
    if shims.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    for (name, text) in shims {
        let path = directory.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Makes a root's [`View`]. The image's own file system is bound without what is mounted on it.
fn second_sight(view: &View, host: &Host) -> Result<()> {
    const SHIMS_OF_VIEW: &str = "/run/hearth/shims-of-view";
    const EMPTY: &str = "/run/hearth/empty";
    let place = Path::new(View::PLACE);
    let inside = |path: &Path| place.join(path.strip_prefix("/").unwrap_or(path));
    for directory in [place, Path::new(EMPTY)] {
        fs::create_dir_all(directory)?;
    }
    shims(&view.shims, Path::new(SHIMS_OF_VIEW))?;
    bind(Path::new("/"), place)?;
    // Or it would be bound again, into itself, with `/run`.
    mount(
        None::<&str>,
        place,
        None::<&str>,
        MsFlags::MS_UNBINDABLE,
        None::<&str>,
    )
    .context("cannot make the second sight of the image")?;
    for name in OWN_FILE_SYSTEMS {
        let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
        let target = inside(Path::new(name));
        mount(Some(name), &target, None::<&str>, recursive, None::<&str>)
            .with_context(|| format!("cannot bind {name} to {}", target.display()))?;
    }
    if !view.shims.is_empty() {
        fs::create_dir_all(SHIMS)?;
        bind(Path::new(SHIMS_OF_VIEW), &inside(Path::new(SHIMS)))?;
    }
    for (source, target) in &host.view {
        let target = inside(target);
        if fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_file()) {
            bind_read_only(source, &target)?;
        }
    }
    for directory in view.emptied.iter().map(|path| inside(path)) {
        if fs::symlink_metadata(&directory).is_ok_and(|meta| meta.is_dir()) {
            bind(Path::new(EMPTY), &directory)?;
            read_only(&directory)?;
        }
    }
    Ok(())
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

/// Of a bind mount, whose other restrictions stay: those of the host cannot be lifted in a user namespace.
fn read_only(target: &Path) -> Result<()> {
    let kept = statvfs(target)?.flags();
    let restrictions = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let flags = restrictions
        .into_iter()
        .filter(|(has, _)| kept.contains(*has))
        .fold(
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
            |flags, (_, restriction)| flags | restriction,
        );
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot make {} read-only", target.display()))
}
