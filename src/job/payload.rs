//! Owns what goes to the board: one tar with the definitions, their files, and the programs that report results.
//! Never talks to the board.
//!
//! Layout, which is LAVA's below `/lava-N`: `bin/` with the programs, `environment`, `0/tests/SUITE/` with `run.sh`, `uuid`,
//! `testdef.yaml` and, where there is something to install, `install.sh`; and hearth's own `order` and `trees/`, the
//! files of work trees, each once and compressed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::definition::Install;
use super::git::Trust;
use super::load::{Loaded, Loader};
use crate::error::Fault;

/// How large a definition's work tree may be, in bytes: it goes over the network at every run.
const TREE_LIMIT: u64 = 256 << 20;

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
const PROGRAMS: [(&str, &str); 29] = [
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
    let mut job = Job {
        tar: Builder::new(out),
        packed: Vec::new(),
    };
    for (name, text) in PROGRAMS {
        job.add(&format!("bin/{name}"), text.as_bytes(), 0o755)?;
    }
    let environment = format!(
        "export LAVA_DEVICE_TYPE={}\nexport LAVA_DISPATCHER_IP=\"${{LAVA_DISPATCHER_IP:-}}\"\n",
        quoted(&settings.board_type)
    );
    job.add("environment", environment.as_bytes(), 0o644)?;
    let mut suites = Vec::new();
    for (index, (loaded, name)) in definitions.iter().zip(&names).enumerate() {
        let suite = format!("{index}_{name}");
        let parameters: Vec<&Parameter> = settings
            .parameters
            .iter()
            .filter(|parameter| parameter.suite.as_ref().is_none_or(|of| of == name))
            .collect();
        job.add_definition(&suite, loaded, loader, &parameters, settings.trust)?;
        suites.push(suite);
    }
    let order = format!("{}\n", suites.join("\n"));
    job.add("order", order.as_bytes(), 0o644)?;
    job.tar.into_inner()?.flush()?;
    Ok(Payload { suites })
}

/// A suite's name: that of the command line, or the definition's, in which blanks would end a signal's word.
fn suite_name(loaded: &Loaded) -> String {
    let name = loaded.name.as_ref().unwrap_or(&loaded.definition.name);
    let plain = |c: char| c.is_alphanumeric() || "-_+.".contains(c);
    name.trim()
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect()
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
struct Job<W: Write> {
    tar: Builder<W>,
    packed: Vec<Packed>,
}

impl<W: Write> Job<W> {
    fn add_definition(
        &mut self,
        suite: &str,
        loaded: &Loaded,
        loader: &mut Loader,
        parameters: &[&Parameter],
        trust: Trust,
    ) -> Result<()> {
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
        if let Some(tree) = &loaded.tree {
            trees.push_str(&self.tree(tree, "")?);
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
            trees.push_str(&self.tree(clone.path(), &directory)?);
        }
        if !trees.is_empty() {
            self.add(&at("trees"), trees.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Puts a work tree into the job, once; gives the line of `trees` for it.
    fn tree(&mut self, tree: &Path, directory: &str) -> Result<String> {
        let index = match self.packed.iter().position(|packed| packed.tree == tree) {
            Some(index) => index,
            None => {
                let (archive, size) = pack(tree)?;
                let index = self.packed.len();
                self.add(&format!("trees/{index}.tar.gz"), &archive, 0o644)?;
                self.packed.push(Packed {
                    tree: tree.to_path_buf(),
                    size,
                });
                index
            }
        };
        let size = self.packed[index].size;
        Ok(format!(
            "{index}.tar.gz {} {directory}\n",
            size.div_ceil(1024)
        ))
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

/// A directory's files as a compressed tar, and their size in bytes.
fn pack(tree: &Path) -> Result<(Vec<u8>, u64)> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let size = add_tree(&mut tar, tree)?;
    Ok((tar.into_inner()?.finish()?, size))
}

/// Adds a directory's regular files and symbolic links, without `.git`, in the order of their names.
/// Gives the size of the files in bytes, each rounded up as a file system does.
fn add_tree(tar: &mut Builder<impl Write>, tree: &Path) -> Result<u64> {
    let mut files = Vec::new();
    let mut size = 0;
    let mut total = 0;
    collect(tree, Path::new(""), &mut files, &mut total)?;
    for file in files {
        let path = tree.join(&file);
        let meta = fs::symlink_metadata(&path)?;
        let name = &file;
        if meta.is_symlink() {
            let mut header = header(EntryType::Symlink, 0, 0o777);
            tar.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else {
            let mut header = header(EntryType::Regular, meta.len(), mode_of(&meta));
            let content =
                File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            tar.append_data(&mut header, name, content.take(meta.len()))?;
            size += meta.len().next_multiple_of(4096);
        }
    }
    Ok(size)
}

fn collect(root: &Path, below: &Path, files: &mut Vec<PathBuf>, total: &mut u64) -> Result<()> {
    let directory = root.join(below);
    let mut entries = fs::read_dir(&directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name() == ".git" {
            continue;
        }
        let path = below.join(entry.file_name());
        let meta = entry.metadata()?;
        if meta.is_dir() {
            collect(root, &path, files, total)?;
        } else if meta.is_file() || meta.is_symlink() {
            *total += meta.len();
            if *total > TREE_LIMIT {
                return Err(Fault::input(format!(
                    "{} holds more than {} MiB, too much to send to a board",
                    root.display(),
                    TREE_LIMIT >> 20
                ))
                .remedy("give the definition a directory of its own")
                .into());
            }
            files.push(path);
        }
    }
    Ok(())
}

fn mode_of(meta: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    if meta.permissions().mode() & 0o100 == 0 {
        0o644
    } else {
        0o755
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

/// A word that the shell takes as it is.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Definition;

    fn loaded(steps: &str) -> Loaded {
        let text = format!(
            "metadata: {{format: Lava-Test Test Definition 1.0, name: t}}\nparams: {{A: it's}}\nrun:\n  steps:\n{steps}"
        );
        let (definition, warnings) = Definition::parse(Path::new("t.yaml"), &text).unwrap();
        Loaded {
            definition,
            name: None,
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
