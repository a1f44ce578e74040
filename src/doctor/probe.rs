//! Owns access to the state of the host.
//! Never judges it.

use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::{NoProgress, Progress};
use crate::recipe::Arch;
use crate::sandbox::{Namespaces, overlay, steps};

/// The caller's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    /// Names of the groups that this process has.
    pub groups: Vec<String>,
}

/// A port that a server would listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp(u16),
    Udp(u16),
}

/// Access to a host's state, which tests replace.
pub trait Probe {
    /// The kernel's release, such as `6.12.48+deb13-amd64`.
    fn kernel(&self) -> String;
    fn account(&self) -> Account;
    /// The path of a program, in PATH or the system's own directories.
    fn program(&self, name: &str) -> Option<PathBuf>;
    /// The text of a small file; `None` if it does not exist or is not readable.
    fn read(&self, path: &str) -> Option<String>;
    fn exists(&self, path: &str) -> bool;
    /// Names in a directory, sorted.
    fn names(&self, path: &str) -> Vec<String>;
    /// Whether this process could listen on the port now.
    fn listen(&self, endpoint: Endpoint) -> io::Result<()>;
    /// Enters the sandbox that images are built in; with an architecture, also runs one of its
    /// programs.
    ///
    /// # Errors
    /// What building would say.
    fn sandbox(&self, arch: Option<Arch>) -> Result<()>;
    /// Cards in card readers: model and size of each.
    fn cards(&self) -> Vec<String>;
    /// Free bytes on the file system of the cache, and its path.
    fn free_space(&self) -> Option<(PathBuf, u64)>;
    /// Whether the address of a mirror is known.
    fn mirror(&self) -> bool;
}

/// This host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Probe for Host {
    fn kernel(&self) -> String {
        nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn account(&self) -> Account {
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let groups = nix::unistd::getgroups().unwrap_or_default();
        Account {
            name: user.map_or_else(|| uid.to_string(), |user| user.name),
            uid: uid.as_raw(),
            groups: groups
                .into_iter()
                .filter_map(|gid| nix::unistd::Group::from_gid(gid).ok().flatten())
                .map(|group| group.name)
                .collect(),
        }
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
            .map(|directory| directory.join(name))
            .find(|candidate| candidate.is_file())
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn names(&self, path: &str) -> Vec<String> {
        crate::input::names_in(Path::new(path))
    }

    fn listen(&self, endpoint: Endpoint) -> io::Result<()> {
        match endpoint {
            Endpoint::Tcp(port) => TcpListener::bind(("0.0.0.0", port)).map(drop),
            Endpoint::Udp(port) => UdpSocket::bind(("0.0.0.0", port)).map(drop),
        }
    }

    fn sandbox(&self, arch: Option<Arch>) -> Result<()> {
        let namespaces = arch.map_or_else(Namespaces::new, Namespaces::running);
        // Overlays need support by the cache's file system.
        let cache = crate::dirs::cache();
        let place = cache.ancestors().find(|path| path.is_dir());
        namespaces.step(&TRY, &place.map(Path::to_path_buf), &NoProgress)
    }

    fn cards(&self) -> Vec<String> {
        let cards = crate::media::Host::default().cards();
        cards.iter().map(ToString::to_string).collect()
    }

    fn free_space(&self) -> Option<(PathBuf, u64)> {
        let cache = crate::dirs::cache();
        let place = cache.ancestors().find(|path| path.exists())?;
        let stats = nix::sys::statvfs::statvfs(place).ok()?;
        // The types differ between architectures.
        #[allow(clippy::unnecessary_cast)]
        let free = stats.blocks_available() as u64 * stats.fragment_size() as u64;
        Some((cache, free))
    }

    fn mirror(&self) -> bool {
        crate::archive::Mirrors::find(None, None)
            .of_suite("trixie")
            .is_ok()
    }
}

steps! {
    /// The result of [`Probe::sandbox`] inside the sandbox.
    TRY = "try-sandbox": try_sandbox, Option<PathBuf> => ();
}

fn try_sandbox(place: Option<PathBuf>, _: &dyn Progress) -> Result<()> {
    if let Some(place) = place {
        let dir = tempfile::Builder::new()
            .prefix("hearth-doctor-")
            .tempdir_in(&place)
            .with_context(|| format!("cannot write in {}", place.display()))?;
        let [lower, upper, work, at] =
            ["lower", "upper", "work", "at"].map(|name| dir.path().join(name));
        for directory in [&lower, &upper, &work, &at] {
            fs::create_dir(directory)?;
        }
        let mounted = overlay(&[lower], &upper, &work, &at);
        if mounted.is_ok() {
            nix::mount::umount(&at)?;
        }
        mounted?;
    }
    Ok(())
}
