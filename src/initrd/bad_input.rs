//! Owns the tests of missing parts of an image: each error names the part, its dependent, and the
//! remedy. Tests only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::tarball::{file, tar};
use tempfile::TempDir;

use super::{Options, build};
use crate::error::{Class, class_of, help_of};
use crate::image::index::Image;
use crate::recipe::{Arch, BoardType, Compression, RootKind};

/// `modules.builtin` of the kernels in these tests.
const BUILTIN: &str =
    "kernel/fs/nfs/nfs.ko\nkernel/fs/nfs/nfsv3.ko\nkernel/fs/overlayfs/overlay.ko\n";

fn image(files: &[(&str, &[u8])]) -> (TempDir, Image) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rootfs.tar");
    let entries: Vec<_> = files
        .iter()
        .map(|(name, data)| file(name, 0o755, data).mtime(1))
        .collect();
    std::fs::write(&path, tar(&entries)).unwrap();
    let image = Image::open(&path).unwrap();
    (directory, image)
}

/// The error of a build for a board with this `[initrd]` table: its sentence and its remedy.
fn fault(files: &[(&str, &[u8])], initrd: &str) -> (String, String) {
    let board = format!(
        "description = \"a board\"\narch = \"armhf\"\nconsole = \"ttyS0\"\nimage = \"zImage\"\n[initrd]\n{initrd}\n"
    );
    let board: BoardType = toml::from_str(&board).unwrap();
    let board_types = BTreeMap::from([("my-board".to_string(), board)]);
    let (directory, image) = image(files);
    let out: PathBuf = directory.path().join("initrd.img");
    let options = Options {
        arch: Arch::Armhf,
        board_types: &board_types,
        boards_are_named: true,
        kernel: None,
        device_trees: None,
        modules: &[],
        binaries: &[],
        compression: Compression::Zstd,
        roots: &RootKind::ALL,
    };
    let error = build(&image, &options, &out).unwrap_err();
    assert_eq!(class_of(&error), Class::Input, "{error:#}");
    assert!(!out.exists());
    (
        format!("{error:#}"),
        help_of(&error).unwrap_or_default().to_string(),
    )
}

#[test]
fn a_driver_that_the_kernel_lacks_is_named_with_its_option() {
    let (said, help) = fault(
        &[
            (
                "boot/config-6.1",
                b"CONFIG_RD_ZSTD=y\n# CONFIG_DWMAC_SUN8I is not set\n",
            ),
            ("usr/lib/modules/6.1/modules.builtin", BUILTIN.as_bytes()),
            ("usr/lib/modules/6.1/modules.dep", b""),
        ],
        "modules = [\"dwmac-sun8i\"]",
    );
    assert!(
        said.contains("no module dwmac_sun8i, which the board type my-board asks for")
            && said.contains("CONFIG_DWMAC_SUN8I is not set"),
        "{said}"
    );
    assert!(help.contains("choose a kernel"), "{help}");
}

#[test]
fn an_option_is_found_with_its_words_in_another_order_and_not_made_up_without_a_configuration() {
    let files: [(&str, &[u8]); 3] = [
        ("usr/lib/modules/6.1/modules.builtin", BUILTIN.as_bytes()),
        ("usr/lib/modules/6.1/modules.dep", b""),
        (
            "boot/config-6.1",
            b"CONFIG_RD_ZSTD=y\n# CONFIG_MMC_SUNXI is not set\n",
        ),
    ];
    let (said, _) = fault(&files, "modules = [\"sunxi-mmc\"]");
    assert!(
        said.contains("configuration says `CONFIG_MMC_SUNXI is not set`"),
        "{said}"
    );
    let (said, _) = fault(&files[..2], "modules = [\"sunxi-mmc\"]");
    assert!(
        said.contains("CONFIG_SUNXI_MMC or the like") && said.contains("no boot/config-6.1"),
        "{said}"
    );
}

#[test]
fn a_compression_that_the_kernel_cannot_unpack_is_refused() {
    let (said, help) = fault(
        &[
            ("usr/lib/modules/6.1/modules.builtin", BUILTIN.as_bytes()),
            ("usr/lib/modules/6.1/modules.dep", b""),
            (
                "boot/config-6.1",
                b"CONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\n",
            ),
        ],
        "modules = []",
    );
    assert!(
        said.contains("6.1") && said.contains("CONFIG_RD_ZSTD"),
        "{said}"
    );
    assert!(help.contains("another compression"), "{help}");
}

#[test]
fn a_module_that_is_listed_but_missing_is_named() {
    let (said, help) = fault(
        &[
            ("usr/bin/busybox", &every_applet()),
            ("usr/lib/modules/6.1/modules.builtin", BUILTIN.as_bytes()),
            (
                "usr/lib/modules/6.1/modules.dep",
                b"kernel/drivers/net/a.ko:\n",
            ),
        ],
        "modules = [\"a\"]",
    );
    assert!(
        said.contains("the module a is listed in modules.dep, but /usr/lib/modules/6.1/kernel/drivers/net/a.ko is missing"),
        "{said}"
    );
    assert!(help.contains("depmod"), "{help}");
}

/// A file that contains the names of all applets and needs no libraries.
fn every_applet() -> Vec<u8> {
    let mut data = b"text\0".to_vec();
    for applet in super::native::APPLETS {
        data.extend_from_slice(applet.as_bytes());
        data.push(0);
    }
    data
}

#[test]
fn modules_that_need_each_other_are_named() {
    let (said, _) = fault(
        &[
            ("usr/lib/modules/6.1/modules.builtin", BUILTIN.as_bytes()),
            (
                "usr/lib/modules/6.1/modules.dep",
                b"kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n",
            ),
        ],
        "modules = [\"a\"]",
    );
    assert!(
        said.contains("a") && said.contains("b") && said.contains("loop"),
        "{said}"
    );
}

#[test]
fn a_library_that_is_not_found_is_named_with_who_needs_it() {
    let own = std::fs::read("/proc/self/exe").unwrap();
    let interpreter = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    let (said, _) = fault(
        &[
            ("usr/bin/busybox", &own),
            (interpreter[0], b"text"),
            (interpreter[1], b"text"),
            ("usr/lib/modules/6.1/modules.builtin", BUILTIN.as_bytes()),
            ("usr/lib/modules/6.1/modules.dep", b""),
        ],
        "modules = []",
    );
    assert!(
        said.contains(".so") && said.contains("usr/bin/busybox"),
        "{said}"
    );
}

#[test]
fn an_image_without_a_kernel_says_so() {
    let (said, _) = fault(&[("etc/hostname", b"x\n")], "modules = []");
    assert!(said.contains("no kernel"), "{said}");
}
