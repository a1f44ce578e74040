//! The image of a build beside what mmdebstrap makes of the same packages.

use crate::like_small;
use common::small::SMALL;
use common::{hearth, oracle, succeed};
use hearth::image::index::Image;
use std::fs;
use std::path::Path;

/// What an mmdebstrap image of the same packages has otherwise, and why.
const EXPLAINED: [(&str, &str); 30] = [
    (
        "dev/*",
        "mmdebstrap makes device nodes; boards get theirs from devtmpfs",
    ),
    ("etc/.pwd.lock", "a lock of the build"),
    ("etc/apt/sources.list", "hearth names no mirror"),
    ("etc/dpkg/dpkg.cfg.d/*", "each builder's own exclusions"),
    ("etc/fstab", "mmdebstrap writes an empty one"),
    (
        "etc/group*",
        "the order in which scripts make groups, and backups",
    ),
    ("etc/gshadow*", "as etc/group"),
    ("etc/hostname", "mmdebstrap copies the host's"),
    ("etc/hosts", "mmdebstrap writes its own"),
    ("etc/localtime", "hearth sets the time zone"),
    ("etc/locale.conf", "hearth sets the locale"),
    ("etc/default/locale", "hearth sets the locale"),
    ("etc/networks", "mmdebstrap writes its own"),
    ("etc/passwd*", "as etc/group"),
    ("etc/resolv.conf", "mmdebstrap copies the host's"),
    ("etc/shadow*", "as etc/group, and the date of the build"),
    ("run/*", "empty in a hearth image: a tmpfs is mounted there"),
    ("tmp/*", "left by mmdebstrap"),
    ("var/cache/apt/*", "APT was never run in a hearth image"),
    (
        "var/cache/debconf/*",
        "the order in which packages were configured, and backups",
    ),
    ("var/cache/ldconfig/*", "a cache that tells of inodes"),
    (
        "var/lib/apt/*",
        "APT was never run in a hearth image; what is marked automatic differs",
    ),
    (
        "*/.updated",
        "says to systemd that nothing is to be rebuilt at each boot",
    ),
    ("var/lib/dpkg/*-old", "backups"),
    ("var/lib/dpkg/lock*", "locks"),
    (
        "var/lib/dpkg/statoverride",
        "empty in a hearth image; dpkg makes it when it is first needed",
    ),
    (
        "var/lib/dpkg/status",
        "the order in which packages were configured",
    ),
    ("var/lib/dpkg/triggers/*", "locks, and the order of lines"),
    ("var/lib/dpkg/arch-native", "written by mmdebstrap's APT"),
    ("var/log/*", "logs of the build"),
];

fn is_explained(path: &str) -> bool {
    EXPLAINED
        .iter()
        .any(|(pattern, _)| match pattern.split_once('*') {
            None => path == *pattern,
            Some((before, after)) => path.starts_with(before) && path.ends_with(after),
        })
}

/// Registers qemu-arm for mmdebstrap if the host has not, and takes that back.
struct Registered(bool);

impl Registered {
    fn new() -> Self {
        let there = Path::new("/proc/sys/fs/binfmt_misc/qemu-arm").exists();
        if !there {
            succeed(oracle("sh").args([
                "-c",
                "mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
                 cat /usr/lib/binfmt.d/qemu-arm.conf > /proc/sys/fs/binfmt_misc/register",
            ]));
        }
        Registered(!there)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.0 {
            let _ = fs::write("/proc/sys/fs/binfmt_misc/qemu-arm", "-1");
        }
    }
}

#[test]
fn the_tree_is_that_of_mmdebstrap_but_for_what_is_explained() {
    // Without what the recipe adds: the packages alone.
    let directory = like_small("peer");
    let plain = SMALL.split("[strip]").next().unwrap();
    fs::write(directory.join("small.toml"), plain).unwrap();
    let out = directory.join("out");
    succeed(
        hearth()
            .args(["build", "--locked", "--offline"])
            .arg(directory.join("small.toml"))
            .arg("-o")
            .arg(&out),
    );
    let mirror = succeed(oracle("sh").args([
        "-c",
        "echo \"${HEARTH_MIRROR:-$(grep -hs ^URIs /etc/apt/sources.list.d/*.sources | head -1 | cut -d' ' -f2)}\"",
    ]));
    let mirror = String::from_utf8(mirror.stdout).unwrap().trim().to_string();
    let _registered = Registered::new();
    let peer = directory.join("peer.tar");
    succeed(
        oracle("mmdebstrap")
            .args([
                "--quiet",
                "--arch=armhf",
                "--variant=required",
                "--mode=root",
            ])
            .arg("--include=apt,iputils-ping,systemd-sysv")
            .arg("trixie")
            .arg(&peer)
            .arg(format!("deb {mirror} trixie main")),
    );
    let (ours, theirs) = (
        Image::open(&out.join("rootfs.tar")).unwrap(),
        Image::open(&peer).unwrap(),
    );
    let packages = hearth::image::diff::packages(&ours, &theirs).unwrap();
    assert_eq!(packages, [], "the sets of packages");
    let surprises: Vec<String> = hearth::image::diff::files(&ours, &theirs)
        .unwrap()
        .into_iter()
        .filter_map(|change| {
            let path = change.path.trim_start_matches('/').to_string();
            let what = match change.what {
                hearth::image::diff::What::Changed(what) => what
                    .into_iter()
                    .filter(|what| !what.starts_with("time "))
                    .collect::<Vec<_>>(),
                other => vec![format!("{other:?}")],
            };
            (!what.is_empty() && !is_explained(&path))
                .then(|| format!("{path}: {}", what.join(", ")))
        })
        .collect();
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}
