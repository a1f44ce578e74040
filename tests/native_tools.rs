//! What native tools cannot do for maintainer scripts, and what is done then: the image has the bytes of one that was built
//! with all programs emulated. Needs user namespaces, qemu-user and a mirror.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use common::{fail, hearth, pack, run, succeed};
use hearth::recipe::{Lock, Role};
use hearth::rootfs::Manifest;
use hearth::rootfs::index::Image;

/// A recipe in a directory of its own.
fn recipe(name: &str, arch: &str, suite: &str, more: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("native-tools")
        .join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{name}.toml"));
    let text = format!(
        "description = \"a test\"\narch = \"{arch}\"\n{more}\n[archive]\nsuites = [\"{suite}\"]\n"
    );
    fs::write(&path, text).unwrap();
    path
}

/// Builds with these words as well; gives what was said, and where the output is.
fn build(recipe: &Path, words: &[&str]) -> (String, PathBuf) {
    let out = recipe.with_extension(format!("out{}", words.concat()));
    let mut command = hearth();
    command.args(["-v", "build"]).args(words).arg(recipe);
    let output = succeed(command.arg("-o").arg(&out));
    (said(&output), out)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn image_of(out: &Path) -> String {
    Manifest::load(out).unwrap().artifacts["rootfs.tar"]
        .sha256
        .clone()
}

fn read(out: &Path, path: &str) -> String {
    let image = Image::open(&out.join("rootfs.tar")).unwrap();
    let found = image.find(path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(image.read(found.number).unwrap()).unwrap()
}

#[test]
fn scripts_whose_perl_loads_compiled_modules_are_native_if_the_lock_has_these_and_emulated_if_not()
{
    let words = "packages = [\"dictionaries-common\", \"wamerican\"]";
    let path = recipe("dictionaries", "armhf", "trixie", words);
    let (native, out) = build(&path, &[]);
    assert!(!native.contains("trying again"), "{native}");
    let default = read(&out, "var/cache/dictionaries-common/wordlist-default");
    assert!(default.contains("american"), "{default}");

    // As a lock of an earlier hearth, or a module of the recipe's own.
    let lock = path.with_extension("lock");
    let mut without = Lock::load(&lock).unwrap();
    let before = without.packages.len();
    let is_twin = |role, name: &str| role == Role::Tool && name == "libtext-iconv-perl";
    (without.packages).retain(|package| !is_twin(package.role, &package.name));
    assert_eq!(without.packages.len(), before - 1);
    without.save(&lock).unwrap();
    let (emulated, again) = build(&path, &["--locked"]);
    let reason = "scripts in Perl are emulated, which takes longer: the lock has no native libtext-iconv-perl";
    assert!(emulated.contains(reason), "{emulated}");
    assert!(!emulated.contains("trying again"), "{emulated}");
    assert_eq!(image_of(&out), image_of(&again));
}

/// Packs a package whose script adds a group of its name and then does `script`.
fn package(directory: &Path, name: &str, depends: &str, script: &str) {
    let tree = directory.join(name);
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nDepends: passwd, {depends}\nMaintainer: x\n\
         Description: x\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let postinst = tree.join("DEBIAN/postinst");
    let text = format!("#!/bin/sh\nset -e\ngroupadd --system {name}\n{script}\n");
    fs::write(&postinst, text).unwrap();
    fs::set_permissions(&postinst, fs::Permissions::from_mode(0o755)).unwrap();
    pack(&tree, &directory.join(format!("{name}.deb")));
}

const TELL: &str = "perl -MConfig -e 'print qq($Config{archname}\\n)' >";
const REFUSE: &str = "echo 'I look at Perl'
perl -MConfig -e 'exit($Config{archname} =~ /x86_64/ ? 9 : 0)'";

#[test]
fn a_script_that_fails_natively_is_emulated_alone_in_the_state_that_it_found() {
    let words = "packages = []\ndebs = [\"one.deb\", \"two.deb\", \"three.deb\"]";
    let path = recipe("detour", "armhf", "trixie", words);
    let directory = path.parent().unwrap();
    package(directory, "one", "base-files", &format!("{TELL} /etc/one"));
    // Seen by it: its own programs, and none of the host's.
    let own = format!(
        "{REFUSE}\n{TELL} /etc/two\n! ls /usr/lib/x86_64-linux-gnu/*\ncat /etc/one >> /etc/two"
    );
    package(directory, "two", "one", &own);
    package(directory, "three", "two", &format!("{TELL} /etc/three"));
    let (said, out) = build(&path, &[]);
    for line in [
        "warning: the postinst script of the package two failed",
        "I look at Perl",
        "warning: trying again with emulated scripts of two",
    ] {
        assert!(said.contains(line), "no `{line}` in {said}");
    }
    assert!(!said.contains("without native tools"), "{said}");
    let native = "x86_64-linux-gnu-thread-multi\n";
    assert_eq!(read(&out, "etc/one"), native);
    assert_eq!(read(&out, "etc/three"), native);
    let two = read(&out, "etc/two");
    assert_eq!(
        two,
        format!("arm-linux-gnueabihf-thread-multi-64int\n{native}")
    );
    let groups = read(&out, "etc/group");
    let numbers: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|name| {
            let mut lines = groups.lines();
            let line = lines.find(|line| line.starts_with(&format!("{name}:")));
            let number = line.and_then(|line| line.split(':').nth(2)).unwrap();
            number.parse::<i32>().unwrap()
        })
        .collect();
    // groupadd(8) gives system groups falling numbers: each script ran once, in its order.
    assert_eq!(
        numbers,
        [numbers[0], numbers[0] - 1, numbers[0] - 2],
        "{groups}"
    );
}

/// For `make test-long`.
mod long {
    use super::*;

    /// Popular packages, in sets of a few so that a difference is soon found: Perl's and Python's, servers with a database to
    /// make, editors, dictionaries, what asks debconf, what makes users, keys and caches.
    const POPULAR: [&[&str]; 8] = [
        &[
            "dictionaries-common",
            "wamerican",
            "aspell-en",
            "hunspell-en-us",
            "ispell",
            "man-db",
            "debconf-i18n",
            "sgml-base",
        ],
        &[
            "emacs-nox",
            "vim",
            "git",
            "tmux",
            "screen",
            "htop",
            "strace",
            "gdb",
        ],
        &[
            "mariadb-server",
            "sqlite3",
            "libdbi-perl",
            "libdbd-mysql-perl",
        ],
        &["postgresql", "redis-server", "memcached", "ssl-cert"],
        &[
            "apache2",
            "nginx",
            "php",
            "php-fpm",
            "libapache2-mod-perl2",
            "lighttpd",
        ],
        &[
            "python3-pip",
            "python3-venv",
            "python3-flask",
            "python3-requests",
            "python3-yaml",
            "python3-numpy",
            "ruby",
            "subversion",
            "libxml-parser-perl",
        ],
        &[
            "openssh-server",
            "postfix",
            "bind9",
            "dnsmasq",
            "samba",
            "nfs-kernel-server",
            "avahi-daemon",
            "chrony",
            "snmpd",
            "rsyslog",
            "cron",
            "logrotate",
        ],
        &[
            "network-manager",
            "wpasupplicant",
            "ufw",
            "fail2ban",
            "sudo",
            "locales",
            "console-setup",
            "curl",
            "wget",
            "rsync",
            "lvm2",
            "mdadm",
            "cryptsetup",
            "unattended-upgrades",
            "polkitd",
            "bluez",
            "alsa-utils",
            "fontconfig",
            "libnss-systemd",
        ],
    ];

    fn same_bytes_either_way(number: usize, arch: &str) {
        let packages = POPULAR[number];
        let name = format!("popular-{number}-{arch}");
        let path = recipe(&name, arch, "trixie", &format!("packages = {packages:?}"));
        let begun = Instant::now();
        let (said, native) = build(&path, &[]);
        let took = begun.elapsed();
        let (_, emulated) = build(&path, &["--emulate"]);
        let whole = begun.elapsed() - took;
        println!(
            "{name}: {} s, emulated {} s",
            took.as_secs(),
            whole.as_secs()
        );
        assert!(!said.contains("without native tools"), "{said}");
        if image_of(&native) != image_of(&emulated) {
            let output = run(hearth().arg("diff").arg(&native).arg(&emulated));
            let changes = String::from_utf8(output.stdout).unwrap();
            let explained = |line: &&str| ALWAYS_DIFFERENT.iter().any(|path| line.contains(path));
            let surprises: Vec<&str> = changes.lines().filter(|line| !explained(line)).collect();
            assert!(surprises.is_empty(), "{}", surprises.join("\n"));
            assert!(
                !changes.is_empty(),
                "the images differ in nothing that is told"
            );
        }
    }

    /// What differs between any two builds: a database server gives its files random identifiers and the time.
    const ALWAYS_DIFFERENT: [&str; 2] = [" /var/lib/mysql/", " /var/lib/postgresql/"];

    #[test]
    fn a_script_that_fails_either_way_ends_the_build_without_emulating_everything() {
        let words = "packages = []\ndebs = [\"one.deb\", \"two.deb\"]";
        let path = recipe("either-way", "armhf", "trixie", words);
        let directory = path.parent().unwrap();
        package(directory, "one", "base-files", REFUSE);
        package(
            directory,
            "two",
            "base-files",
            "echo 'I always fail'; exit 7",
        );
        succeed(hearth().arg("lock").arg(&path));
        let mut command = hearth();
        command.args(["build", "--locked"]).arg(&path);
        command.arg("-o").arg(path.with_extension("out"));
        let sentence = "hearth: the postinst script of the package two failed";
        let said = said(&fail(&mut command, 2, sentence));
        assert!(said.contains("    I always fail\n"), "{said}");
        assert!(said.contains("emulated scripts of one, two\n"), "{said}");
        assert_eq!(said.matches("trying again").count(), 1, "{said}");
        assert!(!said.contains("without native tools"), "{said}");
    }

    #[test]
    fn a_script_that_takes_a_native_tool_along_has_everything_emulated() {
        let path = recipe(
            "taken",
            "armhf",
            "trixie",
            "packages = []\ndebs = [\"taker.deb\"]",
        );
        let directory = path.parent().unwrap();
        package(
            directory,
            "taker",
            "base-files",
            "cp /usr/bin/mawk /usr/bin/my-awk",
        );
        let (said, out) = build(&path, &[]);
        for line in [
            "warning: a script has put the host's /usr/bin/my-awk there",
            "warning: trying again without native tools",
        ] {
            assert!(said.contains(line), "no `{line}` in {said}");
        }
        let image = Image::open(&out.join("rootfs.tar")).unwrap();
        let [own, copy] = ["usr/bin/mawk", "usr/bin/my-awk"]
            .map(|path| image.read(image.find(path).unwrap().number).unwrap());
        assert!(own == copy && own.starts_with(b"\x7fELF\x01"));
    }

    #[test]
    fn packages_that_do_not_go_together_are_not_tried_again() {
        let words = "packages = []\ndebs = [\"one.deb\", \"two.deb\"]";
        let path = recipe("same-file", "armhf", "trixie", words);
        let directory = path.parent().unwrap();
        for name in ["one", "two"] {
            let tree = directory.join(name);
            fs::create_dir_all(tree.join("DEBIAN")).unwrap();
            fs::create_dir_all(tree.join("opt")).unwrap();
            fs::write(tree.join("opt/file"), name).unwrap();
            // It is unpacked when scripts have run.
            fs::write(tree.join("DEBIAN/preinst"), "#!/bin/sh\n").unwrap();
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(tree.join("DEBIAN/preinst"), executable).unwrap();
            package(directory, name, "base-files", "");
        }
        succeed(hearth().arg("lock").arg(&path));
        let mut command = hearth();
        command.args(["build", "--locked"]).arg(&path);
        command.arg("-o").arg(path.with_extension("out"));
        let said = said(&fail(&mut command, 2, "both have /opt/file"));
        assert!(!said.contains("trying again"), "{said}");
    }

    #[test]
    fn dictionaries() {
        same_bytes_either_way(0, "armhf");
    }

    #[test]
    fn editors() {
        same_bytes_either_way(1, "armhf");
    }

    #[test]
    fn mariadb() {
        same_bytes_either_way(2, "armhf");
    }

    #[test]
    fn other_databases() {
        same_bytes_either_way(3, "armhf");
    }

    #[test]
    fn web_servers() {
        same_bytes_either_way(4, "armhf");
    }

    #[test]
    fn languages() {
        same_bytes_either_way(5, "armhf");
    }

    #[test]
    fn daemons() {
        same_bytes_either_way(6, "armhf");
    }

    #[test]
    fn networks_and_disks() {
        same_bytes_either_way(7, "armhf");
    }

    #[test]
    fn dictionaries_on_arm64() {
        same_bytes_either_way(0, "arm64");
    }
}
