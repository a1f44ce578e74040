//! Owns the values that the boot scripts of one board get: the variables of the templates.
//! Never renders.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;

/// TFTP's default port (RFC 1350, section 4).
pub const TFTP_PORT: u16 = 69;

/// Variables of a boot script's template. An absent field is an undefined variable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Values {
    pub board: String,
    pub board_type: String,
    pub lab: String,
    /// `02:00:5e:10:00:01`.
    pub mac: String,
    /// The lab's address as the boards see it.
    pub server: Ipv4Addr,
    /// Absent (and false in an `{{#if}}`) for TFTP's default port, 69.
    pub tftp_port: Option<u16>,
    pub nfs_port: u16,
    pub mount_port: u16,
    pub http_port: u16,
    /// Path of the board's own script on the TFTP server.
    pub script: String,
    #[serde(flatten)]
    pub image: Option<ImagePaths>,
    /// The device tree's path below `dtb/`; null if the kernel gets U-Boot's own.
    pub fdtfile: Option<String>,
    /// `bootz`, `booti` or `bootm`.
    pub boot_command: &'static str,
    pub console: String,
    pub kernel_arguments: Vec<String>,
    pub usb_network: bool,
    /// Null if U-Boot's own addresses are used.
    pub addresses: Option<Addresses>,
    /// For the `local` script: the number of the partition it boots from.
    pub partition: u8,
    /// The board's `values`, each quoted for a kernel command line.
    pub values: BTreeMap<String, String>,
}

/// Paths of a master image's boot artifacts on the TFTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImagePaths {
    /// The image id.
    pub image: String,
    /// The NFS server's path: `/<image id>`, unless a server exports directories.
    pub nfs_path: String,
    pub kernel: String,
    /// The plain initrd, for extlinux.
    pub initrd: String,
    /// The initrd as a uImage, for scripts.
    pub uinitrd: String,
    /// Null if the kernel gets U-Boot's own tree.
    pub fdt: Option<String>,
}

/// Load addresses in U-Boot's notation: `0x42000000`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    pub kernel: String,
    pub ramdisk: String,
    pub fdt: String,
    pub script: String,
}

impl ImagePaths {
    /// The paths of the image with this id.
    pub fn new(id: &str, device_tree: Option<&str>) -> ImagePaths {
        let below = |name: &str| format!("images/{id}/{name}");
        ImagePaths {
            image: id.to_string(),
            nfs_path: format!("/{id}"),
            kernel: below("vmlinuz"),
            initrd: below("initrd.img"),
            uinitrd: below("uInitrd"),
            fdt: device_tree.map(|tree| below(&format!("dtb/{tree}"))),
        }
    }
}

/// Puts a value with spaces in double quotes, as on a kernel command line (Linux,
/// Documentation/admin-guide/kernel-parameters.rst).
pub fn kernel_argument(value: &str) -> String {
    if value.contains(' ') {
        format!("\"{value}\"")
    } else {
        value.to_string()
    }
}
