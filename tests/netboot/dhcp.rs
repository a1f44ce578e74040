//! DHCP by raw packets: the lab's boards are answered, nobody else is.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use hearth::data::Source;
use hearth::netboot::dhcp::answer;
use hearth::recipe::{LoadedLab, board_types};

const BOARD: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 21);

fn lab() -> LoadedLab {
    let text = r#"
        [lab]
        name = "desk"
        address = "192.168.7.1"
        recipe = "trixie-armhf"
        dhcp = { interface = "eth1", network = "192.168.7.0/24", router = "192.168.7.1", dns = ["192.168.7.1"], lease = 600 }
        [[board]]
        name = "neo1"
        type = "nanopi-neo"
        mac = "02:00:5e:10:00:01"
        address = "192.168.7.21"
        [[board]]
        name = "neo2"
        type = "nanopi-neo"
        mac = "02:00:5e:10:00:02"
    "#;
    let source = Source {
        path: "lab.toml".into(),
        text: text.into(),
    };
    LoadedLab::from_source(&source, board_types().unwrap()).unwrap()
}

fn request(mac: [u8; 6], kind: MessageType, options: Vec<DhcpOption>) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, zero, zero, zero, zero, &mac);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    message
}

fn ask(message: &Message) -> Option<(Message, SocketAddrV4)> {
    let reply = answer(&message.to_vec().unwrap(), &lab()).unwrap()?;
    assert!(reply.packet.len() >= 300);
    Some((Message::from_bytes(&reply.packet).unwrap(), reply.to))
}

#[test]
fn a_board_is_offered_its_address_and_where_to_boot_from() {
    let identifier = DhcpOption::ClientIdentifier(vec![1, 2, 3]);
    let (offer, to) = ask(&request(
        BOARD,
        MessageType::Discover,
        vec![identifier.clone()],
    ))
    .unwrap();
    assert_eq!(to, "255.255.255.255:68".parse().unwrap());
    assert_eq!(
        (offer.opcode(), offer.xid()),
        (Opcode::BootReply, 0x1234_5678)
    );
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    assert_eq!(
        (offer.yiaddr(), offer.siaddr(), offer.chaddr()),
        (ADDRESS, SERVER, &BOARD[..])
    );
    let file = offer.fname().unwrap();
    assert_eq!(
        file.strip_suffix(b"\0").unwrap_or(file),
        b"boards/neo1/boot.scr.uimg"
    );
    for option in [
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::AddressLeaseTime(600),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::BroadcastAddr(Ipv4Addr::new(192, 168, 7, 255)),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::DomainNameServer(vec![SERVER]),
        DhcpOption::Hostname("neo1".into()),
        DhcpOption::BootfileName(b"boards/neo1/boot.scr.uimg".to_vec()),
        identifier,
    ] {
        assert_eq!(offer.opts().get((&option).into()), Some(&option));
    }
}

#[test]
fn requests_are_granted_or_denied_and_other_servers_left_alone() {
    let requested = |address: Ipv4Addr, server: Ipv4Addr| {
        let options = vec![
            DhcpOption::RequestedIpAddress(address),
            DhcpOption::ServerIdentifier(server),
        ];
        ask(&request(BOARD, MessageType::Request, options))
    };
    let kind =
        |reply: Option<(Message, SocketAddrV4)>| reply.map(|(m, _)| m.opts().msg_type().unwrap());
    assert_eq!(kind(requested(ADDRESS, SERVER)), Some(MessageType::Ack));
    let other = Ipv4Addr::new(192, 168, 7, 99);
    let (denied, _) = requested(other, SERVER).unwrap();
    assert_eq!(denied.opts().msg_type(), Some(MessageType::Nak));
    assert_eq!(denied.yiaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(kind(requested(ADDRESS, other)), None);
    // A renewal: the client has the address, and is answered there.
    let mut renewal = request(BOARD, MessageType::Request, vec![]);
    renewal.set_ciaddr(ADDRESS);
    let (granted, to) = ask(&renewal).unwrap();
    assert_eq!(granted.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(to, SocketAddrV4::new(ADDRESS, 68));
    renewal.set_flags(Flags::default().set_broadcast());
    assert_eq!(*ask(&renewal).unwrap().1.ip(), Ipv4Addr::BROADCAST);
    // Through a relay.
    let mut relayed = request(BOARD, MessageType::Discover, vec![]);
    relayed.set_giaddr(Ipv4Addr::new(192, 168, 7, 254));
    assert_eq!(
        ask(&relayed).unwrap().1,
        "192.168.7.254:67".parse().unwrap()
    );
    // INFORM is answered without a lease.
    let (inform, _) = ask(&request(BOARD, MessageType::Inform, vec![])).unwrap();
    assert_eq!(inform.yiaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(inform.opts().get(OptionCode::AddressLeaseTime), None);
}

#[test]
fn strangers_boards_without_an_address_and_releases_get_no_answer() {
    assert!(ask(&request([2, 9, 9, 9, 9, 9], MessageType::Discover, vec![])).is_none());
    let without = [2, 0, 0x5e, 0x10, 0, 2];
    assert!(ask(&request(without, MessageType::Discover, vec![])).is_none());
    assert!(ask(&request(BOARD, MessageType::Release, vec![])).is_none());
    assert!(ask(&request(BOARD, MessageType::Decline, vec![])).is_none());
    let mut reply = request(BOARD, MessageType::Offer, vec![]);
    reply.set_opcode(Opcode::BootReply);
    assert!(ask(&reply).is_none());
}

#[test]
fn every_cut_and_every_length_byte_is_survived() {
    let whole = request(BOARD, MessageType::Discover, vec![])
        .to_vec()
        .unwrap();
    let lab = lab();
    for length in 0..whole.len() {
        let answered = matches!(answer(&whole[..length], &lab), Ok(Some(_)));
        // Without the fixed fields and the magic (RFC 2131, section 2) it is no message.
        assert!(length >= 240 || !answered, "{length} bytes");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 6, 7, 16, 17, 127, 255] {
            let mut packet = whole.clone();
            packet[at] = value;
            let answered = matches!(answer(&packet, &lab), Ok(Some(_)));
            // Another hardware address is another board.
            let is_ours = !(28..34).contains(&at) || value == whole[at];
            assert!(is_ours || !answered, "byte {at} is {value}");
        }
    }
}

#[test]
fn options_that_make_a_decoder_panic_are_passed_over() {
    let whole = request(BOARD, MessageType::Discover, vec![])
        .to_vec()
        .unwrap();
    // Right behind the magic cookie: a time without its four bytes, a route with a prefix of 200 bits, a status
    // without its code.
    for option in [&[153, 0][..], &[121, 5, 200, 1, 2, 3, 4], &[151, 0]] {
        let packet = [&whole[..240], option, &whole[240..]].concat();
        assert!(answer(&packet, &lab()).unwrap().is_some(), "{option:?}");
    }
}

#[test]
fn a_refusal_through_a_relay_is_to_be_broadcast() {
    let wrong = DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 168, 7, 99));
    let mut message = request(BOARD, MessageType::Request, vec![wrong]);
    message.set_giaddr(Ipv4Addr::new(192, 168, 7, 2));
    let (nak, to) = ask(&message).unwrap();
    assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
    assert!(nak.flags().broadcast());
    assert_eq!(to, "192.168.7.2:67".parse().unwrap());
}

/// RFC 3046: unchanged, and the last option of all.
#[test]
fn what_a_relay_added_comes_back_last() {
    let mut whole = request(BOARD, MessageType::Discover, vec![])
        .to_vec()
        .unwrap();
    while whole.last() == Some(&0) {
        whole.pop();
    }
    assert_eq!(whole.pop(), Some(255));
    let added = [82, 9, 1, 3, b'e', b't', b'h', 2, 2, 0, 0xff];
    whole.extend(added);
    whole.push(255);
    let reply = answer(&whole, &lab()).unwrap().unwrap();
    let end = reply.packet.iter().rposition(|&byte| byte == 255).unwrap();
    assert_eq!(reply.packet[end - added.len()..end], added);
    assert!(reply.packet[end + 1..].iter().all(|&byte| byte == 0));
    let without = ask(&request(BOARD, MessageType::Discover, vec![]))
        .unwrap()
        .0;
    assert!(
        without
            .opts()
            .get(OptionCode::RelayAgentInformation)
            .is_none()
    );
}

/// A forged request must not make the server send to hosts of other networks.
#[test]
fn nothing_is_sent_outside_the_lab_s_network() {
    let elsewhere = Ipv4Addr::new(198, 51, 100, 1);
    let mut relayed = request(BOARD, MessageType::Discover, vec![]);
    relayed.set_giaddr(elsewhere);
    assert!(ask(&relayed).is_none());
    let mut renewal = request(BOARD, MessageType::Inform, vec![]);
    renewal.set_ciaddr(elsewhere);
    let (_, to) = ask(&renewal).unwrap();
    assert_eq!(to, "255.255.255.255:68".parse().unwrap());
}

/// Nor to an address that is many hosts', or the server's own, which would answer itself.
#[test]
fn addresses_that_are_no_host_s_get_no_answer() {
    for address in [
        SERVER,
        Ipv4Addr::new(192, 168, 7, 255),
        Ipv4Addr::new(192, 168, 7, 0),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(127, 0, 0, 1),
        Ipv4Addr::BROADCAST,
    ] {
        let mut relayed = request(BOARD, MessageType::Discover, vec![]);
        relayed.set_giaddr(address);
        assert!(ask(&relayed).is_none(), "giaddr {address}");
        let mut renewal = request(BOARD, MessageType::Inform, vec![]);
        renewal.set_ciaddr(address);
        assert!(ask(&renewal).is_none(), "ciaddr {address}");
    }
}

/// The smallest requests that are answered at all, and a lab that has much to say.
#[test]
fn an_answer_is_less_than_three_times_its_request() {
    let mut lab = lab();
    let dns = |number: u8| Ipv4Addr::new(192, 168, 7, number);
    for servers in [0, 10, 60, 120] {
        lab.settings.dhcp.as_mut().unwrap().dns = (0..servers).map(dns).collect();
        for length in 241..320 {
            let whole = request(BOARD, MessageType::Discover, vec![])
                .to_vec()
                .unwrap();
            let mut packet = whole.clone();
            packet.resize(length, 0);
            if let Some(reply) = answer(&packet, &lab).unwrap() {
                assert!(reply.packet.len() < 3 * length, "{servers}: {length}");
            }
        }
    }
}
