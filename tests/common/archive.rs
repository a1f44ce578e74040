//! A small Debian archive made for a test, signed with a throw-away key, and a server that misbehaves as told.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{oracle, pack, succeed};

/// OpenPGP keys of GnuPG, in a home of their own.
pub struct Keys {
    pub home: TempDir,
    /// What GnuPG takes for now, as `20200101T000000`.
    pub time: Option<&'static str>,
}

impl Keys {
    /// One key that signs with a subkey, as Debian's do.
    pub fn new() -> Self {
        Keys::made(None, "ed25519", "never")
    }

    /// Keys made at some time, with a subkey of this algorithm that expires.
    pub fn made(time: Option<&'static str>, algorithm: &str, subkey_expires: &str) -> Self {
        let keys = Keys {
            home: tempfile::tempdir().unwrap(),
            time,
        };
        keys.gpg(&[
            "--quick-generate-key",
            "Test <test@example.org>",
            "ed25519",
            "cert",
            "never",
        ]);
        let fingerprint = keys.primary();
        keys.gpg(&[
            "--quick-add-key",
            &fingerprint,
            algorithm,
            "sign",
            subkey_expires,
        ]);
        keys
    }

    pub fn command(&self) -> Command {
        let mut gpg = oracle("gpg");
        gpg.args([
            "--quiet",
            "--yes",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ])
        .arg("--homedir")
        .arg(self.home.path());
        if let Some(time) = self.time {
            gpg.args(["--faked-system-time", time]);
        }
        gpg
    }

    pub fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
        succeed(self.command().arg("--batch").args(arguments)).stdout
    }

    /// Fingerprints: the primary key's, then the subkeys'.
    pub fn fingerprints(&self) -> Vec<String> {
        let list = String::from_utf8(self.gpg(&["--with-colons", "--list-keys"])).unwrap();
        list.lines()
            .filter_map(|line| line.strip_prefix("fpr:"))
            .map(|line| line.trim_matches(':').to_string())
            .collect()
    }

    pub fn primary(&self) -> String {
        self.fingerprints().swap_remove(0)
    }

    pub fn keyring(&self) -> Vec<u8> {
        self.gpg(&["--export"])
    }

    pub fn clearsign(&self, text: &str, options: &[&str]) -> Vec<u8> {
        let file = self.home.path().join("text");
        fs::write(&file, text).unwrap();
        let mut arguments = options.to_vec();
        arguments.extend(["--output", "-", "--clearsign", file.to_str().unwrap()]);
        self.gpg(&arguments)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // The agent that GnuPG started for this home; without a home it would end by itself, but later.
        let _ = oracle("gpgconf")
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--kill", "gpg-agent"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// An archive with the suite `trixie` for armhf, and a recipe that uses it.
pub struct Archive {
    pub dir: TempDir,
    pub keys: Keys,
    stanzas: Vec<String>,
    /// The suite that is published next.
    pub suite: String,
    /// Fields of the release file, by name.
    pub fields: Vec<(String, String)>,
}

impl Archive {
    /// An archive with the essential package `base`; publish it after adding others.
    pub fn new() -> Self {
        let mut archive = Archive {
            dir: tempfile::tempdir().unwrap(),
            keys: Keys::new(),
            stanzas: Vec::new(),
            suite: "trixie".into(),
            fields: [
                ("Suite", "stable"),
                ("Codename", "trixie"),
                ("Date", "Sat, 12 Sep 2026 07:55:41 UTC"),
                ("Acquire-By-Hash", "yes"),
                ("Architectures", "armhf"),
                ("Components", "main"),
            ]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec(),
        };
        fs::write(archive.path("keyring.gpg"), archive.keys.keyring()).unwrap();
        archive.add("base", "1", "Essential: yes", 1000);
        archive
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn address(&self) -> String {
        format!("file://{}", self.dir.path().display())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.fields.retain(|(field, _)| field != name);
        self.fields.push((name.into(), value.into()));
    }

    /// Adds a package of `size` bytes that nobody can compress; its file is no real `.deb`.
    pub fn add(&mut self, name: &str, version: &str, fields: &str, size: usize) {
        let data = noise(&format!("{name} {version}"), size);
        let path = format!("pool/main/{name}_{version}_armhf.deb");
        fs::create_dir_all(self.path("pool/main")).unwrap();
        fs::write(self.path(&path), &data).unwrap();
        let sha256 = hex::encode(Sha256::digest(&data));
        let fields = if fields.is_empty() {
            String::new()
        } else {
            format!("{fields}\n")
        };
        self.stanzas.push(format!(
            "Package: {name}\nVersion: {version}\nArchitecture: armhf\n{fields}Filename: {path}\nSize: {size}\nSHA256: {sha256}\n"
        ));
    }

    /// Adds a package that can be installed: `files` by path and content, all of them executable.
    /// Adds a package that can be installed; `files` by path and content, all of them executable. Gives its path in the
    /// archive.
    pub fn add_deb(
        &mut self,
        name: &str,
        version: &str,
        fields: &str,
        files: &[(&str, &str)],
    ) -> String {
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let mut control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: armhf\nMaintainer: t <t@localhost>\nDescription: test\n"
        );
        if !fields.is_empty() {
            control += &format!("{fields}\n");
        }
        write("DEBIAN/control", &control);
        for (path, content) in files {
            write(path, content);
        }
        let path = format!("pool/main/{name}_{version}_armhf.deb");
        fs::create_dir_all(self.path("pool/main")).unwrap();
        pack(tree.path(), &self.path(&path));
        let deb = fs::read(self.path(&path)).unwrap();
        self.stanzas.push(format!(
            "{control}Filename: {path}\nSize: {}\nSHA256: {}\n",
            deb.len(),
            hex::encode(Sha256::digest(&deb))
        ));
        path
    }

    /// Drops all versions of a package from the index.
    pub fn remove(&mut self, name: &str) {
        let first = format!("Package: {name}\n");
        self.stanzas.retain(|stanza| !stanza.starts_with(&first));
    }

    /// Writes the index, xz-compressed, and the signed release file.
    pub fn publish(&self) {
        self.publish_with(&[]);
    }

    /// As [`Archive::publish`], with options for gpg.
    pub fn publish_with(&self, options: &[&str]) {
        let plain = self.path("Packages");
        fs::write(&plain, self.stanzas.join("\n")).unwrap();
        let xz = succeed(oracle("xz").arg("-c").arg(&plain)).stdout;
        self.publish_index(&xz, None, options);
    }

    /// Signs for whatever `xz` is as the index; `plain` is what the release says of its uncompressed size.
    pub fn publish_index(&self, xz: &[u8], plain: Option<u64>, options: &[&str]) {
        let suite = self.path("dists").join(&self.suite);
        let directory = suite.join("main/binary-armhf");
        fs::create_dir_all(directory.join("by-hash/SHA256")).unwrap();
        let hash = hex::encode(Sha256::digest(xz));
        fs::write(directory.join("Packages.xz"), xz).unwrap();
        fs::write(directory.join("by-hash/SHA256").join(&hash), xz).unwrap();
        let mut release: String = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        release += &format!(
            "SHA256:\n {hash} {} main/binary-armhf/Packages.xz\n",
            xz.len()
        );
        if let Some(plain) = plain {
            release += &format!(" {} {plain} main/binary-armhf/Packages\n", "0".repeat(64));
        }
        fs::write(
            suite.join("InRelease"),
            self.keys.clearsign(&release, options),
        )
        .unwrap();
    }

    /// Writes a recipe that asks for these packages; gives its path.
    pub fn recipe(&self, packages: &[&str]) -> PathBuf {
        let path = self.path("test.toml");
        fs::write(
            &path,
            format!(
                "description = \"test\"\narch = \"armhf\"\npackages = {packages:?}\n\
                 [archive]\nsuites = [\"trixie\"]\nkeyring = \"keyring.gpg\"\n"
            ),
        )
        .unwrap();
        path
    }

    /// The index as it is before compression.
    pub fn index(&self) -> String {
        self.stanzas.join("\n")
    }

    /// An index of about this many bytes that cannot be compressed.
    pub fn pad(&mut self, bytes: usize) {
        let noise = hex::encode(noise("padding", bytes));
        self.stanzas.push(format!(
            "Package: padding\nVersion: 1\nArchitecture: armhf\nDescription: {noise}\nFilename: pool/p.deb\nSize: 1\nSHA256: {}\n",
            "0".repeat(64)
        ));
    }
}

/// Bytes that depend on the seed only, and do not compress.
pub fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 32);
    let mut block = Sha256::digest(seed);
    while bytes.len() < size {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes.truncate(size);
    bytes
}

/// What the server does with one request.
#[derive(Clone, Debug)]
pub enum Act {
    Serve,
    /// Serves the whole file whatever range is asked for.
    IgnoreRange,
    /// Sends that many bytes of the body and then nothing, holding the connection.
    Stall(usize),
    /// Sends that many bytes of the body and hangs up.
    Cut(usize),
    /// Sends the body with pauses, so many bytes at a time.
    Slow(usize),
    Status(u16),
    Redirect(String),
    /// Sends the right number of wrong bytes.
    Garble,
}

/// An HTTP server on loopback.
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Seen>>>,
}

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    /// The first byte asked for, 0 without a range.
    pub from: usize,
}

impl Server {
    /// Serves a directory; `plan` gets a path and how many requests for it came before.
    pub fn start(root: &Path, plan: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, root, plan) = (requests.clone(), root.to_path_buf(), Arc::new(plan));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, root, plan) = (log.clone(), root.clone(), plan.clone());
                // A client that hangs up makes an error that the tests are not about.
                thread::spawn(move || {
                    let _ = answer(stream, &root, &log, &*plan);
                });
            }
        });
        Server { address, requests }
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }

    /// Requests for paths that contain `part`.
    pub fn requests_for(&self, part: &str) -> Vec<Seen> {
        let mut requests = self.requests();
        requests.retain(|request| request.path.contains(part));
        requests
    }
}

fn answer(
    mut stream: TcpStream,
    root: &Path,
    log: &Mutex<Vec<Seen>>,
    plan: &dyn Fn(&str, usize) -> Act,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some((path, headers)) = request(&mut reader)? else {
            return Ok(());
        };
        let from = headers
            .get("range")
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let before = {
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|seen: &&Seen| seen.path == path).count();
            log.push(Seen {
                path: path.clone(),
                from,
            });
            before
        };
        let act = plan(&path, before);
        let Ok(data) = fs::read(root.join(path.trim_start_matches('/'))) else {
            write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            )?;
            continue;
        };
        match act {
            Act::Status(status) => {
                write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Act::Redirect(to) => {
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
                )?;
                continue;
            }
            _ => {}
        }
        let from = if matches!(act, Act::IgnoreRange) {
            0
        } else {
            from
        };
        let mut body = data[from.min(data.len())..].to_vec();
        if from > 0 {
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n",
                data.len() - 1,
                data.len()
            )?;
        } else {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
        }
        write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
        match act {
            Act::Stall(bytes) => {
                stream.write_all(&body[..bytes.min(body.len())])?;
                // Until the client gives up.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            Act::Cut(bytes) => return stream.write_all(&body[..bytes.min(body.len())]),
            Act::Slow(bytes) => {
                for chunk in body.chunks(bytes) {
                    stream.write_all(chunk)?;
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Act::Garble => {
                body.iter_mut().for_each(|byte| *byte ^= 0x55);
                stream.write_all(&body)?;
            }
            _ => stream.write_all(&body)?,
        }
    }
}

/// Path and headers of the next request; none at the end.
fn request(
    reader: &mut impl BufRead,
) -> std::io::Result<Option<(String, HashMap<String, String>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_string();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Some((path, headers)));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_string());
        }
    }
}
