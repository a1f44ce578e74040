//! Owns the pseudoterminal that a program of an image gets in place of the operator's terminal, as pid 1 of the root sees it.
//! Never has the operator's terminal.
//!
//! It is made in the root's own devpts, where the slave has a name that the image's ids own. Its master goes out to hearth
//! ([`super::relay`]) by a socket, which then carries single bytes: [`STOPPED`] out, [`GO`] in. See pty(7), unix(7)
//! (`SCM_RIGHTS`), tty_ioctl(4).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::{cmsg_space, io as raw};

/// From inside: the program was stopped, as by Ctrl-Z.
const STOPPED: u8 = b'Z';
/// From outside: the terminal is ready, the program may run.
const GO: u8 = b'G';

/// Makes a terminal standard input, output and error, and the controlling one of this session, which has none yet. To be
/// called when the mounts are final: the descriptors keep the one that they were opened by.
pub fn attach(slave: &Path) -> Result<()> {
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(slave)
        .with_context(|| format!("cannot open the sandbox's {}", slave.display()))?;
    ioctl_tiocsctty(&slave).context("cannot take the sandbox's terminal")?;
    dup2_stdin(&slave)?;
    dup2_stdout(&slave)?;
    dup2_stderr(&slave)?;
    Ok(())
}

/// One end of the socket between hearth outside and pid 1 of the root.
pub struct Line(OwnedFd);

impl Line {
    /// The end outside, and the one that the sandbox is started with as standard input.
    pub fn pair() -> Result<(Line, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("cannot make a socket for the sandbox")?;
        Ok((Line(ours), theirs))
    }

    /// Inside: makes the terminal, hands its master out, and waits until it may be used. Gives the slave's name.
    pub fn open_terminal() -> Result<(Line, PathBuf)> {
        let line = Line(io::stdin().as_fd().try_clone_to_owned()?);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("cannot make a terminal in the sandbox")?;
        unlockpt(&master)?;
        let slave = ptsname(&master, Vec::new())?;
        line.hand_out(&master)?;
        line.await_go()?;
        Ok((line, PathBuf::from(OsString::from_vec(slave.into_bytes()))))
    }

    fn hand_out(&self, master: &OwnedFd) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        let descriptors = [master.as_fd()];
        message.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(
            &self.0,
            &[IoSlice::new(&[GO])],
            &mut message,
            SendFlags::NOSIGNAL,
        )
        .context("cannot hand the terminal out of the sandbox")?;
        Ok(())
    }

    /// Outside: the master, or nothing if the sandbox ended before there was one.
    pub fn master(&self) -> Result<Option<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut message = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut byte)],
            &mut message,
            RecvFlags::CMSG_CLOEXEC,
        )
        .context("cannot hear from the sandbox")?;
        let mut descriptors = message
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten();
        Ok(descriptors.next())
    }

    /// Outside: lets the program run.
    pub fn go(&self) -> Result<()> {
        raw::write(&self.0, &[GO]).context("cannot reach the sandbox")?;
        Ok(())
    }

    /// Inside: says that the program was stopped, and waits until it may run on.
    pub fn stopped(&self) -> Result<()> {
        raw::write(&self.0, &[STOPPED]).context("cannot reach hearth outside")?;
        self.await_go()
    }

    fn await_go(&self) -> Result<()> {
        if raw::read(&self.0, &mut [0])? == 0 {
            bail!("hearth has died");
        }
        Ok(())
    }

    /// Outside: whether the program was stopped; `None` if nobody is left inside.
    pub fn heard(&self) -> Result<Option<bool>> {
        let mut byte = [0];
        match raw::read(&self.0, &mut byte) {
            Ok(0) | Err(raw::Errno::CONNRESET) => Ok(None),
            Ok(_) => Ok(Some(byte[0] == STOPPED)),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
