//! Signatures, by GnuPG.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use hearth::archive::{Keyring, Mirrors, SignatureError};

use crate::now;
use common::archive::Keys;
use common::{oracle, succeed};

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
    judge(&keys, &[], then, false).unwrap();
    let expired = judge(&keys, &[], now(), false);
    assert!(
        matches!(expired, Err(SignatureError::Expired { .. })),
        "{expired:?}"
    );
    judge(&keys, &[], now(), true).unwrap();

    keys = Keys::made(Some("20200101T000000"), "ed25519", "never");
    let options = ["--default-sig-expire", "10d"];
    judge(&keys, &options, then, false).unwrap();
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
