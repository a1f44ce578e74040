//! The DHCP server on arbitrary packets: no panic.
#![no_main]

use std::sync::LazyLock;

use hearth::netboot::dhcp;
use hearth::recipe::LoadedLab;
use libfuzzer_sys::fuzz_target;

const LAB: &str = "[lab]\nname = \"desk\"\naddress = \"192.168.7.1\"\nrecipe = \"trixie-armhf\"\n\
    [lab.dhcp]\ninterface = \"eth1\"\nnetwork = \"192.168.7.0/24\"\n\
    [[board]]\nname = \"neo1\"\ntype = \"nanopi-neo\"\nmac = \"02:00:5e:10:00:02\"\naddress = \"192.168.7.21\"\n\
    console = { driver = \"qemu\" }\npower = { driver = \"qemu\" }\n";

static LOADED: LazyLock<LoadedLab> = LazyLock::new(|| {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), LAB).unwrap();
    LoadedLab::load(file.path()).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    let _ = dhcp::answer(bytes, &LOADED);
    // From the board that it knows: a request that is well begun.
    let mut packet = vec![1, 1, 6, 0];
    packet.resize(28, 0);
    packet.extend([2, 0, 0x5e, 0x10, 0, 2]);
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99]);
    packet.extend(bytes);
    let _ = dhcp::answer(&packet, &LOADED);
});
