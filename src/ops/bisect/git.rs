//! Owns bisecting between two commits of a work tree: git chooses the commits, a command of the user's builds each, and
//! the caller's tester tests it.
//! Never changes the repository but by `git bisect`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::journal::{Journal, Try, finding_of, subject};
use super::search::Finding;
use crate::error::Fault;
use crate::input;
use crate::job::{Judgement, StopReason};

/// What is to be bisected.
pub struct Request<'a> {
    /// The work tree.
    pub tree: &'a Path,
    pub good: &'a str,
    pub bad: &'a str,
    /// For the shell, in the work tree.
    pub build: &'a str,
    /// All that decides what a test says: arguments, definitions.
    pub test: &'a [Vec<u8>],
    /// Where the journal goes.
    pub directory: Option<&'a Path>,
    /// Forget what was tried.
    pub restart: bool,
}

/// What the caller does for each commit, in this order.
pub struct Hands<'a> {
    /// What to put before a command line, so that its process ends with this one.
    pub launcher: Vec<String>,
    /// Runs a command to its end, as the caller runs processes.
    pub run: &'a mut dyn FnMut(&mut Command) -> Result<std::process::ExitStatus>,
    /// Tests what was built; the report goes into the directory.
    pub test: &'a mut dyn FnMut(&Path) -> Result<Judgement>,
    /// Hears of each try.
    pub told: &'a dyn Fn(&Try),
}

/// What a bisection came to: the first bad commit, or those of which one is it, as `COMMIT SUBJECT`.
pub struct Outcome {
    pub culprits: Vec<String>,
}

/// A bisection between two commits.
pub struct GitBisection<'a> {
    request: Request<'a>,
    good: String,
    bad: String,
    pub journal: Journal,
}

impl<'a> GitBisection<'a> {
    /// Finds the commits.
    ///
    /// # Errors
    /// If `tree` is no work tree of git, or has no such commits; as [`Journal::open`].
    pub fn open(request: Request<'a>) -> Result<Self> {
        let git = Git(request.tree);
        git.work_tree()?;
        let resolve = |revision: &str| match git.started_at(revision)? {
            Some(then) => git.commit(&then),
            None => git.commit(revision),
        };
        let (good, bad) = (resolve(request.good)?, resolve(request.bad)?);
        if good == bad {
            return Err(Fault::input(format!(
                "{} and {} are the same commit",
                request.good, request.bad
            ))
            .into());
        }
        let tree = std::path::absolute(request.tree)?;
        let parts = [
            tree.as_os_str().as_encoded_bytes(),
            good.as_bytes(),
            bad.as_bytes(),
            request.build.as_bytes(),
        ];
        let tests = request.test.iter().map(Vec::as_slice);
        let subject = subject(parts.into_iter().chain(tests));
        Ok(GitBisection {
            journal: Journal::open(request.directory, "git", &subject, request.restart)?,
            request,
            good,
            bad,
        })
    }

    /// Goes on to the end, and puts the work tree back to where it was.
    ///
    /// # Errors
    /// If git fails, or another bisection is under way in the work tree; if the tester says that it makes no sense to go
    /// on, or the build command cannot be run. Then git's bisection and the journal are as they were.
    pub fn run(&mut self, hands: &mut Hands<'_>) -> Result<Outcome> {
        let git = Git(self.request.tree);
        self.start(&git)?;
        let mut before = None;
        loop {
            if let Some(culprits) = conclusion(&git.log()?) {
                git.bisect(&["reset"])?;
                return Ok(Outcome { culprits });
            }
            let commit = git.commit("HEAD")?;
            let finding = match self.journal.finding(&commit) {
                Some(known) if before.as_ref() == Some(&commit) => {
                    return Err(Fault::infrastructure(format!(
                        "git does not go on from {commit}, which is {known:?}"
                    ))
                    .into());
                }
                // Noted, but the process was killed before git heard of it; or git was reset meanwhile.
                Some(known) => known,
                None => self.attempt(&git, &commit, hands)?,
            };
            let word = match finding {
                Finding::Good => "good",
                Finding::Bad => "bad",
                Finding::Skip => "skip",
            };
            let marked = git.command(&["bisect", word, &commit])?;
            // With nothing but skipped commits left git fails, and says so in its log.
            if !marked.status.success() && conclusion(&git.log()?).is_none() {
                return Err(git.refused("bisect", &marked));
            }
            before = Some(commit);
        }
    }

    /// Begins git's bisection, unless this one is under way.
    fn start(&self, git: &Git<'_>) -> Result<()> {
        let log = match git.is_bisecting()? {
            true => git.log()?,
            false => return git.bisect(&["start", &self.bad, &self.good, "--"]),
        };
        let has = |word: &str, commit: &str| log.contains(&format!("# {word}: [{commit}]"));
        if has("good", &self.good) && has("bad", &self.bad) {
            return Ok(());
        }
        Err(Fault::input(format!(
            "another bisection is under way in {}",
            self.request.tree.display()
        ))
        .remedy(format!(
            "end it with `git -C {} bisect reset`",
            self.request.tree.display()
        ))
        .into())
    }

    fn attempt(&mut self, git: &Git<'_>, commit: &str, hands: &mut Hands<'_>) -> Result<Finding> {
        let begun = Instant::now();
        let directory = self.journal.next_directory()?;
        let judgement = match self.build(&directory, hands)? {
            None => (hands.test)(&directory)?,
            Some(judgement) => judgement,
        };
        let (finding, why) = finding_of(judgement)?;
        let tried = Try {
            candidate: commit.into(),
            what: git.subject(commit)?,
            finding,
            why,
            seconds: begun.elapsed().as_secs_f64(),
            directory,
        };
        (hands.told)(&tried);
        self.journal.add(tried)?;
        Ok(finding)
    }

    /// Runs the build command; its output goes into a log. What a failure says of the commit, none if it built.
    fn build(&self, directory: &Path, hands: &mut Hands<'_>) -> Result<Option<Judgement>> {
        let path = directory.join("build.log");
        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let shell = ["sh", "-c", self.request.build].map(String::from);
        let words = [&hands.launcher[..], &shell].concat();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.request.tree)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let status = (hands.run)(&mut command)?;
        let log = path.display();
        Ok(match status.code() {
            Some(0) => None,
            // As a shell has it (POSIX, "Exit Status for Commands").
            Some(code @ (126 | 127)) => Some(Judgement::Stop(
                format!("the build command cannot be run (exit code {code}): see {log}"),
                StopReason::Mistake,
            )),
            Some(code) if code < 128 => Some(Judgement::Untestable(format!(
                "it does not build (exit code {code}): see {log}"
            ))),
            _ => Some(Judgement::Stop(
                format!("the build was stopped ({status}): see {log}"),
                StopReason::Cancelled,
            )),
        })
    }
}

/// The first bad commit, or those of which one is it, as git's log of a bisection that has ended tells them.
fn conclusion(log: &str) -> Option<Vec<String>> {
    let told = |prefix: &str| -> Vec<String> {
        let lines = log.lines().filter_map(|line| line.strip_prefix(prefix));
        lines
            .map(|line| line.replacen('[', "", 1).replacen(']', "", 1))
            .collect()
    };
    let found = told("# first bad commit: ");
    if !found.is_empty() {
        return Some(found);
    }
    let possible = told("# possible first bad commit: ");
    (!possible.is_empty()).then_some(possible)
}

/// git in a work tree.
struct Git<'a>(&'a Path);

impl Git<'_> {
    fn command(&self, arguments: &[&str]) -> Result<Output> {
        Command::new("git")
            .arg("-C")
            .arg(self.0)
            .args(arguments)
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|_| {
                Fault::host("git is missing")
                    .remedy("install the package git")
                    .into()
            })
    }

    fn read(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?;
        if !output.status.success() {
            return Err(self.refused(arguments[0], &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    fn bisect(&self, arguments: &[&str]) -> Result<()> {
        self.read(&[&["bisect"], arguments].concat()).map(drop)
    }

    fn refused(&self, what: &str, output: &Output) -> anyhow::Error {
        let said = [&output.stderr[..], &output.stdout[..]].concat();
        let said = String::from_utf8_lossy(&said);
        let said: Vec<&str> = said.split_whitespace().collect();
        Fault::input(format!(
            "git {what} in {} failed: {}",
            self.0.display(),
            said.join(" ")
        ))
        .remedy("put right what git says; the same command then goes on")
        .into()
    }

    fn work_tree(&self) -> Result<()> {
        let output = self.command(&["rev-parse", "--is-inside-work-tree"])?;
        if output.status.success() && output.stdout.starts_with(b"true") {
            return Ok(());
        }
        Err(Fault::input(format!("{} is no work tree of git", self.0.display())).into())
    }

    fn commit(&self, revision: &str) -> Result<String> {
        let commit = format!("{revision}^{{commit}}");
        let words = [
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &commit,
        ];
        let output = self.command(&words)?;
        if !output.status.success() {
            return Err(
                Fault::input(format!("{} has no commit `{revision}`", self.0.display()))
                    .remedy("name a commit, a branch or a tag of it")
                    .into(),
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    fn subject(&self, commit: &str) -> Result<String> {
        self.read(&["show", "--no-patch", "--format=%h %s", commit])
    }

    /// Where git notes what was checked out when a bisection began; there while one is under way.
    fn start_file(&self) -> Result<PathBuf> {
        let path = self.read(&["rev-parse", "--git-path", "BISECT_START"])?;
        Ok(self.0.join(path))
    }

    fn is_bisecting(&self) -> Result<bool> {
        Ok(self.start_file()?.exists())
    }

    /// While a bisection is under way: a revision that begins at HEAD, with what HEAD was when it began.
    fn started_at(&self, revision: &str) -> Result<Option<String>> {
        let rest = revision.strip_prefix("HEAD");
        let Some(rest) = rest.or_else(|| revision.strip_prefix('@')) else {
            return Ok(None);
        };
        let is_head = rest.is_empty() || rest.starts_with(['~', '^', '@']);
        let start = input::read_text(&self.start_file()?).ok();
        let start = start.filter(|_| is_head);
        Ok(start.map(|start| format!("{}{rest}", start.trim())))
    }

    fn log(&self) -> Result<String> {
        self.read(&["bisect", "log"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_bisection_is_read_from_gits_log() {
        let log = "# bad: [b] two\n# good: [a] one\ngit bisect start 'b' 'a'\n";
        assert_eq!(conclusion(log), None);
        let found = format!("{log}# first bad commit: [b] two [urgent]\n");
        assert_eq!(conclusion(&found).unwrap(), ["b two [urgent]"]);
        let vague = format!(
            "{log}# only skipped commits left to test\n# possible first bad commit: [b] two\n\
             # possible first bad commit: [c] three\n"
        );
        assert_eq!(conclusion(&vague).unwrap(), ["b two", "c three"]);
    }
}
