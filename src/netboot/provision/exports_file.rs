//! Owns the exports file of kernel nfsd: exports(5) of nfs-utils.
//! Never runs exportfs.

use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Fault;

/// The options of a read-only NFS root, each with its reason, in the order written.
const OPTIONS: [(&str, &str); 6] = [
    ("ro", "no board can change the master image"),
    (
        "no_root_squash",
        "root on a board reads files that only root may, such as /etc/shadow",
    ),
    (
        "no_subtree_check",
        "a whole directory is exported; checking each file costs time and breaks handles",
    ),
    (
        "insecure",
        "U-Boot, and boards behind NAT (emulated ones too), come from ports above 1023",
    ),
    (
        "insecure_locks",
        "also called no_auth_nlm: a lock request without credentials is granted, as early \
         user space sends them",
    ),
    (
        "fsid=…",
        "made from the image id: file handles stay valid when the server or its disk is replaced",
    ),
];

/// The text of an exports file: exports the versions, by image id, to the hosts. `directory` is
/// absolute.
///
/// # Errors
/// If a host is not valid in exports(5).
pub fn exports(directory: &Path, versions: &[String], hosts: &[String]) -> Result<String, Fault> {
    for host in hosts {
        check_host(host)?;
    }
    let mut text = String::from(
        "# Master images for boards, by hearth provision, which writes this file anew.\n\
         # To take effect: exportfs -ra\n#\n",
    );
    // Writing to a string cannot fail.
    for (option, purpose) in OPTIONS {
        let _ = writeln!(text, "# {option:17} {purpose}");
    }
    text.push('\n');
    for version in versions {
        let path = escape(&directory.join(version));
        let fsid = fsid(version);
        text.push_str(&path);
        for host in hosts {
            let _ = write!(
                text,
                " \\\n    {host}(ro,no_root_squash,no_subtree_check,insecure,insecure_locks,fsid={fsid})"
            );
        }
        text.push('\n');
    }
    Ok(text)
}

/// The paths in an exports file or nfsd's `etab`.
pub fn exported_paths(text: &str) -> Vec<PathBuf> {
    let joined = text.replace("\\\n", " ");
    joined
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let path = match line.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => line.split_whitespace().next(),
            };
            path.filter(|path| path.starts_with('/')).map(unescape)
        })
        .collect()
}

/// Checks that it is a host name, an address or a network; wildcards and netgroups are left to
/// hand-written files.
fn check_host(host: &str) -> Result<(), Fault> {
    let (address, prefix) = host.split_once('/').unwrap_or((host, ""));
    let prefix_is_sound = if host.contains('/') {
        prefix.parse::<u8>().is_ok_and(|bits| {
            address.parse::<std::net::Ipv4Addr>().is_ok() && bits <= 32
                || address.parse::<std::net::Ipv6Addr>().is_ok() && bits <= 128
        })
    } else {
        true
    };
    let is_name = !address.is_empty()
        && !address.starts_with('-')
        && address
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'_'));
    if is_name && prefix_is_sound {
        return Ok(());
    }
    Err(Fault::input(format!(
        "`{host}` is neither a host nor a network such as 192.168.7.0/24"
    )))
}

/// A UUID derived from the image id, the same on every server.
fn fsid(version: &str) -> String {
    let digest = hex::encode(Sha256::digest(format!("hearth export {version}")));
    [
        &digest[..8],
        &digest[8..12],
        &digest[12..16],
        &digest[16..20],
        &digest[20..32],
    ]
    .join("-")
}

/// Escapes a path for exports(5): spaces and special characters as a backslash and three octal
/// digits.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'#') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}

fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_whatever_is_in_them() {
        let directory = Path::new("/srv/my lab/\"x\"#\\\u{e9}");
        let hosts = ["10.0.0.0/8".to_string(), "fd00::/8".to_string()];
        let text = exports(directory, &["a-1".into(), "b-2".into()], &hosts).unwrap();
        assert_eq!(
            exported_paths(&text),
            [directory.join("a-1"), directory.join("b-2")]
        );
        assert_eq!(
            exported_paths("\"/srv/a b\" *(ro)\n# /x\n/c\t*\n"),
            [PathBuf::from("/srv/a b"), "/c".into()]
        );
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let good = ["192.168.7.0/24", "neo1.lab", "fe80::1", "10.1.2.3"];
        assert!(exports(Path::new("/srv"), &[], &good.map(String::from)).is_ok());
        for wrong in [
            "",
            "*",
            "a b",
            "x(rw)",
            "10.0.0.0/33",
            "host/24",
            "-x",
            "10.0.0.0/",
        ] {
            assert!(
                exports(Path::new("/srv"), &[], &[wrong.into()]).is_err(),
                "{wrong}"
            );
        }
    }
}
