//! Owns the DHCP server (RFC 2131): answers the lab's boards with their static addresses and the
//! boot server.
//! Never answers unknown clients, and never assigns an address that is not in the lab file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use crate::recipe::{Board, Dhcp, LabSettings, LoadedLab, Mac, Network};

pub const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Default lease in seconds.
const LEASE: u32 = 24 * 3600;
/// The smallest message that all clients accept (RFC 2131, section 2: 300 bytes of BOOTP).
const MIN_REPLY: usize = 300;
/// Requests may be forged: an answer has less than so many times their bytes. Clients pad theirs to 300 bytes too.
const MOST_TIMES: usize = 3;

/// A socket bound to one interface, so that it receives no broadcasts of the host's other networks.
///
/// # Errors
/// If the interface does not exist, or the port is in use or privileged.
pub fn open(interface: &str) -> std::io::Result<std::net::UdpSocket> {
    let made: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&made, sockopt::BindToDevice, &interface.into())?;
    setsockopt(&made, sockopt::Broadcast, &true)?;
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT));
    bind(made.as_raw_fd(), &any)?;
    Ok(made.into())
}

/// A reply and its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub packet: Vec<u8>,
    pub to: SocketAddrV4,
}

/// Answers requests until the task is dropped; `lab` returns the current boards.
pub async fn serve(
    socket: tokio::net::UdpSocket,
    lab: impl Fn() -> Result<Arc<LoadedLab>> + Send + Sync,
) {
    let mut datagram = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        let reply = lab().and_then(|lab| {
            if is_forged(from, &lab.settings) {
                return Ok(None);
            }
            answer(&datagram[..length], &lab)
        });
        match reply {
            Ok(Some(reply)) => {
                if let Err(error) = socket.send_to(&reply.packet, reply.to).await {
                    log::warn!("dhcp: cannot answer {}: {error}", reply.to);
                }
            }
            Ok(None) => {}
            Err(error) => log::warn!("dhcp: {error:#}"),
        }
    }
}

/// Whether a request has a source that no client and no relay has: a group of hosts, or this server's own socket.
fn is_forged(from: SocketAddr, lab: &LabSettings) -> bool {
    let IpAddr::V4(address) = from.ip() else {
        return true;
    };
    let network = lab.dhcp.as_ref().and_then(|dhcp| dhcp.network.parse().ok());
    let is_broadcast = network
        .is_some_and(|network: Network| network.contains(address) && !network.has_host(address));
    // 224.0.0.0/4 is multicast, and what follows it reserved up to the limited broadcast (RFC 6890).
    address.octets()[0] >= 224
        || is_broadcast
        || (address, from.port()) == (lab.address, SERVER_PORT)
}

/// Options without a length: padding and the end of the list (RFC 2132, section 3).
const PAD: u8 = 0;
const RELAY_INFORMATION: u8 = 82;
const END: u8 = 255;

/// The reply to a packet, if it is a valid request of one of the boards.
///
/// # Errors
/// If the lab file enables no DHCP server, or its network is invalid.
pub fn answer(datagram: &[u8], lab: &LoadedLab) -> Result<Option<Reply>> {
    let dhcp = lab
        .settings
        .dhcp
        .as_ref()
        .context("the lab file has no [lab.dhcp] any more")?;
    let network: Network = dhcp.network.parse().map_err(anyhow::Error::msg)?;
    let Some((request, kind, mac)) = parse(datagram) else {
        return Ok(None);
    };
    let Some(board) = lab.board_with_mac(mac) else {
        log::debug!("dhcp: {mac} is no board of this lab");
        return Ok(None);
    };
    let Some(address) = board.address else {
        log::warn!(
            "dhcp: {} ({mac}) has no address in the lab file",
            board.name
        );
        return Ok(None);
    };
    let server = lab.settings.address;
    if let Some(DhcpOption::ServerIdentifier(chosen)) =
        request.opts().get(OptionCode::ServerIdentifier)
        && *chosen != server
    {
        // The client has selected another server.
        return Ok(None);
    }
    let answer = match kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request if wanted(&request) == address => MessageType::Ack,
        MessageType::Request => MessageType::Nak,
        MessageType::Inform => MessageType::Ack,
        MessageType::Decline => {
            log::warn!(
                "dhcp: {} finds that somebody else has {address}",
                board.name
            );
            return Ok(None);
        }
        _ => return Ok(None),
    };
    log::info!(
        "dhcp: {} ({mac}): {kind:?}, {answer:?} {address}",
        board.name
    );
    let mut reply = begin(&request, answer, server);
    if answer != MessageType::Nak {
        if kind != MessageType::Inform {
            reply.set_yiaddr(address);
            let lease = dhcp.lease.unwrap_or(LEASE);
            reply.opts_mut().insert(DhcpOption::AddressLeaseTime(lease));
        }
        configure(&mut reply, board, &lab.settings, dhcp, network);
    }
    let mut to = destination(&request, answer);
    if answer == MessageType::Nak && !request.giaddr().is_unspecified() {
        // Tells the relay to broadcast it: the client's address is invalid (RFC 2131, section
        // 4.3.2).
        reply.set_flags(Flags::default().set_broadcast());
    }
    let has = request.ciaddr();
    if !has.is_unspecified() && !is_unicast(has) {
        return Ok(None);
    }
    let is_host = network.has_host(*to.ip()) && *to.ip() != server;
    let is_relayed = !request.giaddr().is_unspecified();
    if !is_host && (is_relayed || *to.ip() != Ipv4Addr::BROADCAST) {
        log::debug!("dhcp: {mac} wants its answer where no host of {network} is: {to}");
        if is_relayed || network.contains(*to.ip()) {
            return Ok(None);
        }
        to = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
    }
    let mut packet = reply.to_vec().context("cannot write a DHCP reply")?;
    append(&mut packet, relay_information(options(datagram)));
    packet.resize(packet.len().max(MIN_REPLY), 0);
    if packet.len() >= MOST_TIMES * datagram.len() {
        log::debug!("dhcp: {mac}: the answer is far larger than the request; none is sent");
        return Ok(None);
    }
    Ok(Some(Reply { packet, to }))
}

/// Whether an address can be that of one host on a network.
fn is_unicast(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

/// The option that a relay added to a request, to be echoed unchanged (option 82, RFC 3046, section
/// 2.2).
fn relay_information<'a>(options: impl Iterator<Item = (u8, &'a [u8])>) -> Option<&'a [u8]> {
    let mut found = options.filter(|(code, _)| *code == RELAY_INFORMATION);
    found.next().map(|(_, value)| value)
}

/// Appends the relay's option after all others, as RFC 3046 requires.
fn append(packet: &mut Vec<u8>, relay_information: Option<&[u8]>) {
    let Some(value) = relay_information else {
        return;
    };
    let Ok(length) = u8::try_from(value.len()) else {
        return;
    };
    while packet.last() == Some(&PAD) {
        packet.pop();
    }
    if packet.last() == Some(&END) {
        packet.pop();
    }
    packet.extend([RELAY_INFORMATION, length]);
    packet.extend_from_slice(value);
    packet.push(END);
}

/// Parses a request of an Ethernet client; `None` if it is malformed.
fn parse(packet: &[u8]) -> Option<(Message, MessageType, Mac)> {
    // Checked before dhcproto parses it, which trusts the packet's length of `chaddr`.
    let (op, htype, hlen) = (packet.first()?, packet.get(1)?, packet.get(2)?);
    if (*op, *htype, *hlen) != (1, 1, 6) {
        return None;
    }
    let request = Message::from_bytes(&reduced(packet)?).ok()?;
    let kind = request.opts().msg_type()?;
    let mac = Mac(request.chaddr().try_into().ok()?);
    Some((request, kind, mac))
}

/// The packet with only the options used here, each of the length in RFC 2132: dhcproto's decoder
/// panics on some others if their lengths or values are invalid. `None` if an option is truncated.
fn reduced(packet: &[u8]) -> Option<Vec<u8>> {
    // The fixed fields, and the magic cookie.
    let (head, mut rest) = packet.split_at_checked(240)?;
    let mut reduced = head.to_vec();
    while let Some((&code, after)) = rest.split_first() {
        rest = after;
        match code {
            PAD => continue,
            END => break,
            _ => {}
        }
        let (&length, after) = rest.split_first()?;
        let (value, after) = after.split_at_checked(usize::from(length))?;
        rest = after;
        let is_right = match OptionCode::from(code) {
            OptionCode::MessageType => length == 1,
            OptionCode::RequestedIpAddress | OptionCode::ServerIdentifier => length == 4,
            OptionCode::ClientIdentifier => length >= 2,
            _ => false,
        };
        if is_right {
            reduced.extend([code, length]);
            reduced.extend(value);
        }
    }
    reduced.push(END);
    Some(reduced)
}

/// The options of a packet that `reduced` accepted.
fn options(packet: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = packet.get(240..).unwrap_or_default();
    std::iter::from_fn(move || {
        loop {
            let (&code, after) = rest.split_first()?;
            rest = after;
            match code {
                PAD => {}
                END => return None,
                _ => {
                    break {
                        let (&length, after) = rest.split_first()?;
                        let (value, after) = after.split_at_checked(usize::from(length))?;
                        rest = after;
                        Some((code, value))
                    };
                }
            }
        }
    })
}

/// The address that a DHCPREQUEST asks for: the one offered, or the one the client has.
fn wanted(request: &Message) -> Ipv4Addr {
    match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => *address,
        _ => request.ciaddr(),
    }
}

fn begin(request: &Message, answer: MessageType, server: Ipv4Addr) -> Message {
    let mut reply = Message::default();
    reply
        .set_opcode(Opcode::BootReply)
        .set_htype(HType::Eth)
        .set_chaddr(request.chaddr())
        .set_xid(request.xid())
        .set_flags(request.flags())
        .set_giaddr(request.giaddr());
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(answer));
    options.insert(DhcpOption::ServerIdentifier(server));
    // RFC 6842: the client identifier is echoed.
    if let Some(identifier) = request.opts().get(OptionCode::ClientIdentifier) {
        options.insert(identifier.clone());
    }
    reply
}

/// Addresses, host name, and boot server.
fn configure(reply: &mut Message, board: &Board, lab: &LabSettings, dhcp: &Dhcp, network: Network) {
    let file = format!("boards/{}/boot.scr.uimg", board.name);
    reply.set_siaddr(lab.address).set_fname_str(&file);
    let options = reply.opts_mut();
    options.insert(DhcpOption::SubnetMask(network.mask()));
    options.insert(DhcpOption::BroadcastAddr(network.broadcast()));
    if let Some(router) = dhcp.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !dhcp.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(dhcp.dns.clone()));
    }
    options.insert(DhcpOption::Hostname(board.name.clone()));
    let server = lab.address.to_string().into_bytes();
    options.insert(DhcpOption::TFTPServerName(server));
    options.insert(DhcpOption::BootfileName(file.into_bytes()));
}

/// The destination of a reply (RFC 2131, section 4.1). A client without an address gets a
/// broadcast: it cannot answer ARP yet, and writing the ARP table needs privileges.
fn destination(request: &Message, answer: MessageType) -> SocketAddrV4 {
    let relay = request.giaddr();
    if !relay.is_unspecified() {
        return SocketAddrV4::new(relay, SERVER_PORT);
    }
    let has = request.ciaddr();
    let broadcast = request.flags() == Flags::default().set_broadcast();
    if has.is_unspecified() || broadcast || answer == MessageType::Nak {
        return SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
    }
    SocketAddrV4::new(has, CLIENT_PORT)
}
