//! Owns what maintainer scripts generate that must be unique to each board: private keys and
//! identities.
//! Never touches files of packages or of the recipe.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::dpkg;
use super::package::below_usr;
use super::tree::{Attributes, Kind, Tree};

/// Paths not searched: what is emptied later, and dpkg's copies of scripts, which may contain a
/// key.
const SKIPPED: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "var/lib/dpkg"];
/// Larger files are no keys.
const LARGEST: i64 = 1 << 20;
const UNITS: &str = "usr/lib/systemd/system";

/// Files of a package that a board generates when it boots without them.
struct Remade {
    /// Their paths; the last component may have one `*`, which matches any characters.
    path: &'static str,
    unit: &'static str,
    text: &'static str,
    /// Units that need the files; the generating unit is ordered before them.
    wanting: &'static [&'static str],
    /// The program that generates them; without it there is no unit.
    program: &'static str,
}

const REMADE: [Remade; 4] = [
    Remade {
        path: "etc/ssl/private/ssl-cert-snakeoil.key",
        unit: "hearth-ssl-cert.service",
        // Before the servers that use it, which start after the network.
        text: "[Unit]\n\
            Description=Make the self-signed certificate that this board does not have yet\n\
            ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key\n\
            Before=network.target\n\
            \n\
            [Service]\n\
            Type=oneshot\n\
            ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil\n\
            RemainAfterExit=yes\n",
        wanting: &["multi-user.target"],
        program: "usr/sbin/make-ssl-cert",
    },
    Remade {
        path: "etc/dropbear/dropbear_*_host_key",
        unit: "hearth-dropbear-host-keys.service",
        // One key type is enough, as for ssh.
        text: "[Unit]\n\
            Description=Make the dropbear host key that this board does not have yet\n\
            ConditionPathExistsGlob=!/etc/dropbear/dropbear_*_host_key\n\
            Before=dropbear.service\n\
            \n\
            [Service]\n\
            Type=oneshot\n\
            ExecStart=/usr/bin/dropbearkey -t ed25519 -f /etc/dropbear/dropbear_ed25519_host_key\n\
            RemainAfterExit=yes\n",
        wanting: &["dropbear.service"],
        program: "usr/bin/dropbearkey",
    },
    Remade {
        path: "etc/bind/rndc.key",
        unit: "hearth-rndc-key.service",
        text: "[Unit]\n\
            Description=Make the rndc key that this board does not have yet\n\
            ConditionPathExists=!/etc/bind/rndc.key\n\
            Before=named.service\n\
            \n\
            [Service]\n\
            Type=oneshot\n\
            ExecStart=/usr/sbin/rndc-confgen -a -u bind\n\
            RemainAfterExit=yes\n",
        wanting: &["named.service"],
        program: "usr/sbin/rndc-confgen",
    },
    Remade {
        path: "etc/nvme/host*",
        unit: "hearth-nvme-host.service",
        text: "[Unit]\n\
            Description=Make the NVMe host names that this board does not have yet\n\
            ConditionPathExists=!/etc/nvme/hostnqn\n\
            Before=network.target\n\
            \n\
            [Service]\n\
            Type=oneshot\n\
            ExecStart=/bin/sh -c 'nvme gen-hostnqn >/etc/nvme/hostnqn; cat /proc/sys/kernel/random/uuid >/etc/nvme/hostid'\n\
            RemainAfterExit=yes\n",
        wanting: &["multi-user.target"],
        program: "usr/sbin/nvme",
    },
];

impl Remade {
    fn is(&self, path: &Path) -> bool {
        let Some(path) = path.to_str() else {
            return false;
        };
        match self.path.split_once('*') {
            Some((before, after)) => path
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|middle| !middle.contains('/') && !middle.ends_with(".pub")),
            None => path == self.path,
        }
    }
}

/// Removes private keys that no package contains, with their public halves. If their package can
/// generate them, a unit does so when the board boots. Returns a warning for each that is not at or
/// below one of the paths in `brought`, where the recipe puts another.
///
/// # Errors
/// If the image cannot be read or changed.
pub fn leave_out(tree: &mut Tree, brought: &[&Path], epoch: i64) -> Result<Vec<String>> {
    let made = Unlisted::find(tree).context("cannot look for private keys in the image")?;
    let boots_systemd = tree.kind(Path::new("usr/lib/systemd/systemd")).is_some();
    let mut units = BTreeSet::new();
    let mut told = Vec::new();
    for path in &made.files {
        let known = REMADE.iter().position(|remade| remade.is(path));
        if known.is_none() && !is_named_as_key(tree, path)? && !holds_key(tree, path)? {
            continue;
        }
        let known = known.filter(|known| {
            boots_systemd && tree.kind(Path::new(REMADE[*known].program)).is_some()
        });
        for gone in made.companions(tree, path)?.iter().chain([path]) {
            tree.remove_file(gone)
                .with_context(|| format!("cannot leave /{} out of the image", gone.display()))?;
        }
        if is_brought(path, brought) {
            continue;
        }
        let fate = match known {
            Some(known) => {
                units.insert(known);
                format!("{} makes the board's own when it boots", REMADE[known].unit)
            }
            None => "boards have none unless a [[file]] of the recipe brings it or it is made \
                     on the board"
                .into(),
        };
        told.push(format!(
            "/{}, which a package's script made and all boards would share, is left out of the \
             image; {fate}",
            path.display()
        ));
    }
    for unit in units {
        install(tree, &REMADE[unit], epoch)?;
    }
    Ok(told)
}

fn install(tree: &mut Tree, remade: &Remade, epoch: i64) -> Result<()> {
    let unit = Path::new(UNITS).join(remade.unit);
    tree.write(&unit, 0o644, remade.text.as_bytes(), epoch)?;
    for wanting in remade.wanting {
        let link = Path::new(UNITS)
            .join(format!("{wanting}.wants"))
            .join(remade.unit);
        let attributes = Attributes {
            uid: 0,
            gid: 0,
            mode: 0o777,
            mtime: epoch,
        };
        tree.replace_with_symlink(&link, &Path::new("..").join(remade.unit), attributes)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    Ok(())
}

/// Removes the ssh host keys that are not at or below one of the paths in `brought`: boards
/// generate their own.
pub fn remove_ssh_host_keys(tree: &mut Tree, brought: &[&Path]) -> Result<()> {
    let directory = Path::new("etc/ssh");
    if tree.kind(directory) != Some(Kind::Directory) {
        return Ok(());
    }
    for name in tree.list(directory)? {
        let path = directory.join(&name);
        let is_key = name
            .to_str()
            .is_some_and(|name| name.starts_with("ssh_host_"));
        if is_key && !is_brought(&path, brought) {
            tree.remove_all(&path)?;
        }
    }
    Ok(())
}

/// Whether the recipe puts a file at `path`, which is relative; the paths in `brought` are
/// absolute.
fn is_brought(path: &Path, brought: &[&Path]) -> bool {
    let path = Path::new("/").join(path);
    brought.iter().any(|brought| path.starts_with(brought))
}

/// Files of an image that are in no package's list.
#[derive(Default)]
struct Unlisted {
    /// Those small enough to be a key.
    files: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
}

impl Unlisted {
    fn find(tree: &mut Tree) -> Result<Self> {
        let claims = dpkg::claims(tree)?;
        let mut found = Unlisted::default();
        let mut left = vec![PathBuf::new()];
        while let Some(directory) = left.pop() {
            for name in tree.list(&directory)? {
                let path = directory.join(name);
                match tree.kind(&path) {
                    Some(Kind::Directory) if SKIPPED.iter().all(|skip| path != Path::new(skip)) => {
                        left.push(path);
                    }
                    Some(Kind::File)
                        if !claims.hold_file(&below_usr(&path))
                            && (1..=LARGEST).contains(&tree.stat(&path)?.st_size) =>
                    {
                        found.files.insert(path);
                    }
                    Some(Kind::Link) if !claims.hold_file(&below_usr(&path)) => {
                        found.links.insert(path);
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Files that are useless without a key: the certificate or public key of the same name, in the
    /// same directory or in the `certs` next to its `private`, and the hash links to it that
    /// `openssl rehash` made.
    fn companions(&self, tree: &mut Tree, key: &Path) -> Result<Vec<PathBuf>> {
        let directory = key.parent().unwrap_or(Path::new(""));
        let mut places = vec![directory.to_path_buf()];
        if directory.file_name() == Some(OsStr::new("private")) {
            places.push(directory.with_file_name("certs"));
        }
        let mut found = Vec::new();
        for file in &self.files {
            let is_beside = places.iter().any(|place| file.parent() == Some(place));
            let is_alike =
                file.file_stem() == key.file_stem() || file.file_stem() == key.file_name();
            if file != key && is_beside && is_alike && is_public(tree, file)? {
                found.push(file.clone());
            }
        }
        for link in &self.links {
            let points_to = |file: &PathBuf| {
                file.parent() == link.parent()
                    && tree.link_target(link).as_deref() == file.file_name().map(Path::new)
            };
            if is_hash(link) && found.clone().iter().any(points_to) {
                found.push(link.clone());
            }
        }
        Ok(found)
    }
}

/// Whether a name has the form of `openssl rehash`: `ce275665.0`.
fn is_hash(link: &Path) -> bool {
    let name = link.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|c| c.is_ascii_hexdigit())
            && number.trim_start_matches('r').parse::<u32>().is_ok()
    })
}

/// Whether a file has the name of a secret without a known format: a seed, Erlang's cookie, a
/// Kerberos keytab, or any key that is not world-readable, such as munge's.
fn is_named_as_key(tree: &mut Tree, path: &Path) -> Result<bool> {
    const NAMES: [&str; 4] = [
        ".erlang.cookie",
        "krb5.keytab",
        "random-seed",
        "random_seed",
    ];
    let is_listed = path
        .file_name()
        .is_some_and(|name| NAMES.iter().any(|listed| name == *listed));
    let is_key = path.extension() == Some(OsStr::new("key"));
    Ok(is_listed || is_key && tree.stat(path)?.st_mode & 0o007 == 0)
}

fn holds_key(tree: &mut Tree, path: &Path) -> Result<bool> {
    Ok(tree.read(path)?.is_some_and(|data| is_private_key(&data)))
}

fn is_public(tree: &mut Tree, path: &Path) -> Result<bool> {
    const MARKS: [&[u8]; 3] = [
        b"-----BEGIN CERTIFICATE",
        b"-----BEGIN PUBLIC KEY",
        b"-----BEGIN RSA PUBLIC KEY",
    ];
    if path.extension() == Some(OsStr::new("pub")) {
        return Ok(true);
    }
    let data = tree.read(path)?.unwrap_or_default();
    Ok(lines(&data).any(|line| MARKS.iter().any(|mark| line.starts_with(mark))))
}

fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii_end())
}

/// Whether a file contains a private key or shared secret in a known format.
fn is_private_key(data: &[u8]) -> bool {
    // Compiled files, such as Python's tests, may contain one as a string.
    let is_text = !data.contains(&0);
    match is_text {
        true => lines(data).any(is_key_line),
        false => is_dropbear(data) || is_der(data),
    }
}

/// A line that only occurs in files with a secret: PEM (RFC 7468, OpenSSH, OpenPGP, OpenVPN),
/// PuTTY, BIND's dnssec-keygen, GnuPG's agent, age and WireGuard.
fn is_key_line(line: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 8] = [
        b"PuTTY-User-Key-File-",
        b"Private-key-format: v",
        b"Key: (private-key",
        b"Key: (protected-private-key",
        b"(11:private-key",
        b"(21:protected-private-key",
        b"AGE-SECRET-KEY-1",
        b"-----BEGIN OpenVPN Static key",
    ];
    let is_pem = line.starts_with(b"-----BEGIN ")
        && (line.ends_with(b"PRIVATE KEY-----") || line.ends_with(b"PRIVATE KEY BLOCK-----"));
    // 32 bytes in base64.
    let is_wireguard = line
        .strip_prefix(b"PrivateKey")
        .map(|rest| rest.trim_ascii_start())
        .and_then(|rest| rest.strip_prefix(b"="))
        .is_some_and(|value| value.trim_ascii().len() == 44 && value.ends_with(b"="));
    is_pem || is_wireguard || BEGINNINGS.iter().any(|mark| line.starts_with(mark))
}

/// Dropbear's format: a string (RFC 4251) with the key's type, then its numbers.
fn is_dropbear(data: &[u8]) -> bool {
    const TYPES: [&[u8]; 4] = [b"ssh-rsa", b"ssh-dss", b"ssh-ed25519", b"ecdsa-sha2-nistp"];
    data.starts_with(&[0, 0, 0])
        && data
            .get(4..)
            .is_some_and(|rest| TYPES.iter().any(|kind| rest.starts_with(kind)))
}

/// DER of PKCS#1 (RFC 8017), SEC 1 (RFC 5915) or PKCS#8 (RFC 5958): one sequence of the file's
/// length that begins with a version, followed by what only keys have.
fn is_der(data: &[u8]) -> bool {
    let (header, length) = match data {
        [0x30, length @ ..=0x7f, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return false,
    };
    if header + length != data.len() {
        return false;
    }
    match &data[header..] {
        // PKCS#8: the algorithm, a sequence that begins with an object identifier.
        [2, 1, 0 | 1, 0x30, _, 6, ..] => true,
        // PKCS#1: the modulus.
        [2, 1, 0, 2, ..] => true,
        // SEC 1: the private number.
        [2, 1, 1, 4, size, ..] => *size >= 20,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    const PEM: &str =
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";

    /// An image with these files, of which a package lists `listed`.
    fn image(files: &[(&str, &[u8])], listed: &str) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let list = ("var/lib/dpkg/info/some.list", listed.as_bytes());
        for (path, data) in files.iter().chain([&list]) {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        }
        let tree = Tree::open(dir.path()).unwrap();
        (dir, tree)
    }

    #[test]
    fn keys_of_programs_are_known() {
        let dir = tempfile::tempdir().unwrap();
        for (number, command) in [
            "ssh-keygen -q -N '' -t ed25519 -f",
            "ssh-keygen -q -N '' -t rsa -m PEM -f",
            "ssh-keygen -q -N secret -t ecdsa -f",
            "openssl genpkey -quiet -algorithm ed25519 -out",
            "openssl genpkey -quiet -algorithm ed25519 -outform DER -out",
            "openssl genpkey -quiet -algorithm RSA -outform DER -out",
            "openssl ecparam -genkey -name prime256v1 -noout -outform DER -out",
            "openssl genrsa -traditional -out",
        ]
        .into_iter()
        .enumerate()
        {
            let key = dir.path().join(number.to_string());
            let script = format!("{command} {}", key.display());
            let made = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert!(made.status.success(), "{command}: {made:?}");
            assert!(is_private_key(&fs::read(&key).unwrap()), "{command}");
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        let dropbear: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x40secret";
        assert!(is_private_key(dropbear));
        assert!(is_private_key(
            b"[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n"
        ));
        for none in [
            &b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"[..],
            b"-----BEGIN PUBLIC KEY-----\nMCow\n",
            b"# as in \"-----BEGIN PRIVATE KEY-----\"\n",
            b"PrivateKey = FILL-IN\n",
            b"\x30\x03\x02\x01\x05",
            // A compiled test that has a key among its strings.
            b"\xa7\r\r\n\0\0\0\0\n-----BEGIN RSA PRIVATE KEY-----\n",
        ] {
            assert!(!is_private_key(none), "{}", none.escape_ascii());
        }
    }

    #[test]
    fn keys_that_no_package_ships_are_left_out_and_made_at_boot() {
        let certificate: &[u8] = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let (dir, mut tree) = image(
            &[
                ("usr/lib/systemd/systemd", b"x"),
                ("usr/sbin/make-ssl-cert", b"x"),
                ("etc/ssl/private/ssl-cert-snakeoil.key", PEM.as_bytes()),
                ("etc/ssl/certs/ssl-cert-snakeoil.pem", certificate),
                ("etc/ssl/certs/ca.pem", certificate),
                ("etc/dropbear/dropbear_rsa_host_key", b"\0\0\0\x07ssh-rsa\0"),
                (
                    "etc/dropbear/dropbear_rsa_host_key.pub",
                    b"ssh-rsa AAAA x\n",
                ),
                ("srv/some/server.key", PEM.as_bytes()),
                ("srv/some/server.crt", certificate),
                ("srv/some/server.conf", b"port = 1\n"),
                ("etc/munge/munge.key", b"\x8e\x01\xff"),
                ("srv/mine/own.key", PEM.as_bytes()),
                ("srv/mine/own.pem", certificate),
                ("srv/public.key", b"\x8e\x01\xff"),
                ("var/lib/rabbitmq/.erlang.cookie", b"ABCDEFGH"),
                ("usr/share/shipped.key", PEM.as_bytes()),
            ],
            "/usr/share/shipped.key\n",
        );
        let munge = dir.path().join("etc/munge/munge.key");
        fs::set_permissions(munge, fs::Permissions::from_mode(0o600)).unwrap();
        let certs = dir.path().join("etc/ssl/certs");
        symlink("ssl-cert-snakeoil.pem", certs.join("ce275665.0")).unwrap();
        symlink("ca.pem", certs.join("ce275666.0")).unwrap();
        fs::create_dir_all(dir.path().join("etc/dovecot")).unwrap();
        let user = dir.path().join("etc/dovecot/dovecot.key");
        symlink("/etc/ssl/private/ssl-cert-snakeoil.key", &user).unwrap();
        let brought = [Path::new("/srv/mine")];
        // Files in the image are root's.
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let told = leave_out(&mut tree, &brought, 1_000_000).unwrap();
        assert_eq!(told.len(), 5, "{told:?}");
        let fates = [
            "boards have none",
            "boards have none",
            "hearth-ssl-cert.service",
            "boards have none",
            "boards have none",
        ];
        for (told, fate) in told.iter().zip(fates) {
            assert!(told.contains(fate), "{told}");
        }
        for gone in [
            "etc/ssl/private/ssl-cert-snakeoil.key",
            "etc/ssl/certs/ssl-cert-snakeoil.pem",
            "etc/ssl/certs/ce275665.0",
            "etc/dropbear/dropbear_rsa_host_key",
            "etc/dropbear/dropbear_rsa_host_key.pub",
            "srv/some/server.key",
            "srv/some/server.crt",
            "srv/mine/own.key",
            "srv/mine/own.pem",
            "etc/munge/munge.key",
            "var/lib/rabbitmq/.erlang.cookie",
            // There is no dropbearkey.
            "usr/lib/systemd/system/hearth-dropbear-host-keys.service",
        ] {
            assert_eq!(tree.kind(Path::new(gone)), None, "{gone}");
        }
        for stays in [
            "etc/ssl/certs/ca.pem",
            "etc/ssl/certs/ce275666.0",
            "etc/dovecot/dovecot.key",
            "srv/some/server.conf",
            "srv/public.key",
            "usr/share/shipped.key",
            "usr/lib/systemd/system/hearth-ssl-cert.service",
            "usr/lib/systemd/system/multi-user.target.wants/hearth-ssl-cert.service",
        ] {
            assert!(tree.kind(Path::new(stays)).is_some(), "{stays}");
        }
    }

    #[test]
    fn ssh_host_keys_of_the_recipe_stay() {
        let (_dir, mut tree) = image(
            &[
                ("etc/ssh/ssh_host_rsa_key", PEM.as_bytes()),
                ("etc/ssh/ssh_host_ed25519_key", PEM.as_bytes()),
                ("etc/ssh/sshd_config", b"x"),
            ],
            "",
        );
        let brought = [Path::new("/etc/ssh/ssh_host_ed25519_key")];
        remove_ssh_host_keys(&mut tree, &brought).unwrap();
        let left = tree.list(Path::new("etc/ssh")).unwrap();
        assert_eq!(left, ["ssh_host_ed25519_key", "sshd_config"]);
    }
}
