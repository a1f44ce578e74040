//! Owns the loopback device of a fresh network namespace. Never touches another device.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `lo` has this index in every namespace.
const INDEX: i32 = 1;

/// Brings `lo` up, as programs expect to find it: an RTM_NEWLINK request, see rtnetlink(7).
pub fn up() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const IFF_UP: u32 = 1;
    // ifinfomsg: family and padding, type, index, flags, mask of flags to change
    let mut message = vec![0; 4];
    message.extend(INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, 0, &message).context("cannot bring lo up")
}

/// Gives `lo` one more address: an RTM_NEWADDR request, see rtnetlink(7).
pub fn add_address(address: Ipv4Addr) -> Result<()> {
    const RTM_NEWADDR: u16 = 20;
    const NLM_F_CREATE_EXCL: u16 = 0x400 | 0x200;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    // ifaddrmsg: family, prefix length, flags, scope, index
    let mut message = vec![AddressFamily::Inet as u8, 32, 0, 0];
    message.extend(INDEX.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        // rtattr: length and type, then the value
        message.extend(8u16.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(address.octets());
    }
    request(RTM_NEWADDR, NLM_F_CREATE_EXCL, &message)
        .with_context(|| format!("cannot give lo the address {address}"))
}

/// Asks the kernel for one change, and waits until it is made. See netlink(7).
fn request(kind: u16, flags: u16, message: &[u8]) -> Result<()> {
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const HEADER: usize = 16;
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let length = u32::try_from(HEADER + message.len())?;
    // nlmsghdr: length, type, flags, sequence, port
    let mut request = Vec::new();
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST_ACK | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(message);
    sendto(
        netlink.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 256];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let field = |at: usize| {
        answer[..length]
            .get(at..at + 4)
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
    };
    let kind = field(4).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    match (kind, field(HEADER).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Errno::from_raw(-code).into()),
        _ => anyhow::bail!("the kernel's answer makes no sense"),
    }
}
