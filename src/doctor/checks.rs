//! Owns the checks, their order, and the remedy for each.
//! Never reads the host except through a probe.

use std::io::ErrorKind;

use super::check::{Check, State};
use super::probe::{Account, Endpoint, Probe};
use crate::error::help_of;
use crate::recipe::{Arch, Ports};

/// Free space that a build needs, in bytes: an image with its stages takes about as much.
const NEEDED_SPACE: u64 = 4 << 30;

/// Runs all checks: building first, then serving, then boards.
pub fn examine(probe: &dyn Probe, ports: &Ports) -> Vec<Check> {
    let account = probe.account();
    let mut checks = vec![kernel(probe)];
    checks.extend(ids(probe, &account));
    checks.push(user_namespaces(probe));
    checks.push(sandbox(probe));
    for arch in [Arch::Armhf, Arch::Arm64] {
        checks.push(foreign(probe, arch));
    }
    checks.push(keyring(probe));
    checks.push(mirror(probe));
    checks.push(space(probe));
    checks.extend(emulators(probe));
    checks.extend(listening(probe, ports));
    checks.push(firewall(probe, ports));
    checks.push(groups(&account));
    checks.push(serial(probe));
    checks.push(cards(probe));
    checks
}

/// Whether a host may build images and boot emulated boards: nothing is [`State::Missing`].
pub fn is_able(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.state != State::Missing)
}

fn kernel(probe: &dyn Probe) -> Check {
    let release = probe.kernel();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || {
        numbers
            .next()
            .and_then(|n| n.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let version = (number(), number());
    let found = format!("Linux {release}");
    if version >= (6, 7) {
        Check::good("kernel", found)
    } else if version >= (5, 11) {
        Check::limited(
            "kernel",
            format!("{found} has no binfmt_misc of one's own"),
            "Linux 6.7 or newer has; with this one the host's registration of qemu-user serves: \
             install qemu-user-static",
        )
    } else {
        Check::missing(
            "kernel",
            format!("{found} has no overlayfs for ordinary users"),
            "use Linux 6.7 or newer, such as Debian 13's",
        )
    }
}

/// The programs that map subordinate ids for an ordinary user; root needs neither.
fn ids(probe: &dyn Probe, account: &Account) -> Vec<Check> {
    if account.uid == 0 {
        return vec![];
    }
    let programs = ["newuidmap", "newgidmap"];
    let there = programs.iter().all(|name| probe.program(name).is_some());
    let uidmap = if there {
        Check::good("uidmap", "newuidmap and newgidmap are there")
    } else {
        Check::missing(
            "uidmap",
            "newuidmap or newgidmap is missing",
            "as root: `apt-get install uidmap`",
        )
    };
    let ranges = ["/etc/subuid", "/etc/subgid"].map(|file| {
        let text = probe.read(file).unwrap_or_default();
        text.lines().any(|line| {
            let mut fields = line.split(':');
            let owner = fields.next().unwrap_or_default();
            let count = fields.nth(1).and_then(|count| count.parse::<u32>().ok());
            (owner == account.name || owner == account.uid.to_string())
                && count.is_some_and(|count| count >= 65_536)
        })
    });
    let subids = if ranges == [true, true] {
        Check::good("subuid", format!("{} has subordinate ids", account.name))
    } else {
        Check::missing(
            "subuid",
            format!("{} has no 65536 subordinate ids", account.name),
            format!(
                "as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}`",
                account.name
            ),
        )
    };
    vec![uidmap, subids]
}

fn user_namespaces(probe: &dyn Probe) -> Check {
    let name = "namespaces";
    let setting = |path: &str| probe.read(path).map(|text| text.trim().to_string());
    let off = |value: Option<String>, wrong: &str| value.as_deref() == Some(wrong);
    if off(setting("/proc/sys/user/max_user_namespaces"), "0") {
        return Check::missing(
            name,
            "user namespaces are switched off",
            "as root: `sysctl -w user.max_user_namespaces=15000`",
        );
    }
    if off(setting("/proc/sys/kernel/unprivileged_userns_clone"), "0") {
        return Check::missing(
            name,
            "user namespaces are for root only",
            "as root: `sysctl -w kernel.unprivileged_userns_clone=1`",
        );
    }
    if off(
        setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        "1",
    ) {
        return Check::limited(
            name,
            "AppArmor may keep programs from using user namespaces",
            "if the next check fails, as root: \
             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        );
    }
    Check::good(name, "user namespaces are allowed")
}

fn sandbox(probe: &dyn Probe) -> Check {
    match probe.sandbox(None) {
        Ok(()) => Check::good("sandbox", "namespaces and an overlay were made"),
        Err(error) => told("sandbox", &error),
    }
}

fn foreign(probe: &dyn Probe, arch: Arch) -> Check {
    let name = match arch {
        Arch::Arm64 => "run arm64",
        _ => "run armhf",
    };
    match probe.sandbox(Some(arch)) {
        Ok(()) => Check::good(name, format!("{arch} programs can run in the sandbox")),
        Err(error) => told(name, &error),
    }
}

/// A failed trial as a check, with the message that a build would give.
fn told(name: &'static str, error: &anyhow::Error) -> Check {
    let remedy = help_of(error).unwrap_or("see the checks above");
    Check::missing(name, format!("{error:#}"), remedy)
}

fn keyring(probe: &dyn Probe) -> Check {
    let keyrings =
        ["gpg", "pgp"].map(|suffix| format!("/usr/share/keyrings/debian-archive-keyring.{suffix}"));
    match keyrings.iter().find(|path| probe.exists(path)) {
        Some(path) => Check::good("keyring", path.clone()),
        None => Check::missing(
            "keyring",
            "Debian's archive keyring is missing",
            "as root: `apt-get install debian-archive-keyring`; or name another one in the recipe",
        ),
    }
}

fn mirror(probe: &dyn Probe) -> Check {
    if probe.mirror() {
        Check::good("mirror", "a Debian mirror is known")
    } else {
        Check::missing(
            "mirror",
            "no Debian mirror is known",
            "set HEARTH_MIRROR to a mirror's address",
        )
    }
}

fn space(probe: &dyn Probe) -> Check {
    let Some((place, free)) = probe.free_space() else {
        return Check::limited("space", "the free space is unknown", "set HEARTH_CACHE");
    };
    let found = format!(
        "{:.1} GiB free for {}",
        free as f64 / f64::from(1 << 30),
        place.display()
    );
    if free >= NEEDED_SPACE {
        Check::good("space", found)
    } else {
        Check::limited(
            "space",
            found,
            "an image with its stages takes up to 4 GiB: set HEARTH_CACHE to a larger disk",
        )
    }
}

fn emulators(probe: &dyn Probe) -> Vec<Check> {
    [
        ("emulate arm", "qemu-system-arm"),
        ("emulate arm64", "qemu-system-aarch64"),
    ]
    .map(|(name, program)| match probe.program(program) {
        Some(path) => Check::good(name, path.display().to_string()),
        None => Check::limited(
            name,
            format!("{program} is missing: no emulated boards"),
            "as root: `apt-get install qemu-system-arm`",
        ),
    })
    .into()
}

/// The ports of `hearth serve`.
fn listening(probe: &dyn Probe, ports: &Ports) -> Vec<Check> {
    let mut wanted = vec![
        ("TFTP", Endpoint::Udp(ports.tftp)),
        ("NFS", Endpoint::Tcp(ports.nfs)),
        ("portmap", Endpoint::Tcp(ports.portmap)),
        ("HTTP", Endpoint::Tcp(ports.http)),
    ];
    wanted.retain(|(_, endpoint)| !matches!(endpoint, Endpoint::Tcp(0) | Endpoint::Udp(0)));
    wanted
        .into_iter()
        .map(|(service, endpoint)| port(probe, service, endpoint))
        .collect()
}

fn port(probe: &dyn Probe, service: &str, endpoint: Endpoint) -> Check {
    let (number, protocol) = match endpoint {
        Endpoint::Tcp(number) => (number, "tcp"),
        Endpoint::Udp(number) => (number, "udp"),
    };
    let shown = format!("{service}, {protocol} port {number}");
    let own_ports = "another port under [lab.ports]";
    match probe.listen(endpoint) {
        Ok(()) => Check::good("port", format!("{shown}: free")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Check::limited(
            "port",
            format!("{shown}: for privileged programs only"),
            format!(
                "as root: `sysctl -w net.ipv4.ip_unprivileged_port_start={}`; or {own_ports}",
                number.min(69)
            ),
        ),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::limited(
            "port",
            format!("{shown}: taken"),
            format!("see who has it: ss -lnp | grep :{number}; stop that, or use {own_ports}"),
        ),
        Err(error) => Check::limited(
            "port",
            format!("{shown}: {error}"),
            format!("use {own_ports} of lab.toml"),
        ),
    }
}

fn firewall(probe: &dyn Probe, ports: &Ports) -> Check {
    let is_ufw_on = probe
        .read("/etc/ufw/ufw.conf")
        .is_some_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
    let open: Vec<String> = [
        (ports.tftp, "udp"),
        (ports.nfs, "tcp"),
        (ports.mount, "tcp"),
        (ports.portmap, "tcp"),
        (ports.http, "tcp"),
    ]
    .iter()
    .filter(|(port, _)| *port != 0)
    .map(|(port, protocol)| format!("{port}/{protocol}"))
    .collect();
    if is_ufw_on {
        Check::limited(
            "firewall",
            "ufw is on: boards may be unable to reach this host",
            format!(
                "for the boards' network interface, as root: `ufw allow in on IFACE`; or only {}",
                open.join(", ")
            ),
        )
    } else if probe.exists("/run/firewalld") {
        Check::limited(
            "firewall",
            "firewalld is on: boards may be unable to reach this host",
            "as root: `firewall-cmd --zone=trusted --change-interface=IFACE`, with the boards' interface",
        )
    } else {
        Check::good("firewall", "neither ufw nor firewalld is on")
    }
}

/// The groups that own serial ports, other USB devices, and cards.
fn groups(account: &Account) -> Check {
    let lacking: Vec<&str> = ["dialout", "plugdev", "disk"]
        .into_iter()
        .filter(|group| account.uid != 0 && !account.groups.iter().any(|g| g == group))
        .collect();
    if lacking.is_empty() {
        return Check::good(
            "groups",
            format!("{} may use serial lines and cards", account.name),
        );
    }
    Check::limited(
        "groups",
        format!(
            "{} is not in {}: no serial lines (dialout), power switches (plugdev), cards (disk)",
            account.name,
            lacking.join(", ")
        ),
        format!(
            "as root: `usermod -aG {} {}`; then log in again",
            lacking.join(","),
            account.name
        ),
    )
}

fn serial(probe: &dyn Probe) -> Check {
    let mut devices = probe.names("/dev/serial/by-id");
    if devices.is_empty() {
        devices = probe.names("/dev");
        devices.retain(|name| name.starts_with("ttyUSB") || name.starts_with("ttyACM"));
    }
    Check::good(
        "serial",
        list_or(&devices, "no USB serial device is plugged in"),
    )
}

fn cards(probe: &dyn Probe) -> Check {
    Check::good("cards", list_or(&probe.cards(), "no card is in a reader"))
}

fn list_or(items: &[String], none: &str) -> String {
    if items.is_empty() {
        none.to_string()
    } else {
        items.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use std::collections::BTreeMap;
    use std::io;
    use std::path::PathBuf;

    /// A simulated host.
    struct Made {
        kernel: &'static str,
        account: Account,
        programs: Vec<&'static str>,
        files: BTreeMap<&'static str, &'static str>,
        taken: Vec<u16>,
        privileged: bool,
        qemu: bool,
    }

    impl Made {
        /// A Debian 13 with everything installed, seen by an ordinary user.
        fn good() -> Self {
            Made {
                kernel: "6.12.48+deb13-amd64",
                account: Account {
                    name: "carol".into(),
                    uid: 1000,
                    groups: ["carol", "dialout", "plugdev", "disk"]
                        .map(String::from)
                        .into(),
                },
                programs: vec![
                    "newuidmap",
                    "newgidmap",
                    "qemu-system-arm",
                    "qemu-system-aarch64",
                ],
                files: BTreeMap::from([
                    ("/etc/subuid", "carol:100000:65536\n"),
                    ("/etc/subgid", "carol:100000:65536\n"),
                    ("/usr/share/keyrings/debian-archive-keyring.gpg", ""),
                ]),
                taken: vec![],
                privileged: true,
                qemu: true,
            }
        }

        fn examine(&self) -> Vec<Check> {
            examine(self, &Ports::default())
        }

        /// The remedies of the one check that is not good.
        fn complaint(&self, name: &str) -> Check {
            let mut bad = self.examine();
            bad.retain(|check| check.state != State::Good);
            assert!(bad.iter().all(|check| check.name == name), "{bad:?}");
            bad.remove(0)
        }
    }

    impl Probe for Made {
        fn kernel(&self) -> String {
            self.kernel.into()
        }
        fn account(&self) -> Account {
            self.account.clone()
        }
        fn program(&self, name: &str) -> Option<PathBuf> {
            self.programs
                .contains(&name)
                .then(|| PathBuf::from("/usr/bin").join(name))
        }
        fn read(&self, path: &str) -> Option<String> {
            self.files.get(path).map(ToString::to_string)
        }
        fn exists(&self, path: &str) -> bool {
            self.files.contains_key(path)
        }
        fn names(&self, path: &str) -> Vec<String> {
            let there = path == "/dev" && self.exists("/dev/ttyUSB0");
            if there {
                vec!["null".into(), "ttyUSB0".into()]
            } else {
                vec![]
            }
        }
        fn listen(&self, endpoint: Endpoint) -> io::Result<()> {
            let (Endpoint::Tcp(port) | Endpoint::Udp(port)) = endpoint;
            match port {
                port if self.taken.contains(&port) => Err(ErrorKind::AddrInUse.into()),
                port if port < 1024 && !self.privileged => Err(ErrorKind::PermissionDenied.into()),
                _ => Ok(()),
            }
        }
        fn sandbox(&self, arch: Option<Arch>) -> anyhow::Result<()> {
            if arch.is_some() && !self.qemu {
                return Err(Fault::host("no qemu-arm")
                    .remedy("install qemu-user-static")
                    .into());
            }
            Ok(())
        }
        fn cards(&self) -> Vec<String> {
            vec![]
        }
        fn free_space(&self) -> Option<(PathBuf, u64)> {
            Some(("/home/carol/.cache/hearth".into(), 50 << 30))
        }
        fn mirror(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_host_with_everything_has_nothing_to_remedy() {
        let checks = Made::good().examine();
        assert!(
            checks.iter().all(|check| check.state == State::Good),
            "{checks:?}"
        );
        assert!(is_able(&checks));
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let mut host = Made::good();
        host.programs.retain(|name| *name != "newgidmap");
        assert_eq!(
            host.complaint("uidmap").remedy.unwrap(),
            "as root: `apt-get install uidmap`"
        );
        assert!(!is_able(&host.examine()));

        let mut host = Made::good();
        host.files
            .insert("/etc/subgid", "carol:100000:1000\ndave:200000:65536\n");
        assert!(
            host.complaint("subuid")
                .remedy
                .unwrap()
                .contains("--add-subgids")
        );

        let mut host = Made::good();
        host.qemu = false;
        let found = host.examine();
        let missing: Vec<_> = found.iter().filter(|c| c.state == State::Missing).collect();
        assert_eq!(missing.len(), 2);
        assert_eq!(
            missing[0].remedy.as_deref(),
            Some("install qemu-user-static")
        );

        let mut host = Made::good();
        host.files
            .insert("/proc/sys/user/max_user_namespaces", "0\n");
        assert!(
            host.complaint("namespaces")
                .remedy
                .unwrap()
                .contains("user.max_user_namespaces")
        );

        let mut host = Made::good();
        host.files.clear();
        host.account.uid = 0;
        assert_eq!(host.complaint("keyring").state, State::Missing);
    }

    #[test]
    fn what_only_limits_does_not_fail_the_host() {
        let mut host = Made::good();
        host.taken = vec![2049];
        assert!(
            host.complaint("port")
                .found
                .contains("NFS, tcp port 2049: taken")
        );
        assert!(is_able(&host.examine()));

        let mut host = Made::good();
        host.privileged = false;
        let remedy = host.complaint("port").remedy.unwrap();
        assert!(remedy.contains("ip_unprivileged_port_start=69"), "{remedy}");

        let mut host = Made::good();
        host.account.groups = vec!["carol".into(), "dialout".into()];
        assert!(
            host.complaint("groups")
                .remedy
                .unwrap()
                .contains("usermod -aG plugdev,disk carol")
        );

        let mut host = Made::good();
        host.files
            .insert("/etc/ufw/ufw.conf", "# on\nENABLED=yes\n");
        assert!(
            host.complaint("firewall")
                .remedy
                .unwrap()
                .contains("69/udp")
        );

        let mut host = Made::good();
        host.kernel = "6.1.0-40-amd64";
        assert!(host.complaint("kernel").remedy.unwrap().contains("6.7"));
    }
}
