//! Tests of what a definition asks apt for: `install.keys` and `install.sources`, by LAVA's helpers. apt judges.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{Collector, Definition, JobSettings, Loaded, Loader, Trust, payload};

const PACKAGES: &str = "Package: hearth-of-another-source\nVersion: 1\nArchitecture: all\n\
    Filename: ./x.deb\nSize: 1\nMaintainer: nobody <nobody@localhost>\nDescription: x\n\n";

/// A definition's outcome, in an apt of its own below `own`: whether it knows the package, and what was printed.
fn knows_the_package(own: &Path, install: &str) -> (bool, String) {
    let job = tempfile::tempdir_in(own).unwrap();
    let text = format!(
        "metadata: {{format: Lava-Test Test Definition 1.0, name: t}}\ninstall: {install}\nrun:\n  steps:\n    \
         - lava-test-case known --shell apt-cache show hearth-of-another-source\n"
    );
    let (definition, warnings) = Definition::parse(Path::new("t.yaml"), &text).unwrap();
    let loaded = Loaded {
        definition,
        source: "t.yaml".into(),
        name: None,
        file: "t.yaml".into(),
        tree: None,
        warnings,
        clone: None,
    };
    let settings = JobSettings {
        parameters: Vec::new(),
        trust: Trust::Remote,
        board_type: "qemu-virt-arm".into(),
    };
    let mut tar = Vec::new();
    payload(&mut tar, &[loaded], &mut Loader::default(), &settings).unwrap();
    tar::Archive::new(tar.as_slice())
        .unpack(job.path())
        .unwrap();
    let apt = job.path().join("apt");
    for directory in [
        "etc/sources.list.d",
        "etc/trusted.gpg.d",
        "etc/apt.conf.d",
        "etc/preferences.d",
        "state/lists",
        "cache",
    ] {
        fs::create_dir_all(apt.join(directory)).unwrap();
    }
    let at = |directory: &str| apt.join(directory).display().to_string();
    let config = format!(
        "Dir::Etc \"{}\"; Dir::State \"{}\"; Dir::Cache \"{}\"; Dir::State::status \"/dev/null\";\n\
         APT::Sandbox::User \"root\"; Dir::Etc::trusted \"/dev/null\";\n",
        at("etc"),
        at("state"),
        at("cache")
    );
    fs::write(apt.join("apt.conf"), config).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("sh")
        .arg(job.path().join("bin/hearth-run"))
        .arg(job.path())
        .env("APT_CONFIG", apt.join("apt.conf"))
        .env("GNUPGHOME", job.path())
        .env("PATH", format!("{}/programs:{path}", own.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut collector = Collector::default();
    for line in said.lines() {
        collector.line(line, 0.0);
    }
    let (suites, problems) = collector.finish(1.0);
    assert!(problems.is_empty(), "{problems:?} {said}");
    let [case] = suites[0].cases.as_slice() else {
        panic!("{said}");
    };
    (case.outcome.name() == "pass", said)
}

/// A program that definitions find before the host's.
fn program(own: &Path, name: &str, text: &str) {
    let directory = own.join("programs");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn gpg(home: &Path, arguments: &[&str]) {
    let output = Command::new("gpg")
        .args(["--batch", "--pinentry-mode", "loopback", "--passphrase", ""])
        .args(arguments)
        .env("GNUPGHOME", home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_source_of_a_definition_is_one_of_apts() {
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("Packages"), PACKAGES).unwrap();
    let source = format!("deb [trusted=yes] file:{} ./", own.path().display());
    let (known, said) = knows_the_package(own.path(), "{}");
    assert!(!known, "{said}");
    let twice = format!("{{sources: [\"{source}\", \"{source}\"]}}");
    let (known, said) = knows_the_package(own.path(), &twice);
    assert!(known, "{said}");
    assert!(!said.contains("configured multiple times"), "{said}");
    let fails = "#!/bin/sh\necho no launchpad for \"$@\"\nexit 1\n";
    program(own.path(), "add-apt-repository", fails);
    // What cannot be added is told, and ends nothing.
    let wrong = format!("{{sources: ['ppa:a/b', 'deb nonsense', \"{source}\"]}}");
    let (known, said) = knows_the_package(own.path(), &wrong);
    assert!(!said.contains("INSTALL_FAIL"), "{said}");
    assert!(
        said.contains("no launchpad for -y ppa:a/b\nhearth: cannot add the source ppa:a/b"),
        "{said}"
    );
    assert!(
        said.contains("hearth: cannot add the source deb nonsense"),
        "{said}"
    );
    assert!(known, "{said}");
}

#[test]
fn apt_trusts_a_source_whose_key_a_definition_adds() {
    let own = tempfile::tempdir().unwrap();
    let server = own.path().join("server");
    fs::create_dir(&server).unwrap();
    gpg(
        &server,
        &[
            "--quick-gen-key",
            "archive@localhost",
            "rsa2048",
            "sign",
            "never",
        ],
    );
    let keys = Command::new("gpg")
        .args(["--batch", "--with-colons", "--list-keys"])
        .env("GNUPGHOME", &server)
        .output()
        .unwrap();
    let keys = String::from_utf8(keys.stdout).unwrap();
    let key = keys
        .lines()
        .find_map(|line| line.strip_prefix("fpr:"))
        .unwrap();
    let key = key.trim_matches(':');
    fs::write(own.path().join("Packages"), PACKAGES).unwrap();
    let release = format!(
        "Suite: s\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n {} {} Packages\n",
        hex::encode(Sha256::digest(PACKAGES)),
        PACKAGES.len()
    );
    let plain = server.join("Release");
    fs::write(&plain, release).unwrap();
    let signed = own.path().join("InRelease");
    gpg(
        &server,
        &[
            "--clearsign",
            "-o",
            signed.to_str().unwrap(),
            plain.to_str().unwrap(),
        ],
    );
    // The key server is a directory: this gpg fetches from there.
    let text = format!(
        "#!/bin/sh\ncase $* in *--recv-keys*) shift 4; /usr/bin/gpg --homedir {} --export \"$@\" | /usr/bin/gpg --batch --import ;;\n\
         *) exec /usr/bin/gpg \"$@\" ;; esac\n",
        server.display()
    );
    program(own.path(), "gpg", &text);
    let source = format!("deb file:{} ./", own.path().display());
    let (known, said) = knows_the_package(own.path(), &format!("{{sources: [\"{source}\"]}}"));
    assert!(!known && said.contains("not signed"), "{said}");
    let with_key = format!("{{keys: ['0x{key}'], sources: [\"{source}\"]}}");
    let (known, said) = knows_the_package(own.path(), &with_key);
    let unknown = format!(
        "{{keys: [\"{}\"], sources: [\"{source}\"]}}",
        "0".repeat(40)
    );
    let (wrongly, told) = knows_the_package(own.path(), &unknown);
    let mut kill = Command::new("gpgconf");
    kill.arg("--homedir").arg(&server).args(["--kill", "all"]);
    assert!(kill.status().unwrap().success());
    assert!(known, "{said}");
    assert!(
        !wrongly && told.contains("hearth: cannot add the key"),
        "{told}"
    );
}
