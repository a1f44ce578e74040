//! Owns fetching repositories with test definitions, at any revision. Never gives git a value that it could take for an
//! option, a refspec or a helper program.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use regex::Regex;
use tempfile::TempDir;

use crate::error::Fault;

/// Whose word an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The user's own, or allowed by `--allow-local`: also this machine's files, and transports without encryption.
    Local,
    /// A definition's: https and ssh only.
    Remote,
}

impl Trust {
    /// For `GIT_ALLOW_PROTOCOL` (git(1)).
    fn protocols(self) -> &'static str {
        match self {
            Trust::Local => "https:ssh:http:git:file",
            Trust::Remote => "https:ssh",
        }
    }
}

/// A repository's work tree in a temporary directory, which goes with it.
#[derive(Debug)]
pub struct Clone(TempDir);

impl Clone {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The commit that is checked out, in hex; none if git cannot tell.
    pub fn commit(&self) -> Option<String> {
        let git = Git {
            directory: self.path(),
            trust: Trust::Local,
        };
        let output = git.run(&["rev-parse", "--verify", "HEAD"]).ok()?;
        let commit = String::from_utf8(output.stdout).ok()?.trim().to_string();
        (output.status.success() && !commit.is_empty()).then_some(commit)
    }
}

/// A helper program's address, `ext::command`, as gitremote-helpers(7) has it.
static HELPER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[A-Za-z0-9+.-]*::").expect("the pattern is a constant"));
/// A name or a whole commit, which a server may be asked for.
static PLAIN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[A-Za-z0-9][A-Za-z0-9._/-]*$").expect("a constant"));

/// Whether a directory is meant as a repository: it is one, and the path names a revision and no file.
pub fn is_repository(directory: &Path, path: &str) -> bool {
    path.contains('@')
        && !directory.join(path).exists()
        && (directory.join(".git").exists() || directory.join("HEAD").exists())
}

/// Fetches a repository's files, without its history where the server allows it. `revision`: a branch, a tag, any other
/// ref, a commit, whole or abbreviated, or an expression such as `v1~2`.
///
/// # Errors
/// If the address is of a kind that is not allowed; if git is missing or fails; if there is no such revision.
pub fn clone(address: &str, revision: Option<&str>, trust: Trust) -> Result<Clone> {
    check_address(address, trust)?;
    let into = tempfile::tempdir().context("cannot make a temporary directory")?;
    let clone = Clone(into);
    let git = Git {
        directory: clone.path(),
        trust,
    };
    let Some(revision) = revision else {
        let output = git.run(&["clone", "--quiet", "--depth", "1", "--", address, "."])?;
        return success(&output, address).map(|()| clone);
    };
    check_revision(revision)?;
    if PLAIN.is_match(revision) && git.fetch(address, revision)? {
        return Ok(clone);
    }
    // An abbreviation or an expression means something in the whole history only.
    success(&git.run(&["init", "--quiet", "."])?, address)?;
    let output = git.run(&[
        "fetch",
        "--quiet",
        "--",
        address,
        "+refs/*:refs/remotes/origin/*",
        "+HEAD:refs/remotes/origin/hearth-head",
    ])?;
    success(&output, address)?;
    for name in [
        format!("refs/remotes/origin/heads/{revision}"),
        format!("refs/remotes/origin/tags/{revision}"),
        revision.replacen("refs/", "refs/remotes/origin/", 1),
        revision.replacen("HEAD", "refs/remotes/origin/hearth-head", 1),
        revision.to_string(),
    ] {
        let commit = format!("{name}^{{commit}}");
        let found = git.run(&[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &commit,
        ])?;
        if found.status.success() {
            let commit = String::from_utf8_lossy(&found.stdout).trim().to_string();
            let output = git.run(&["checkout", "--quiet", "--detach", &commit])?;
            return success(&output, address).map(|()| clone);
        }
    }
    Err(
        Fault::input(format!("{address} has no revision `{revision}`"))
            .remedy("name a branch, a tag, another ref or a commit of it")
            .into(),
    )
}

/// # Errors
/// If the address is of a kind that `trust` does not allow.
pub fn check_address(address: &str, trust: Trust) -> Result<()> {
    let odd = address.is_empty()
        || address.starts_with('-')
        || HELPER.is_match(address)
        || address.contains(|c: char| c.is_control());
    if odd {
        return Err(Fault::input(format!(
            "`{}` is not the address of a repository",
            address.escape_debug()
        ))
        .into());
    }
    let scheme = address.split_once("://").map(|(scheme, _)| scheme);
    let is_ssh = |host: &str| !host.contains('/') && !Path::new(address).exists();
    let is_allowed = match scheme {
        Some(scheme) => trust.protocols().split(':').any(|known| known == scheme),
        // `host:path` as scp(1) has it, or a path of this machine.
        None => {
            trust == Trust::Local
                || address
                    .split_once(':')
                    .is_some_and(|(host, _)| is_ssh(host))
        }
    };
    if is_allowed {
        return Ok(());
    }
    Err(Fault::input(format!(
        "{address} is neither https nor ssh, and a definition may fetch over these alone"
    ))
    .remedy("if you trust the definition, give --allow-local")
    .into())
}

fn check_revision(revision: &str) -> Result<()> {
    let odd = revision.is_empty()
        || revision.starts_with(['-', '+', '^'])
        || revision
            .contains(|c: char| c.is_control() || c.is_whitespace() || c == ':' || c == '\\');
    if odd {
        let shown = revision.escape_debug();
        return Err(Fault::input(format!("`{shown}` is not a revision of a repository")).into());
    }
    Ok(())
}

struct Git<'a> {
    directory: &'a Path,
    trust: Trust,
}

impl Git<'_> {
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Command::new("git")
            .args(["-c", "advice.detachedHead=false"])
            .args(arguments)
            .current_dir(self.directory)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", self.trust.protocols())
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .output()
            .map_err(|_| {
                Fault::host("git is missing")
                    .remedy("install the package git")
                    .into()
            })
    }

    /// Fetches one name or commit and checks it out; whether the server gave it.
    fn fetch(&self, address: &str, revision: &str) -> Result<bool> {
        success(&self.run(&["init", "--quiet", "."])?, address)?;
        // Not what only looks like a commit's abbreviation: git would ask for a branch of that name, and fail.
        let fetched = self.run(&["fetch", "--quiet", "--depth", "1", "--", address, revision])?;
        if !fetched.status.success() {
            return Ok(false);
        }
        let output = self.run(&["checkout", "--quiet", "--detach", "FETCH_HEAD"])?;
        success(&output, address).map(|()| true)
    }
}

fn success(output: &Output, address: &str) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.split_whitespace().collect();
    Err(Fault::input(format!("cannot clone {address}: {}", said.join(" "))).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(directory: &Path, line: &str) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=n@localhost"])
            .args(line.split(' '))
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    #[test]
    fn every_way_to_name_a_revision_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), "init -q -b main .");
        std::fs::write(dir.path().join("f"), "old").unwrap();
        git(dir.path(), "add .");
        git(dir.path(), "commit -q -m one");
        git(dir.path(), "tag -a v1 -m v1");
        git(dir.path(), "branch group/stable");
        let first = git(dir.path(), "rev-parse HEAD");
        git(dir.path(), "update-ref refs/changes/1 HEAD");
        std::fs::write(dir.path().join("f"), "new").unwrap();
        git(dir.path(), "commit -q -a -m two");
        let address = format!("file://{}", dir.path().display());
        for (revision, expected) in [
            (None, "new"),
            (Some("main"), "new"),
            (Some("HEAD"), "new"),
            (Some("v1"), "old"),
            (Some("group/stable"), "old"),
            (Some("refs/tags/v1"), "old"),
            (Some("refs/changes/1"), "old"),
            (Some("HEAD~1"), "old"),
            (Some("main^"), "old"),
            (Some(&first), "old"),
            (Some(&first[..7]), "old"),
        ] {
            let clone = clone(&address, revision, Trust::Local).unwrap();
            let text = std::fs::read_to_string(clone.path().join("f")).unwrap();
            assert_eq!(text, expected, "{revision:?}");
        }
        let error = clone(&address, Some("nothing"), Trust::Local).unwrap_err();
        assert!(
            error.to_string().contains("has no revision `nothing`"),
            "{error}"
        );
    }

    #[test]
    fn nothing_that_git_could_run_or_read_as_an_option_is_given_to_it() {
        let mark = tempfile::tempdir().unwrap();
        let made = mark.path().join("made");
        for address in [
            format!("ext::touch {}", made.display()),
            format!("--upload-pack=touch {}", made.display()),
            "fd::17".into(),
            "::x".into(),
            "-c".into(),
            String::new(),
        ] {
            assert!(clone(&address, None, Trust::Local).is_err(), "{address}");
        }
        for revision in [
            format!("--upload-pack=touch {}", made.display()),
            "-x".into(),
            "a:b".into(),
            "+main".into(),
            String::new(),
        ] {
            assert!(
                clone("file:///nowhere", Some(&revision), Trust::Local).is_err(),
                "{revision}"
            );
        }
        assert!(!made.exists());
        for local in ["file:///etc", "/etc", "../x", "http://x/y", "git://x/y"] {
            let error = check_address(local, Trust::Remote).unwrap_err();
            assert!(
                error.to_string().contains("neither https nor ssh"),
                "{error}"
            );
        }
        for remote in ["https://x/y.git", "ssh://git@x/y", "git@x:y.git"] {
            check_address(remote, Trust::Remote).unwrap();
        }
    }
}
