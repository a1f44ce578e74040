//! `hearth lock` and the archive client: against dpkg, APT and GnuPG, and against archives and servers that misbehave.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::archive::{Act, Archive, Keys, Server};
use common::{fail, hearth, oracle, repository, succeed};
use hearth::archive::{
    Cache, FetchError, Fetcher, Keyring, Limits, Mirrors, Policy, Request, SignatureError, Wanted,
    base_set, load_index, resolve, version,
};
use hearth::progress::NoProgress;
use hearth::recipe::{Lock, RecipeFile, Role};
use sha2::{Digest, Sha256};

/// For what must happen soon, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Limits under which a stalled server is given up at once.
const IMPATIENT: Limits = Limits {
    connect: Duration::from_secs(5),
    stall: Duration::from_millis(300),
    attempts: 3,
    pause: Duration::from_millis(10),
    parallel: 4,
};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// `hearth lock` of a recipe, with a cache inside the archive's directory.
fn lock(archive: &Archive, recipe: &Path, mirror: &str) -> Command {
    let mut command = hearth();
    command
        .arg("lock")
        .arg(recipe)
        .args(["--mirror", mirror])
        .env("HEARTH_CACHE", archive.path("cache"));
    command
}

fn fetcher(archive: &Archive, mirror: &str, limits: Limits) -> Fetcher {
    Fetcher::new(
        Cache::at(archive.path("cache")),
        Mirrors::find(Some(mirror), None),
        limits,
    )
}

/// An archive with a few packages, its recipe and its lock.
fn locked(sizes: &[usize]) -> (Archive, Lock) {
    let mut archive = Archive::new();
    let names: Vec<String> = (0..sizes.len()).map(|i| format!("p{i}")).collect();
    for (name, size) in names.iter().zip(sizes) {
        archive.add(name, "1", "Depends: base", *size);
    }
    archive.publish();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let recipe = archive.recipe(&names);
    succeed(&mut lock(&archive, &recipe, &archive.address()));
    let lock = Lock::load(&recipe.with_extension("lock")).unwrap();
    (archive, lock)
}

fn contents(paths: &[PathBuf], lock: &Lock) {
    for (path, package) in paths.iter().zip(&lock.packages) {
        let data = fs::read(path).unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(&data)),
            package.sha256,
            "{}",
            package.name
        );
    }
}

// Version order, by dpkg.

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

// Choice, by APT.

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

// Signatures, by GnuPG.

/// What hearth says of a text that these keys sign.
fn judge(
    keys: &Keys,
    options: &[&str],
    at: u64,
    even_expired: bool,
) -> Result<String, SignatureError> {
    let signed = keys.clearsign("Suite: trixie\n- dashed\nlast\n", options);
    let keyring = Keyring::parse(&keys.keyring()).unwrap();
    keyring
        .verify(&signed, at, even_expired)
        .map(|signed| signed.text)
}

#[test]
fn good_signatures_of_gnupg_are_accepted() {
    for algorithm in ["ed25519", "rsa3072"] {
        let keys = Keys::made(None, algorithm, "never");
        let text = judge(&keys, &[], now(), false).unwrap();
        assert_eq!(
            text.trim_end(),
            "Suite: trixie\n- dashed\nlast",
            "{algorithm}"
        );
    }
}

#[test]
fn the_archive_keyring_accepts_what_gpgv_accepts() {
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let ring = Keyring::load(Path::new(keyring)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mirrors = Mirrors::find(None, None);
    for suite in ["trixie", "bookworm", "trixie-updates"] {
        let address = format!(
            "{}/dists/{suite}/InRelease",
            mirrors.of_suite(suite).unwrap()
        );
        let path = dir.path().join(suite);
        succeed(oracle("curl").args(["-sSf", "-o"]).arg(&path).arg(address));
        let gpgv = |path: &Path| {
            oracle("gpgv")
                .arg("-q")
                .args(["--keyring", keyring])
                .arg(path)
                .output()
                .unwrap()
                .status
                .success()
        };
        assert!(gpgv(&path), "{suite}");
        let data = fs::read(&path).unwrap();
        let signed = ring.verify(&data, now(), false).unwrap();
        assert!(signed.text.contains(&format!("\nCodename: {suite}\n")));
        let changed = String::from_utf8(data)
            .unwrap()
            .replacen("Date:", "Dat3:", 1);
        fs::write(&path, &changed).unwrap();
        assert!(!gpgv(&path));
        assert!(matches!(
            ring.verify(changed.as_bytes(), now(), false),
            Err(SignatureError::Tampered)
        ));
    }
}

#[test]
fn signatures_that_do_not_count_are_refused() {
    let keys = Keys::new();
    let weak = judge(
        &keys,
        &["--digest-algo", "SHA1", "--allow-weak-digest-algos"],
        now(),
        false,
    );
    assert!(
        matches!(weak, Err(SignatureError::Unfit { .. })),
        "{weak:?}"
    );

    let other = Keyring::parse(&Keys::new().keyring()).unwrap();
    let signed = keys.clearsign("text\n", &[]);
    let unknown = other.verify(&signed, now(), false);
    assert!(
        matches!(unknown, Err(SignatureError::UnknownKey(_))),
        "{unknown:?}"
    );

    let future = judge(&keys, &[], now() - 10 * 24 * 3600, false);
    assert!(
        matches!(future, Err(SignatureError::Unfit { .. })),
        "{future:?}"
    );

    let keyring = Keyring::parse(&keys.keyring()).unwrap();
    for around in ["Evil: yes\n\n{}", "{}\nEvil: yes\n"] {
        let text = around.replace("{}", std::str::from_utf8(&signed).unwrap());
        let wrapped = keyring.verify(text.as_bytes(), now(), false);
        assert!(
            matches!(wrapped, Err(SignatureError::Malformed(_))),
            "{wrapped:?}"
        );
    }
    for cut in [0, 1, 40, signed.len() / 2, signed.len() - 40] {
        assert!(
            keyring.verify(&signed[..cut], now(), false).is_err(),
            "{cut}"
        );
    }
}

#[test]
fn expired_keys_and_signatures_count_only_when_asked_for() {
    // January 2020, and a subkey that expired a year later.
    let then = 1_577_900_000;
    let mut keys = Keys::made(Some("20200101T000000"), "ed25519", "1y");
    assert!(judge(&keys, &[], then, false).is_ok());
    let expired = judge(&keys, &[], now(), false);
    assert!(
        matches!(expired, Err(SignatureError::Expired { .. })),
        "{expired:?}"
    );
    assert!(judge(&keys, &[], now(), true).is_ok());

    keys = Keys::made(Some("20200101T000000"), "ed25519", "never");
    let options = ["--default-sig-expire", "10d"];
    assert!(judge(&keys, &options, then, false).is_ok());
    let expired = judge(&keys, &options, now(), false);
    assert!(
        matches!(expired, Err(SignatureError::Expired { .. })),
        "{expired:?}"
    );
}

#[test]
fn revoked_keys_are_refused() {
    let keys = Keys::new();
    let signed = keys.clearsign("text\n", &[]);
    let verdict = |keys: &Keys| {
        let keyring = Keyring::parse(&keys.keyring()).unwrap();
        keyring
            .verify(&signed, now(), true)
            .map(|signed| signed.text)
    };
    verdict(&keys).unwrap();
    // GnuPG writes a revocation with every new key, disarmed by a colon.
    let file = format!("openpgp-revocs.d/{}.rev", keys.primary());
    let disarmed = fs::read_to_string(keys.home.path().join(file)).unwrap();
    let armed = keys.home.path().join("armed");
    fs::write(&armed, disarmed.replace(":-----BEGIN", "-----BEGIN")).unwrap();
    keys.gpg(&["--import", armed.to_str().unwrap()]);
    let error = verdict(&keys).unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");

    let keys = Keys::new();
    let signed = keys.clearsign("text\n", &[]);
    let mut edit = keys
        .command()
        .args(["--command-fd", "0", "--edit-key", &keys.primary()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answers = "key 1\nrevkey\ny\n0\n\ny\nsave\n";
    std::io::Write::write_all(edit.stdin.as_mut().unwrap(), answers.as_bytes()).unwrap();
    assert!(edit.wait().unwrap().success());
    let keyring = Keyring::parse(&keys.keyring()).unwrap();
    let error = keyring.verify(&signed, now(), true).unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
}

// Archives that are not what they should be.

#[test]
fn a_tampered_release_or_index_is_refused() {
    let (archive, before) = locked(&[10]);
    let recipe = archive.path("test.toml");
    let release = archive.path("dists/trixie/InRelease");
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, text.replace("Suite: stable", "Suite: stab1e")).unwrap();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "changed after it was signed",
    );

    archive.publish();
    let directory = archive.path("dists/trixie/main/binary-armhf");
    let index = directory.join("Packages.xz");
    let mut data = fs::read(&index).unwrap();
    data[20] ^= 1;
    fs::write(&index, &data).unwrap();
    fs::remove_dir_all(directory.join("by-hash")).unwrap();
    fs::remove_dir_all(archive.path("cache")).unwrap();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "trixie does not fit together",
    );
    assert_eq!(Lock::load(&recipe.with_extension("lock")).unwrap(), before);
}

#[test]
fn an_index_is_found_by_name_where_its_hash_is_not_served() {
    let (archive, _) = locked(&[10]);
    fs::remove_dir_all(archive.path("dists/trixie/main/binary-armhf/by-hash")).unwrap();
    fs::remove_dir_all(archive.path("cache")).unwrap();
    succeed(&mut lock(
        &archive,
        &archive.path("test.toml"),
        &archive.address(),
    ));
}

#[test]
fn an_expired_release_is_refused_unless_asked_for() {
    let (mut archive, _) = locked(&[10]);
    let recipe = archive.path("test.toml");
    archive.set("Valid-Until", "Sat, 19 Sep 2020 07:55:41 UTC");
    archive.publish();
    let output = fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "the release of trixie has expired",
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-expired"));
    succeed(lock(&archive, &recipe, &archive.address()).arg("--allow-expired"));
    archive.set("Codename", "bookworm");
    archive.publish();
    let mut command = lock(&archive, &recipe, &archive.address());
    fail(
        command.arg("--allow-expired"),
        4,
        "another suite in the place of trixie",
    );
}

#[test]
fn a_missing_suite_keyring_or_component_is_named() {
    let (archive, _) = locked(&[10]);
    let recipe = archive.path("test.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    let attempt = |from: &str, to: &str, code: i32, says: &str| {
        fs::write(&recipe, text.replace(from, to)).unwrap();
        fail(&mut lock(&archive, &recipe, &archive.address()), code, says);
    };
    attempt("\"trixie\"", "\"forky\"", 4, "cannot fetch the suite forky");
    attempt("keyring.gpg", "nowhere.gpg", 2, "nowhere.gpg");
    attempt("keyring.gpg", "test.toml", 2, "holds no OpenPGP key");
    attempt(
        "[archive]",
        "[archive]\ncomponents = [\"contrib\"]",
        2,
        "no component contrib",
    );
    attempt("armhf", "arm64", 2, "no packages for arm64");
}

// What a lock keeps, and what it updates.

#[test]
fn locked_versions_stay_until_they_are_updated_or_vanish() {
    let (mut archive, first) = locked(&[10, 10, 10]);
    let recipe = archive.path("test.toml");
    let path = recipe.with_extension("lock");
    let versions = || -> Vec<String> {
        let lock = Lock::load(&path).unwrap();
        lock.packages
            .iter()
            .map(|p| format!("{}={}", p.name, p.version))
            .collect()
    };
    let output = succeed(&mut lock(&archive, &recipe, &archive.address()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is up to date"));

    for name in ["p0", "p1"] {
        archive.add(name, "2", "Depends: base", 10);
    }
    archive.remove("p2");
    archive.add("p2", "2", "Depends: base, extra", 10);
    archive.add("extra", "5", "", 10);
    archive.publish();
    let output = succeed(&mut lock(&archive, &recipe, &archive.address()));
    assert_eq!(versions(), ["base=1", "extra=5", "p0=1", "p1=1", "p2=2"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "extra  -  5\np2     1  2\n"
    );

    let output = succeed(lock(&archive, &recipe, &archive.address()).args(["--update", "p1"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "p1  1  2\n");
    fail(
        lock(&archive, &recipe, &archive.address()).args(["--update", "p11"]),
        2,
        "no package p11 to update",
    );
    succeed(lock(&archive, &recipe, &archive.address()).arg("--update"));
    assert_eq!(versions(), ["base=1", "extra=5", "p0=2", "p1=2", "p2=2"]);
    assert_ne!(Lock::load(&path).unwrap(), first);
}

#[test]
fn a_recipe_that_changed_no_longer_fits_its_lock() {
    let (archive, _) = locked(&[10, 10]);
    let recipe = archive.path("test.toml");
    let open = || RecipeFile::open(recipe.to_str().unwrap()).unwrap();
    open().lock().unwrap();
    archive.recipe(&["p0"]);
    assert!(
        open()
            .lock()
            .unwrap_err()
            .to_string()
            .contains("does not fit the recipe")
    );
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(
        &recipe,
        text.replace("\"p0\"", "\"p0\", \"p1\"")
            .replace("test\"", "other\""),
    )
    .unwrap();
    open().lock().unwrap();
}

#[test]
fn shipped_locks_fit_their_recipes_and_hold_the_bootloaders() {
    for name in ["trixie-armhf", "bookworm-armhf", "trixie-arm64"] {
        let path = repository().join(format!("recipes/{name}.toml"));
        let lock = RecipeFile::open(path.to_str().unwrap())
            .unwrap()
            .lock()
            .unwrap();
        let of_role = |role| lock.packages.iter().filter(move |p| p.role == role);
        assert!(
            of_role(Role::Bootloader).any(|p| p.name == "u-boot-qemu"),
            "{name}"
        );
        assert!(
            of_role(Role::Root).any(|p| p.name == "nfs-common" && !p.auto),
            "{name}"
        );
        assert!(
            of_role(Role::Root).any(|p| p.name == "libc6" && p.auto),
            "{name}"
        );
        assert!(lock.epoch().is_some());
        assert!(
            !lock.to_toml().contains("://"),
            "a mirror's address in the lock of {name}"
        );
    }
}

// Downloads.

#[test]
fn packages_are_fetched_in_parallel_verified_and_kept() {
    let (archive, lock) = locked(&[300_000, 1, 70_000, 65_536, 1_000_000]);
    let server = Server::start(archive.dir.path(), |_, _| Act::Serve);
    let mut fetcher = fetcher(&archive, &server.address, IMPATIENT);
    let paths = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap();
    contents(&paths, &lock);
    assert_eq!(server.requests_for("pool").len(), lock.packages.len());
    fetcher.offline = true;
    let again = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap();
    assert_eq!(paths, again);
    fs::remove_file(&paths[1]).unwrap();
    let error = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(error.to_string().contains("not in the cache"), "{error}");
}

#[test]
fn transfers_that_stall_break_or_are_refused_are_resumed() {
    let (archive, lock) = locked(&[400_000]);
    let whole = archive.path("pool/main/p0_1_armhf.deb");
    type Plan = fn(&str, usize) -> Act;
    let plans: [(Plan, &[usize]); 5] = [
        (
            |_, n| {
                if n == 0 {
                    Act::Stall(100_000)
                } else {
                    Act::Serve
                }
            },
            &[0, 100_000],
        ),
        (
            |_, n| if n < 2 { Act::Cut(100_000) } else { Act::Serve },
            &[0, 100_000, 200_000],
        ),
        (
            |_, n| {
                if n == 0 {
                    Act::Cut(100_000)
                } else {
                    Act::IgnoreRange
                }
            },
            &[0, 100_000],
        ),
        (
            |_, n| if n < 2 { Act::Status(503) } else { Act::Serve },
            &[0, 0, 0],
        ),
        (
            |path, _| {
                if path.starts_with("/pool") {
                    Act::Redirect(format!("/./{path}"))
                } else {
                    Act::Serve
                }
            },
            &[0],
        ),
    ];
    for (number, (plan, offsets)) in plans.into_iter().enumerate() {
        let server = Server::start(archive.dir.path(), plan);
        let mut fetcher = fetcher(&archive, &server.address, IMPATIENT);
        fetcher.cache = Cache::at(archive.path(&format!("cache-{number}")));
        let paths = fetcher
            .packages(&lock, archive.dir.path(), &NoProgress)
            .unwrap();
        contents(&paths, &lock);
        let mut seen = server.requests();
        seen.retain(|request| request.path == "/pool/main/p0_1_armhf.deb");
        let seen: Vec<usize> = seen.iter().map(|request| request.from).collect();
        assert_eq!(seen, offsets, "plan {number}");
    }
    assert!(whole.exists());
}

#[test]
fn a_server_that_never_delivers_is_given_up() {
    let (archive, lock) = locked(&[50_000]);
    for (act, says) in [
        (Act::Stall(0), "stalled"),
        (Act::Cut(0), "cut short"),
        (Act::Status(500), "HTTP status 500"),
        (Act::Status(403), "HTTP status 403"),
        (
            Act::Redirect("/pool/main/p0_1_armhf.deb".into()),
            "redirects without end",
        ),
    ] {
        let server = Server::start(archive.dir.path(), move |_, _| act.clone());
        let fetcher = fetcher(&archive, &server.address, IMPATIENT);
        let error = fetcher
            .packages(&lock, archive.dir.path(), &NoProgress)
            .unwrap_err();
        assert!(format!("{error:#}").contains(says), "{says}: {error:#}");
    }
    // A port that nobody listens on.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let fetcher = fetcher(&archive, &closed, IMPATIENT);
    let error = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("cannot be reached"),
        "{error:#}"
    );
    assert_eq!(
        hearth::error::class_of(&error),
        hearth::error::Class::Infrastructure
    );
}

#[test]
fn a_package_that_is_another_or_gone_is_named() {
    let (archive, lock) = locked(&[5_000]);
    let garbling = Server::start(archive.dir.path(), |_, _| Act::Garble);
    let error = fetcher(&archive, &garbling.address, IMPATIENT)
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        error.to_string().contains("is not what the lock says"),
        "{error}"
    );

    let deb = archive.path("pool/main/p0_1_armhf.deb");
    let data = fs::read(&deb).unwrap();
    for wrong in [&data[..4_000], &[&data[..], b"more"].concat()] {
        fs::write(&deb, wrong).unwrap();
        let error = fetcher(&archive, &archive.address(), IMPATIENT)
            .packages(&lock, archive.dir.path(), &NoProgress)
            .unwrap_err();
        assert!(
            error.to_string().contains("the package p0 1 is not what"),
            "{error}"
        );
    }
    fs::remove_file(&deb).unwrap();
    let error = fetcher(&archive, &archive.address(), IMPATIENT)
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        error.to_string().contains("no longer has the package p0 1"),
        "{error}"
    );
    assert!(
        hearth::error::help_of(&error)
            .unwrap()
            .contains("--update p0")
    );
}

#[test]
fn a_left_over_beginning_of_something_else_does_no_harm() {
    let (archive, lock) = locked(&[50_000]);
    let package = lock
        .packages
        .iter()
        .find(|package| package.name == "p0")
        .unwrap();
    let tmp = archive.path("cache/tmp");
    fs::create_dir_all(&tmp).unwrap();
    for garbage in [b"garbage".to_vec(), vec![7; 50_000], vec![7; 60_000]] {
        fs::write(tmp.join(format!("{}.part", package.sha256)), garbage).unwrap();
        let wanted = Wanted {
            size: package.size,
            sha256: &package.sha256,
        };
        let address = format!("{}/{}", archive.address(), package.path);
        let path = fetcher(&archive, &archive.address(), IMPATIENT)
            .file(&[address], wanted, &|_| ())
            .unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 50_000);
        fs::remove_file(path).unwrap();
    }
    let wanted = Wanted {
        size: 1,
        sha256: &"0".repeat(64),
    };
    let missing = fetcher(&archive, &archive.address(), IMPATIENT).file(
        &[format!("{}/nowhere", archive.address())],
        wanted,
        &|_| (),
    );
    assert!(missing.as_ref().is_err_and(FetchError::is_other_content));
}

#[test]
fn two_processes_download_an_index_once() {
    let mut archive = Archive::new();
    archive.pad(400_000);
    archive.publish();
    let server = Server::start(archive.dir.path(), |path, _| {
        if path.contains("by-hash") {
            Act::Slow(20_000)
        } else {
            Act::Serve
        }
    });
    let recipe = archive.recipe(&["base"]);
    let spawn = || {
        let mut command = lock(&archive, &recipe, &server.address);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for child in [spawn(), spawn()] {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(server.requests_for("by-hash").len(), 1);
}

#[test]
fn a_killed_download_is_resumed() {
    let mut archive = Archive::new();
    archive.pad(400_000);
    archive.publish();
    let server = Server::start(archive.dir.path(), |path, n| {
        if path.contains("by-hash") && n == 0 {
            Act::Slow(10_000)
        } else {
            Act::Serve
        }
    });
    let recipe = archive.recipe(&["base"]);
    let mut child = lock(&archive, &recipe, &server.address)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let parts = || -> u64 {
        let entries = fs::read_dir(archive.path("cache/tmp"))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| entry.metadata().map_or(0, |meta| meta.len()))
            .sum()
    };
    let begun = std::time::Instant::now();
    while parts() < 50_000 {
        assert!(begun.elapsed() < PATIENCE, "the download does not begin");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!recipe.with_extension("lock").exists());
    succeed(&mut lock(&archive, &recipe, &server.address));
    let offsets: Vec<usize> = server
        .requests_for("by-hash")
        .iter()
        .map(|r| r.from)
        .collect();
    assert!(offsets.len() == 2 && offsets[1] >= 50_000, "{offsets:?}");
    assert_eq!(parts(), 0);
}

#[test]
fn a_full_disk_is_told_and_leaves_no_lock() {
    let mut archive = Archive::new();
    archive.pad(400_000);
    archive.publish();
    let recipe = archive.recipe(&["base"]);
    let cache = archive.path("cache");
    fs::create_dir(&cache).unwrap();
    let mut command = oracle("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=200k tmpfs \"$HEARTH_CACHE\" && exec \"$0\" \"$@\"")
        .arg(env!("CARGO_BIN_EXE_hearth"))
        .arg("lock")
        .arg(&recipe)
        .args(["--mirror", &archive.address()])
        .env("HEARTH_CACHE", &cache);
    fail(&mut command, 3, "No space left on device");
    assert!(!recipe.with_extension("lock").exists());
}

// Differences.

#[test]
fn diff_tells_what_differs_between_two_locks() {
    let (archive, first) = locked(&[10]);
    let (old, new) = (archive.path("old.lock"), archive.path("new.lock"));
    first.save(&old).unwrap();
    let mut second = first.clone();
    second.packages[0].version = "2".into();
    second.packages[1].role = Role::Bootloader;
    second.save(&new).unwrap();
    let output = common::run(hearth().arg("diff").arg(&old).arg(&new));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "base             1  2\np0               1  -\np0 (bootloader)  -  1\n"
    );
    assert!(
        succeed(hearth().arg("diff").arg(&old).arg(&old))
            .stdout
            .is_empty()
    );
}

// Local packages.

#[test]
fn local_packages_are_chosen_with_what_they_need() {
    let (mut archive, _) = locked(&[10]);
    archive.add("own", "9", "", 10);
    archive.add("needed", "1", "", 10);
    archive.publish();
    let build = |arch: &str| {
        let tree = archive.path("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: own\nVersion: 2\nArchitecture: {arch}\nMaintainer: T <t@example.org>\nDepends: needed\nDescription: d\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let deb = archive.path("own.deb");
        succeed(
            oracle("dpkg-deb")
                .args(["--root-owner-group", "-b"])
                .arg(&tree)
                .arg(&deb),
        );
    };
    build("armhf");
    let recipe = archive.recipe(&["p0"]);
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(
        &recipe,
        text.replace("[archive]", "debs = [\"own.deb\"]\n[archive]"),
    )
    .unwrap();
    succeed(&mut lock(&archive, &recipe, &archive.address()));
    let written = Lock::load(&recipe.with_extension("lock")).unwrap();
    let own = written
        .packages
        .iter()
        .find(|package| package.name == "own")
        .unwrap();
    assert_eq!(
        (own.version.as_str(), own.local, own.path.as_str()),
        ("2", true, "own.deb")
    );
    assert!(
        written
            .packages
            .iter()
            .any(|package| package.name == "needed" && package.auto)
    );
    let fetcher = fetcher(&archive, &archive.address(), IMPATIENT);
    let paths = fetcher
        .packages(&written, archive.dir.path(), &NoProgress)
        .unwrap();
    contents(&paths, &written);

    build("arm64");
    let error = fetcher
        .packages(&written, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has changed since the recipe was locked"),
        "{error}"
    );
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        2,
        "this package is for arm64",
    );
    fs::write(archive.path("own.deb"), "no package").unwrap();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        2,
        "own.deb",
    );
}
