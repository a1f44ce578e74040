//! Owns `/etc/ssl/certs`: the links and the bundle that update-ca-certificates(8) makes, which
//! takes half a minute under qemu-user. Never hashes names: `openssl rehash` does.
//!
//! Runs in the image's root: paths are the image's.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::input;

/// Makes the links to the enabled certificates and the bundle of all, below `root` (`/` inside the
/// image). Returns the number of certificates, or `None` if the image has no ca-certificates.
pub fn update(root: &Path) -> Result<Option<usize>> {
    let conf = root.join("etc/ca-certificates.conf");
    let directory = root.join("etc/ssl/certs");
    let Ok(conf) = input::read_text(&conf) else {
        return Ok(None);
    };
    if !directory.is_dir() {
        return Ok(None);
    }
    let packaged = Path::new("/usr/share/ca-certificates");
    let mut chosen = Vec::new();
    for line in conf
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line.strip_prefix('!') {
            Some(refused) => remove(&directory.join(link_name(Path::new(refused))))?,
            None if below(root, &packaged.join(line)).is_file() => chosen.push(packaged.join(line)),
            None => {
                log::warn!("/etc/ca-certificates.conf lists {line}, which the image does not have")
            }
        }
    }
    let mut local = Vec::new();
    find(
        root,
        Path::new("/usr/local/share/ca-certificates"),
        &mut local,
    )?;
    local.sort();
    chosen.extend(local);
    let mut bundle = Vec::new();
    for certificate in &chosen {
        let link = directory.join(link_name(certificate));
        remove(&link)?;
        symlink(certificate, &link).with_context(|| format!("cannot make {}", link.display()))?;
        bundle.extend(input::read(&below(root, certificate))?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    let path = directory.join("ca-certificates.crt");
    remove(&path)?;
    fs::write(&path, bundle)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(chosen.len()))
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// `a/Some (Root), X.crt` is linked as `Some_=Root=_X.pem`.
fn link_name(certificate: &Path) -> String {
    let name = certificate
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let stem = name.strip_suffix(".crt").unwrap_or(&name);
    let safe: String = stem
        .chars()
        .map(|character| match character {
            ' ' | ',' => '_',
            '(' | ')' => '=',
            other => other,
        })
        .collect();
    safe + ".pem"
}

fn find(root: &Path, directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(below(root, directory)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", directory.display()));
        }
    };
    for entry in entries {
        let path = directory.join(entry?.file_name());
        if below(root, &path).is_dir() {
            find(root, &path, found)?;
        } else if path.extension() == Some(OsStr::new("crt")) {
            found.push(path);
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_and_local_certificates_are_linked_and_bundled() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (path, text) in [
            (
                "etc/ca-certificates.conf",
                "# note\nmozilla/B.crt\n\nmozilla/A_(x).crt\n!mozilla/Old.crt\nmozilla/Gone.crt\n",
            ),
            ("usr/share/ca-certificates/mozilla/A_(x).crt", "A"),
            ("usr/share/ca-certificates/mozilla/B.crt", "B\n"),
            ("usr/share/ca-certificates/mozilla/Old.crt", "O\n"),
            ("usr/local/share/ca-certificates/lab/my lab.crt", "L\n"),
            ("usr/local/share/ca-certificates/README", "no\n"),
            ("etc/ssl/certs/Old.pem", ""),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(update(root).unwrap(), Some(3));
        }
        let certs = root.join("etc/ssl/certs");
        assert_eq!(
            fs::read(certs.join("ca-certificates.crt")).unwrap(),
            b"B\nA\nL\n"
        );
        assert_eq!(
            fs::read_link(certs.join("A_=x=.pem")).unwrap(),
            Path::new("/usr/share/ca-certificates/mozilla/A_(x).crt")
        );
        assert!(certs.join("my_lab.pem").is_symlink() && !certs.join("Old.pem").exists());
        assert_eq!(fs::read_dir(&certs).unwrap().count(), 4);
        assert_eq!(update(Path::new("/nonexistent")).unwrap(), None);
    }
}
