//! Owns how a process gives up what programs of an image must not have: ids, capabilities, mounts, terminal.
//! Never gives anything back.
//!
//! See user_namespaces(7), mount_namespaces(7) ("Restrictions on mount namespaces"), capabilities(7).

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::watch::Limits;
use super::{filter, ids, sys};

/// What dpkg, maintainer scripts and the tools that they call need; all of it counts for the image's ids only.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);
/// Namespaces that a program could use to get capabilities over something new.
const FORBIDDEN_NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Closes whatever the caller has left open beyond standard input, output and error.
pub fn close_inherited() -> Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .context("cannot read /proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in open {
        // The directory just read is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// The parent's ends: it stays in hearth's user namespace, and gives the child its ids in the second one.
pub struct Guardian {
    said: PipeReader,
    go: PipeWriter,
    /// The child's ends, until it has been started.
    ends: (PipeWriter, PipeReader),
}

impl Guardian {
    pub fn new() -> Result<Self> {
        let (said, say) = io::pipe()?;
        let (hear, go) = io::pipe()?;
        // Inherited by the one process that this single thread starts.
        fcntl_setfd(&say, FdFlags::empty())?;
        fcntl_setfd(&hear, FdFlags::empty())?;
        Ok(Guardian {
            said,
            go,
            ends: (say, hear),
        })
    }

    /// What [`Ward::take`] gets as an argument.
    pub fn argument(&self) -> String {
        format!("{},{}", self.ends.0.as_raw_fd(), self.ends.1.as_raw_fd())
    }

    /// Waits for the child's wish, and grants it; a child that dies first wishes nothing. Gives what the child told
    /// [`Ward::confine`].
    pub fn serve(mut self) -> Result<bool> {
        drop(self.ends);
        let mut said = String::new();
        self.said.read_to_string(&mut said)?;
        let Some((pid, made)) = said.split_once(' ') else {
            return Ok(false);
        };
        ids::give_image_ids(pid)?;
        self.go.write_all(b"!")?;
        Ok(made == "true")
    }
}

/// The child's side of a [`Guardian`], and what it needs of the host's `/proc`.
pub struct Ward {
    say: File,
    hear: File,
    /// Its pid in the numbers of the host's `/proc`.
    pid: String,
    /// `/proc/sys/user`, which can still be written to.
    limits: OwnedFd,
}

impl Ward {
    /// To be called while the host's `/proc` is in sight.
    pub fn take(argument: &str) -> Result<Self> {
        let (say, hear) = argument
            .split_once(',')
            .and_then(|(say, hear)| Some((say.parse::<i32>().ok()?, hear.parse::<i32>().ok()?)))
            .context("a malformed request to the sandbox")?;
        let own = |fd: i32| PathBuf::from(format!("/proc/self/fd/{fd}"));
        let ward = Ward {
            say: File::options().write(true).open(own(say))?,
            hear: File::open(own(hear))?,
            pid: fs::read_link("/proc/self")?.to_string_lossy().into_owned(),
            limits: open(
                "/proc/sys/user",
                OFlag::O_PATH | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?,
        };
        nix::unistd::close(say)?;
        nix::unistd::close(hear)?;
        Ok(ward)
    }

    /// Gives up everything: from now on this process and those that it starts have the image's ids and nothing else, in a
    /// mount namespace whose mounts are locked together, so that none can be lifted off what it covers. `made` is for the parent.
    pub fn confine(mut self, made: bool, limits: &Limits) -> Result<()> {
        // Before the namespace is made: it bounds all of the namespace's users together.
        setrlimit(Resource::RLIMIT_NPROC, limits.processes, limits.processes)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        setrlimit(Resource::RLIMIT_FSIZE, limits.disk, limits.disk)?;
        sys::close_beyond_standard_on_exec()
            .context("cannot close what the caller has left open")?;
        unshare(CloneFlags::CLONE_NEWUSER).context("cannot make a second user namespace")?;
        write!(self.say, "{} {made}", self.pid)?;
        drop(self.say);
        let mut go = [0];
        if self.hear.read(&mut go)? == 0 {
            bail!("the sandbox gives a program no ids");
        }
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a second mount namespace")?;
        forbid_namespaces(&self.limits);
        drop_capabilities()?;
        // Another process of the same ids must not look into this one.
        prctl::set_dumpable(false)?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        filter::forbid()
    }
}

/// The limit is the namespace's own. Where `/proc/sys` is read-only, the syscall filter says no alone.
fn forbid_namespaces(limits: &OwnedFd) {
    let directory = PathBuf::from(format!("/proc/self/fd/{}", limits.as_raw_fd()));
    for kind in FORBIDDEN_NAMESPACES {
        let _ = fs::write(directory.join(format!("max_{kind}_namespaces")), "0");
    }
}

fn drop_capabilities() -> Result<()> {
    let last = fs::read_to_string(Path::new("/proc/sys/kernel/cap_last_cap"))?;
    let last: u32 = last.trim().parse().context("not a capability's number")?;
    clear_ambient_capability_set()?;
    for number in 0..=last.min(63) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !CAPABILITIES.contains(capability) {
            remove_capability_from_bounding_set(capability)
                .with_context(|| format!("cannot give up capability {number}"))?;
        }
    }
    let kept = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).context("cannot give up capabilities")
}
