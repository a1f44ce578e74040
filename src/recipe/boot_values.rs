//! Owns which values a board's boot script gets of the board, its type and its lab.
//! Never renders: see `uboot`.

use super::board_type::LoadAddresses;
use super::lab::LabSettings;
use super::lab_file::Board;
use crate::uboot::values::{Addresses, ImagePaths, TFTP_PORT, Values, kernel_argument};

/// The values of one board. Without an image id the variables about the image are undefined, which suits
/// scripts that need none, such as the card's.
pub fn boot_values(board: &Board, lab: &LabSettings, image: Option<&str>) -> Values {
    let board_type = &board.board_type;
    Values {
        board: board.name.clone(),
        board_type: board.type_name.clone(),
        lab: lab.name.clone(),
        mac: board.mac.to_string(),
        server: lab.address,
        tftp_port: Some(lab.ports.tftp).filter(|port| *port != TFTP_PORT),
        nfs_port: lab.ports.nfs,
        mount_port: lab.ports.mount,
        http_port: lab.ports.http,
        script: format!("boards/{}/boot.scr.uimg", board.name),
        image: image.map(|id| ImagePaths::new(id, board_type.device_tree.as_deref())),
        fdtfile: board_type.device_tree.clone(),
        boot_command: board_type.image.boot_command(),
        console: board_type.console.clone(),
        kernel_arguments: board_type.kernel_arguments.clone(),
        usb_network: board_type.usb_network,
        addresses: board_type.addresses.map(addresses),
        partition: 2,
        values: board
            .values
            .iter()
            .map(|(key, value)| (key.clone(), kernel_argument(value)))
            .collect(),
    }
}

fn addresses(addresses: LoadAddresses) -> Addresses {
    let hex = |address: u64| format!("{address:#x}");
    Addresses {
        kernel: hex(addresses.kernel),
        ramdisk: hex(addresses.ramdisk),
        fdt: hex(addresses.fdt),
        script: hex(addresses.script),
    }
}
