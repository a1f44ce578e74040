//! Owns what goes to the board: one tar with the definitions, their files, and the programs that report results.
//! Never talks to the board.
//!
//! Layout, which is LAVA's below `/lava-N`: `bin/` with the programs, `environment`, `0/tests/SUITE/` with `run.sh`, `uuid`,
//! `testdef.yaml` and, where there is something to install, `install.sh`; and hearth's own `order` and `trees/`, the
//! files of work trees, each once and compressed.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::{Builder, EntryType};

use super::definition::Install;
use super::git::Trust;
use super::load::{Loaded, Loader};
use super::suites::suite_name;
use super::work_tree::{header, pack};
use crate::error::Fault;

/// A program of the job's `bin/` and its text.
macro_rules! program {
    ($name:literal) => {
        ($name, include_str!(concat!("../agent/", $name)))
    };
    ($name:literal, $file:literal) => {
        ($name, include_str!(concat!("../agent/", $file)))
    };
}

/// The programs that a definition's steps find on their PATH, and the one that runs the definitions.
pub(super) const PROGRAMS: [(&str, &str); 30] = [
    program!("hearth-console"),
    program!("hearth-run"),
    program!("lava-add-keys"),
    program!("lava-add-sources"),
    program!("lava-background-process-start"),
    program!("lava-background-process-stop"),
    program!("lava-common-functions"),
    program!("lava-echo-ipv4"),
    program!("lava-install-packages"),
    program!("lava-installed-packages"),
    program!("lava-os-build"),
    program!("lava-probe-channel"),
    program!("lava-probe-ip"),
    program!("lava-target-ip"),
    program!("lava-target-mac"),
    program!("lava-target-storage"),
    program!("lava-test-case"),
    program!("lava-test-event"),
    program!("lava-test-feedback"),
    program!("lava-test-raise"),
    program!("lava-test-reference"),
    program!("lava-test-set"),
    program!("lava-group", "lava-multinode"),
    program!("lava-network", "lava-multinode"),
    program!("lava-role", "lava-multinode"),
    program!("lava-self", "lava-multinode"),
    program!("lava-send", "lava-multinode"),
    program!("lava-sync", "lava-multinode"),
    program!("lava-wait", "lava-multinode"),
    program!("lava-wait-all", "lava-multinode"),
];

/// A parameter that a job sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The suite that it is for, by its definition's name; all of them otherwise.
    pub suite: Option<String>,
    pub key: String,
    pub value: String,
}

/// What a job is made of besides its definitions.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// They override those of the definitions.
    pub parameters: Vec<Parameter>,
    /// What a definition's `git-repos` may fetch from.
    pub trust: Trust,
    /// The board's type, for `LAVA_DEVICE_TYPE`.
    pub board_type: String,
}

/// A job as the board gets it.
#[derive(Debug)]
pub struct Payload {
    /// Names of the suites, in the order in which they run: `0_smoke`.
    pub suites: Vec<String>,
    /// Of the tar, in bytes.
    pub size: u64,
    /// What the tar's content and the largest definition's work trees take on the board, in bytes.
    pub unpacked: u64,
}

impl Payload {
    /// Compares the job with what a board of `memory` bytes has room for. The agent keeps the tar in a quarter of the memory,
    /// and unpacks it into the root's overlay, which is a tmpfs of half of it (tmpfs(5), `size`).
    ///
    /// # Errors
    /// If the job cannot fit, however little else the board writes.
    pub fn check_fits(&self, memory: u64, board: &str) -> Result<()> {
        let needs = [(self.size, memory / 4), (self.unpacked, memory / 2)];
        let Some((need, room)) = needs.into_iter().find(|(need, room)| need > room) else {
            return Ok(());
        };
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(Fault::input(format!(
            "the job's files need {} MiB of `{board}`'s memory, and of its {} MiB at most {} MiB are for them",
            mib(need),
            mib(memory),
            room >> 20
        ))
        .remedy("give the definitions directories of their own, with fewer files, or test on a board with more memory")
        .into())
    }
}

/// Writes the job's tar.
///
/// # Errors
/// If a work tree is too large or cannot be read, or a repository cannot be fetched; if a parameter is for no suite.
pub fn payload(
    out: impl Write,
    definitions: &[Loaded],
    loader: &mut Loader,
    settings: &JobSettings,
) -> Result<Payload> {
    let names: Vec<String> = definitions.iter().map(suite_name).collect();
    check_parameters(&settings.parameters, &names)?;
    let mut job = JobWriter {
        tar: Builder::new(Counted { out, count: 0 }),
        packed: Vec::new(),
    };
    for (name, text) in PROGRAMS {
        job.add(&format!("bin/{name}"), text.as_bytes(), 0o755)?;
    }
    let environment = environment(&settings.board_type);
    job.add("environment", environment.as_bytes(), 0o644)?;
    let mut suites = Vec::new();
    let mut largest = 0;
    for (index, (loaded, name)) in definitions.iter().zip(&names).enumerate() {
        let suite = format!("{index}_{name}");
        let parameters: Vec<&Parameter> = settings
            .parameters
            .iter()
            .filter(|parameter| parameter.suite.as_ref().is_none_or(|of| of == name))
            .collect();
        let trees = job.add_definition(&suite, loaded, loader, &parameters, settings.trust)?;
        largest = largest.max(trees);
        suites.push(suite);
    }
    let order = format!("{}\n", suites.join("\n"));
    job.add("order", order.as_bytes(), 0o644)?;
    let mut out = job.tar.into_inner()?;
    out.flush()?;
    Ok(Payload {
        suites,
        size: out.count,
        unpacked: out.count + largest,
    })
}

pub(super) fn environment(board_type: &str) -> String {
    format!(
        "export LAVA_DEVICE_TYPE={}\nexport LAVA_DISPATCHER_IP=\"${{LAVA_DISPATCHER_IP:-}}\"\n",
        quoted(board_type)
    )
}

fn check_parameters(parameters: &[Parameter], names: &[String]) -> Result<()> {
    for suite in parameters.iter().filter_map(|p| p.suite.as_ref()) {
        if !names.contains(suite) {
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(Fault::input(format!(
                "a parameter is for `{suite}`, which is the name of no definition here"
            ))
            .remedy(crate::recipe::suggestion(suite, &known))
            .into());
        }
    }
    Ok(())
}

/// A work tree in the job's tar.
struct Packed {
    tree: PathBuf,
    /// Of its files, in bytes.
    size: u64,
}

/// A job's tar under way.
struct JobWriter<W: Write> {
    tar: Builder<Counted<W>>,
    packed: Vec<Packed>,
}

/// Counts the bytes that are written.
struct Counted<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> JobWriter<W> {
    /// Adds a definition; gives the size of its work trees in bytes, as they are unpacked.
    fn add_definition(
        &mut self,
        suite: &str,
        loaded: &Loaded,
        loader: &mut Loader,
        parameters: &[&Parameter],
        trust: Trust,
    ) -> Result<u64> {
        let definition = &loaded.definition;
        let values: Vec<(&str, &str)> = definition
            .parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(
                parameters
                    .iter()
                    .map(|p| (p.key.as_str(), p.value.as_str())),
            )
            .collect();
        // Variables of the shell, which LAVA does not export.
        let variables: String = values
            .iter()
            .map(|(name, value)| format!("{name}={}\n", quoted(value)))
            .collect();
        let at = |name: &str| format!("0/tests/{suite}/{name}");
        self.add(&at("testdef.yaml"), definition.text.as_bytes(), 0o644)?;
        self.add(&at("uuid"), format!("hearth_{suite}\n").as_bytes(), 0o644)?;
        if definition.posix {
            self.add(&at("posix"), b"", 0o644)?;
        }
        let run = format!(
            "{variables}export TESTRUN_ID={suite}\nUUID=$(cat uuid)\nset -ex\n{}\nset +x\nexit 117\n",
            lines(&definition.steps)
        );
        // LAVA runs the steps with `-e`: a failing command ends the definition, unless a step says `set +e`.
        self.add(&at("run.sh"), run.as_bytes(), 0o755)?;
        let Install { keys, sources, .. } = &definition.install;
        let mut steps = named("lava-add-keys", keys) + &named("lava-add-sources", sources);
        steps.push_str(&lines(&definition.install.steps));
        if !steps.is_empty() {
            // Without `-e`, as LAVA has it: the last command's status counts.
            let install = format!("{variables}set -x\n{steps}\n");
            self.add(&at("install.sh"), install.as_bytes(), 0o755)?;
        }
        if !definition.install.packages.is_empty() {
            let names = definition.install.packages.join("\n");
            self.add(&at("packages"), format!("{names}\n").as_bytes(), 0o644)?;
        }
        let mut trees = String::new();
        let mut size = 0;
        let mut add = |job: &mut Self, tree: &Path, directory: &str| -> Result<()> {
            let index = job.pack(tree)?;
            let tree = job.packed[index].size;
            size += tree;
            let kib = tree.div_ceil(1024);
            trees.push_str(&format!("{index}.tar.gz {kib} {directory}\n"));
            Ok(())
        };
        if let Some(tree) = &loaded.tree {
            add(self, tree, "")?;
        }
        for repository in &definition.install.repositories {
            let value = |text: &str| substitute(text, &values);
            let address = value(&repository.address);
            let branch = repository.branch.as_deref().map(value);
            let clone = loader
                .clone(&address, branch.as_deref().filter(|b| !b.is_empty()), trust)
                .with_context(|| format!("for `git-repos` of {suite}"))?;
            let directory = match &repository.directory {
                Some(directory) => value(directory),
                None => repository_name(&address),
            };
            check_directory(&directory)?;
            add(self, clone.path(), &directory)?;
        }
        if !trees.is_empty() {
            self.add(&at("trees"), trees.as_bytes(), 0o644)?;
        }
        Ok(size)
    }

    /// Puts a work tree into the job, once; gives its number.
    fn pack(&mut self, tree: &Path) -> Result<usize> {
        if let Some(index) = self.packed.iter().position(|packed| packed.tree == tree) {
            return Ok(index);
        }
        let (archive, size) = pack(tree)?;
        let index = self.packed.len();
        self.add(&format!("trees/{index}.tar.gz"), &archive, 0o644)?;
        self.packed.push(Packed {
            tree: tree.to_path_buf(),
            size,
        });
        Ok(index)
    }

    fn add(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut header = header(EntryType::Regular, content.len() as u64, mode);
        self.tar.append_data(&mut header, name, content)?;
        Ok(())
    }
}

/// Calls of a program of the job's, a line each. The words are the shell's, as LAVA has it.
fn named(program: &str, arguments: &[String]) -> String {
    let line = |argument: &String| format!("{program} {argument}\n");
    arguments.iter().map(line).collect()
}

/// Steps as the lines of a script. LAVA keeps `$1` of a command that it evaluates later from the script's own shell.
fn lines(steps: &[String]) -> String {
    let line = |step: &String| {
        if !step.contains("--shell") && !step.contains("--cmd") {
            return step.clone();
        }
        let mut out = String::new();
        let mut rest = step.chars().peekable();
        while let Some(c) = rest.next() {
            let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
            let mut digits = rest.clone().skip_while(char::is_ascii_digit);
            let starts = rest.peek().is_some_and(char::is_ascii_digit);
            if c == '$' && starts && !digits.next().as_ref().is_some_and(is_word) {
                out.push('\\');
            }
            out.push(c);
        }
        out
    };
    steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A value in which a parameter's name alone, as LAVA has it, and `$NAME` and `${NAME}` anywhere stand for the
/// parameter, the last of equal ones.
fn substitute(text: &str, values: &[(&str, &str)]) -> String {
    let value = |name: &str| values.iter().rev().find(|(known, _)| *known == name);
    if let Some((_, value)) = value(text) {
        return (*value).to_string();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let braced = after
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'));
        let end = after.find(|c| !is_word(c)).unwrap_or(after.len());
        let (name, behind) = braced.unwrap_or((&after[..end], &after[end..]));
        match value(name) {
            Some((_, value)) => (out, rest) = (out + value, behind),
            None => (out, rest) = (out + "$", after),
        }
    }
    out + rest
}

fn check_directory(directory: &str) -> Result<()> {
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    let is_word = !directory.contains(|c: char| c.is_whitespace() || c.is_control());
    if is_word && !directory.is_empty() && Path::new(directory).components().all(plain) {
        return Ok(());
    }
    Err(Fault::input(format!(
        "`{}` is no directory below a definition's own for a repository",
        directory.escape_debug()
    ))
    .into())
}

/// As `git clone` names the directory that it makes.
fn repository_name(address: &str) -> String {
    let name = address
        .trim_end_matches('/')
        .rsplit(['/', ':'])
        .next()
        .unwrap_or(address);
    name.trim_end_matches(".git").to_string()
}

/// A word that the shell takes as it is.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::job::Definition;

    fn loaded(steps: &str) -> Loaded {
        let text = format!(
            "metadata: {{format: Lava-Test Test Definition 1.0, name: t}}\nparams: {{A: it's}}\nrun:\n  steps:\n{steps}"
        );
        let (definition, warnings) = Definition::parse(Path::new("t.yaml"), &text).unwrap();
        Loaded {
            definition,
            source: "t.yaml".into(),
            name: None,
            file: "t.yaml".into(),
            tree: None,
            warnings,
            clone: None,
        }
    }

    /// Runs a payload as the agent does, under `shell`, and gives what it printed.
    fn run(shell: &str, definitions: &[Loaded]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Vec::new();
        let settings = JobSettings {
            parameters: vec![Parameter {
                suite: None,
                key: "B".into(),
                value: "2 $(x)".into(),
            }],
            trust: Trust::Remote,
            board_type: "qemu-virt-arm".into(),
        };
        payload(&mut tar, definitions, &mut Loader::default(), &settings).unwrap();
        tar::Archive::new(tar.as_slice())
            .unpack(dir.path())
            .unwrap();
        let words: Vec<&str> = shell.split(' ').collect();
        let output = std::process::Command::new(words[0])
            .args(&words[1..])
            .arg(dir.path().join("bin/hearth-run"))
            .arg(dir.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn a_parameter_stands_for_a_branch_as_in_lava_and_as_in_a_shell() {
        let values = [("REV", "old"), ("REV", "v1"), ("A", "a")];
        for (text, expected) in [
            ("REV", "v1"),
            ("$REV", "v1"),
            ("${REV}", "v1"),
            ("https://x/$A/${REV}.git", "https://x/a/v1.git"),
            ("REVISION", "REVISION"),
            ("$REVISION", "$REVISION"),
            ("a$", "a$"),
            ("${REV", "${REV"),
        ] {
            assert_eq!(substitute(text, &values), expected, "{text}");
        }
    }

    #[test]
    fn a_job_that_cannot_fit_into_the_boards_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        // Compresses to nothing; 20 MiB and one block of 4 KiB on the board.
        fs::write(dir.path().join("zeros"), vec![0; 20 << 20]).unwrap();
        fs::write(dir.path().join("small"), "x").unwrap();
        let with_tree = || Loaded {
            tree: Some(dir.path().to_path_buf()),
            ..loaded("    - true\n")
        };
        let settings = JobSettings {
            parameters: Vec::new(),
            trust: Trust::Remote,
            board_type: "t".into(),
        };
        let mut tar = Vec::new();
        // Both definitions have the same tree, which is in the job once, and of which one copy is there at a time.
        let definitions = [with_tree(), with_tree()];
        let job = payload(&mut tar, &definitions, &mut Loader::default(), &settings).unwrap();
        assert_eq!(job.size, tar.len() as u64);
        assert_eq!(job.unpacked, job.size + (20 << 20) + 4096);
        assert!(job.check_fits(64 << 20, "t").is_ok());
        let error = job.check_fits(40 << 20, "t").unwrap_err().to_string();
        assert_eq!(
            error,
            "the job's files need 21 MiB of `t`'s memory, and of its 40 MiB at most 20 MiB are for them"
        );
        let large = Payload {
            size: 11 << 20,
            ..job
        };
        let error = large.check_fits(43 << 20, "t").unwrap_err().to_string();
        assert!(
            error.contains("need 11 MiB") && error.contains("at most 10 MiB"),
            "{error}"
        );
    }

    #[test]
    fn a_step_that_exits_ends_its_definition_alone_and_is_told() {
        for (steps, expected) in [
            (
                "    - set +e\n    - lava-test-case a --result pass\n    - false\n",
                &["a=pass"][..],
            ),
            (
                "    - lava-test-case a --result pass\n    - exit 0\n    - x\n",
                &["a=pass", "run-steps=fail"],
            ),
            ("    - exit 3\n", &["run-steps=fail"]),
            (
                "    - lava-test-case a --result\n    - lava-test-case b --result pass --measurement\n",
                &["a=unknown", "b=unknown"],
            ),
        ] {
            let said = run(
                "dash",
                &[
                    loaded(steps),
                    loaded("    - lava-test-case z --result pass\n"),
                ],
            );
            let mut collector = crate::job::Collector::default();
            for line in said.lines() {
                collector.line(line, 0.0);
            }
            let (suites, _) = collector.finish(1.0);
            let cases: Vec<String> = suites[0]
                .cases
                .iter()
                .map(|case| format!("{}={}", case.id, case.outcome.name()))
                .collect();
            assert_eq!(cases, expected, "{steps}{said}");
            assert_eq!(suites[1].cases[0].id, "z");
        }
    }

    #[test]
    fn the_programs_report_what_a_definition_does_under_dash_and_busybox() {
        for shell in ["dash", "busybox sh"] {
            let definitions = [
                loaded(
                    "    - lava-test-set start s
    - test \"$A$B\" = \"it's2 \\$(x)\"
    - lava-test-case good --shell 'test -z \"$A\"'
    - lava-test-case bad --shell false
    - lava-test-case m --result pass --measurement 1.50 --units s
    - lava-test-set stop
    - lava-test-reference r --result pass --reference http://x/y
",
                ),
                loaded("    - false\n    - lava-test-case never --result pass\n"),
                loaded("    - lava-test-raise enough is enough\n"),
            ];
            let said = run(shell, &definitions);
            let mut collector = crate::job::Collector::default();
            for line in said.lines() {
                collector.line(line, 0.0);
            }
            assert!(collector.exited(), "{shell}: {said}");
            let (suites, problems) = collector.finish(1.0);
            assert!(problems.is_empty(), "{shell}: {problems:?}");
            let cases: Vec<String> = suites[0]
                .cases
                .iter()
                .map(|case| format!("{}={}", case.id, case.outcome.name()))
                .collect();
            assert_eq!(
                cases,
                ["good=pass", "bad=fail", "m=pass", "r=pass"],
                "{shell}: {said}"
            );
            assert_eq!(suites[0].cases[2].measurement.as_deref(), Some("1.50"));
            assert_eq!(suites[0].cases[0].set.as_deref(), Some("s"));
            // A step that fails ends the definition, which LAVA leaves without a trace.
            assert_eq!(suites[1].cases.len(), 1, "{said}");
            assert_eq!(suites[1].cases[0].id, "run-steps");
            assert_eq!(suites[2].raised.as_deref(), Some("enough is enough"));
        }
    }
}
