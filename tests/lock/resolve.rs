//! Which version is newer, by dpkg, and which packages are chosen, by APT.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use hearth::archive::{
    Cache, Fetcher, Limits, Mirrors, Policy, Request, base_set, load_index, resolve, version,
};
use hearth::progress::NoProgress;
use hearth::recipe::{Lock, RecipeFile};

use crate::{lock, now};
use common::archive::Archive;
use common::{fail, oracle, repository, succeed};

#[test]
fn versions_are_ordered_as_dpkg_orders_them() {
    let dpkg = |a: &str, operator: &str, b: &str| {
        oracle("dpkg")
            .args(["--compare-versions", a, operator, b])
            .status()
            .unwrap()
            .success()
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..3000 {
        let a = random.version();
        let b = if random.below(3) == 0 {
            random.version()
        } else {
            random.mutation(&a)
        };
        let operator = match version::compare(&a, &b) {
            std::cmp::Ordering::Less => "lt",
            std::cmp::Ordering::Equal => "eq",
            std::cmp::Ordering::Greater => "gt",
        };
        assert!(dpkg(&a, operator, &b), "not {a} {operator} {b}");
    }
}

/// Marsaglia's xorshift: the same versions on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn one_of(&mut self, from: &[&str]) -> String {
        from[self.below(from.len())].to_string()
    }

    /// A valid version: an epoch at times, an upstream version that begins with a digit, a revision at times.
    fn version(&mut self) -> String {
        let mut text = self.one_of(&["", "", "", "0:", "1:", "12:"]);
        text += &self.one_of(&["0", "1", "2", "10", "09", "20240101"]);
        for _ in 0..self.below(5) {
            text += &self.one_of(&[
                ".", "~", "+", "a", "Z", "rc", "ds", "0", "1", "9", "10", "00", "git", "dfsg", "b",
            ]);
        }
        if self.below(3) > 0 {
            text += &self.one_of(&[
                "-0",
                "-1",
                "-1+b1",
                "-0ubuntu1",
                "-2~bpo12+1",
                "-1.1",
                "-a-1",
                "-1+deb13u2",
            ]);
        }
        text
    }

    fn mutation(&mut self, version: &str) -> String {
        let at = version.find(':').map_or(1, |colon| colon + 2);
        let at = at + self.below(version.len() - at + 1);
        let insert = self.one_of(&["~", "0", "1", "a", ".", "+"]);
        format!("{}{insert}{}", &version[..at], &version[at..])
    }
}

/// Package sets that a board might be given, some of them large, some with many alternatives.
const SETS: [&[&str]; 24] = [
    &[],
    &["python3"],
    &["gcc", "perl"],
    &["build-essential", "git"],
    &["nginx"],
    &["apache2", "libapache2-mod-php"],
    &["mariadb-server"],
    &["postgresql"],
    &["default-jre-headless"],
    &["network-manager", "modemmanager"],
    &["exim4"],
    &["postfix", "mailutils"],
    &["docker.io"],
    &["emacs-nox"],
    &["vim", "tmux", "htop"],
    &["xserver-xorg", "openbox", "xterm"],
    &["lightdm", "xfce4"],
    &["gstreamer1.0-tools", "gstreamer1.0-plugins-good"],
    &["qemu-system-arm"],
    &["ruby-full", "nodejs"],
    &["texlive-latex-base"],
    &["samba", "cups"],
    &["weston"],
    &[
        "initramfs-tools",
        "linux-image-armmp",
        "u-boot-tools",
        "device-tree-compiler",
    ],
];

/// An APT with a root, a state and a configuration of its own, pointed at the mirror that hearth uses.
struct Apt {
    root: tempfile::TempDir,
}

impl Apt {
    fn new(suites: &[String], components: &[String], arch: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "lists/partial",
            "archives/partial",
            "log",
        ] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let mirrors = Mirrors::find(None, None);
        let sources: String = suites
            .iter()
            .map(|suite| {
                let mirror = mirrors.of_suite(suite).unwrap();
                format!(
                    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} {}\n",
                    components.join(" ")
                )
            })
            .collect();
        fs::write(root.path().join("etc/apt/sources.list"), sources).unwrap();
        fs::write(root.path().join("status"), "").unwrap();
        let path = root.path().display();
        let settings = format!(
            "Dir \"{path}\"; Dir::Etc::main \"{path}/none\"; Dir::Etc::parts \"{path}/etc/apt/apt.conf.d\";\n\
             Dir::State \"{path}\"; Dir::State::lists \"{path}/lists\"; Dir::State::status \"{path}/status\";\n\
             Dir::Cache \"{path}\"; Dir::Log \"{path}/log\"; Debug::NoLocking \"1\";\n\
             APT::Architecture \"{arch}\"; APT::Architectures {{ \"{arch}\"; }};\n\
             APT::Install-Recommends \"false\"; Acquire::Languages \"none\"; APT::Sandbox::User \"\";\n"
        );
        fs::write(root.path().join("apt.conf"), settings).unwrap();
        let apt = Apt { root };
        succeed(apt.get().args(["update", "-qq"]));
        apt
    }

    fn get(&self) -> Command {
        let mut apt = oracle("apt-get");
        apt.env("APT_CONFIG", self.root.path().join("apt.conf"));
        apt
    }

    /// `name=version` of all that would be installed.
    fn installs(&self, packages: &[String], recommends: bool) -> BTreeSet<String> {
        let option = format!("APT::Install-Recommends={recommends}");
        let mut apt = self.get();
        let output = succeed(apt.args(["-s", "install", "-o", &option]).args(packages));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("Inst "))
            .map(|line| {
                let (name, rest) = line.split_once(" (").unwrap();
                format!("{name}={}", rest.split(' ').next().unwrap())
            })
            .collect()
    }
}

#[test]
fn the_shipped_locks_and_many_other_sets_are_what_apt_installs() {
    for name in ["trixie-armhf", "bookworm-armhf", "trixie-arm64"] {
        let recipe = repository().join(format!("recipes/{name}.toml"));
        let file = RecipeFile::open(recipe.to_str().unwrap()).unwrap();
        let archive = &file.recipe.archive;
        let arch = file.recipe.arch.debian();
        let apt = Apt::new(&archive.suites, &archive.components, arch);
        let fetcher = Fetcher::new(
            Cache::default(),
            Mirrors::find(None, None),
            Limits::default(),
        );
        let policy = Policy {
            now: now(),
            allow_expired: false,
        };
        let index = load_index(&fetcher, &file, policy, &NoProgress).unwrap();
        let plain = Request {
            arch: arch.into(),
            ..Request::default()
        };
        let base = base_set(&index, &plain);
        let mut shipped: Vec<&str> = file.recipe.kernel.iter().map(String::as_str).collect();
        shipped.extend(file.recipe.packages.iter().map(String::as_str));
        let others = if name == "trixie-armhf" {
            &SETS[..]
        } else {
            &SETS[..4]
        };
        let mut sets: Vec<(&[&str], bool)> = others.iter().map(|set| (*set, false)).collect();
        sets.extend([(&shipped[..], false), (&shipped[..], true)]);
        for (set, recommends) in sets {
            let mut roots = base.clone();
            roots.extend(set.iter().map(ToString::to_string));
            let expected = apt.installs(&roots, recommends);
            let request = Request {
                roots,
                recommends,
                ..plain.clone()
            };
            let chosen = resolve(&index, &request).unwrap_or_else(|e| panic!("{set:?}: {e:?}"));
            let chosen: BTreeSet<String> = chosen
                .into_iter()
                .map(|id| &index.packages[id])
                .map(|package| format!("{}={}", package.name, package.version))
                .collect();
            let surplus: Vec<_> = chosen.difference(&expected).collect();
            let missing: Vec<_> = expected.difference(&chosen).collect();
            assert!(
                surplus.is_empty() && missing.is_empty(),
                "{name} {set:?} {recommends}: of {} packages, too many: {surplus:?}, too few: {missing:?}",
                expected.len()
            );
        }
    }
}

#[test]
fn alternatives_provides_and_conflicts_are_respected() {
    let mut archive = Archive::new();
    archive.add(
        "app",
        "1",
        "Depends: first | second, virtual (>= 2), any:any",
        10,
    );
    archive.add("first", "1", "Depends: enemy-of-friend", 10);
    archive.add("enemy-of-friend", "1", "Conflicts: friend-api", 10);
    archive.add("second", "1", "", 10);
    archive.add("friend", "1", "Provides: friend-api", 10);
    archive.add("old", "1", "Provides: virtual (= 1)", 10);
    archive.add("unversioned", "1", "Provides: virtual", 10);
    archive.add("new", "1", "Provides: virtual (= 2)", 10);
    archive.add("any", "1", "Multi-Arch: allowed", 10);
    archive.publish();
    let recipe = archive.recipe(&["friend", "app"]);
    succeed(&mut lock(&archive, &recipe, &archive.address()));
    let lock = Lock::load(&recipe.with_extension("lock")).unwrap();
    let names: Vec<(&str, bool)> = lock
        .packages
        .iter()
        .map(|package| (package.name.as_str(), package.auto))
        .collect();
    assert_eq!(
        names,
        [
            ("any", true),
            ("app", false),
            ("base", false),
            ("friend", false),
            ("new", true),
            ("second", true)
        ]
    );
}

#[test]
fn what_cannot_be_satisfied_is_explained() {
    let mut archive = Archive::new();
    archive.add("app", "1", "Depends: lib (>= 1)", 10);
    archive.add("lib", "2", "Depends: gone (>= 3) | older (>= 5)", 10);
    archive.add("older", "4", "", 10);
    archive.add("peace", "1", "Depends: dove", 10);
    archive.add("dove", "1", "", 10);
    archive.add("war", "1", "Depends: hawk", 10);
    archive.add("hawk", "1", "Breaks: dove (<< 2)", 10);
    archive.publish();
    let attempt = |packages: &[&str], says: &str| {
        let recipe = archive.recipe(packages);
        fail(&mut lock(&archive, &recipe, &archive.address()), 2, says);
        assert!(!recipe.with_extension("lock").exists());
    };
    attempt(
        &["app"],
        "app needs lib (>= 1)\n  lib needs gone (>= 3) | older (>= 5), which no suite has, but there is 4",
    );
    attempt(
        &["peace", "war"],
        "war needs hawk\n  hawk conflicts with dove\n  peace needs dove",
    );
    attempt(&["base", "appp"], "test.toml:3:21");
}
