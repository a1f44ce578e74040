//! Owns the private network in which emulated boards reach hearth's servers on their real ports, without privileges.
//! Never starts a server or an emulator.
//!
//! QEMU's user network answers UDP port 69 of its own gateway itself, so a board cannot reach a TFTP server there.
//! Any other address goes out through ordinary sockets. So hearth makes a network namespace whose loopback device has
//! one more address, the servers listen on that, and QEMU runs in the same namespace. `docs/emulated-network.md` has the
//! alternatives that were tried.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use crate::error::Fault;
use crate::recipe::LoadedLab;
use crate::sandbox::loopback;

/// The address of the servers in a private network: what a lab file of emulated boards has as `address`.
pub const SERVER: Ipv4Addr = LoadedLab::EMULATED_ADDRESS;

/// Moves this process, and what it starts from now on, into a network of its own: a loopback device that also has the
/// address `server`, and no way out. Every port may be listened on there.
///
/// # Errors
/// If the process has threads already, or the host allows no user namespaces.
pub fn enter(server: Ipv4Addr) -> Result<()> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    // Root keeps its rights over files, which a user namespace of its own would take, where it may.
    let alone = uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok();
    if !alone {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(refused)?;
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
        write("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    }
    loopback::up()?;
    loopback::add_address(server)?;
    // For programs started in it: they have no capability any more. The setting is this network's own.
    write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {path}"))
}

fn refused(error: Errno) -> anyhow::Error {
    let fault = Fault::host(format!("cannot make a network of its own: {error}"));
    match error {
        Errno::EINVAL => fault.remedy("this must come before any thread is started"),
        _ => fault.remedy(
            "allow user namespaces: `sysctl user.max_user_namespaces=10000`, and on Debian and Ubuntu \
             `sysctl kernel.unprivileged_userns_clone=1` or `kernel.apparmor_restrict_unprivileged_userns=0`",
        ),
    }
    .into()
}

/// QEMU's arguments for the network of one emulated board, with the id `net` for its device. Each board has a user
/// network of its own, from which nothing but its server's answers ever comes: `number`, from 1, tells them apart by
/// their addresses, and DHCP gives the board its name.
pub fn user_network(number: u8, name: &str) -> Vec<String> {
    let net = |host: u8| Ipv4Addr::new(10, 99, number, host);
    vec![
        "-netdev".into(),
        format!(
            "user,id=net,ipv6=off,net={}/24,host={},dns={},dhcpstart={},hostname={name}",
            net(0),
            net(2),
            net(3),
            net(15)
        ),
    ]
}
