//! Owns what goes to the board: one tar with the definitions, their files, and the programs that report results.
//! Never talks to the board.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

use super::definition::{self, Loaded};
use crate::error::Fault;

/// How large a definition's work tree may be, in bytes: it goes over the network at every run.
const TREE_LIMIT: u64 = 64 << 20;

/// The programs that a definition's steps find on their PATH, and the one that runs the definitions.
const PROGRAMS: [(&str, &str); 6] = [
    ("hearth-run", include_str!("../agent/hearth-run")),
    ("lava-test-case", include_str!("../agent/lava-test-case")),
    ("lava-test-set", include_str!("../agent/lava-test-set")),
    ("lava-test-raise", include_str!("../agent/lava-test-raise")),
    (
        "lava-test-reference",
        include_str!("../agent/lava-test-reference"),
    ),
    (
        "lava-common-functions",
        include_str!("../agent/lava-common-functions"),
    ),
];

/// A job as the board gets it.
#[derive(Debug)]
pub struct Payload {
    /// Names of the suites, in the order in which they run: `0_smoke`.
    pub suites: Vec<String>,
}

/// Writes the job's tar. `parameters` override those of the definitions.
///
/// Layout: `bin/` with the programs, `tests/<suite>/` with `run.sh`, `install.sh` where there is something
/// to install, `definition.yaml`, and the files of the definition's work tree.
pub fn payload(
    out: impl Write,
    definitions: &[Loaded],
    parameters: &[(String, String)],
) -> Result<Payload> {
    let mut tar = Builder::new(out);
    for (name, text) in PROGRAMS {
        add(&mut tar, &format!("bin/{name}"), text.as_bytes(), 0o755)?;
    }
    let mut suites = Vec::new();
    for (index, loaded) in definitions.iter().enumerate() {
        let suite = format!("{index}_{}", loaded.definition.name);
        if let Some(tree) = &loaded.tree {
            add_tree(&mut tar, tree, &format!("tests/{suite}"))?;
        }
        add_definition(&mut tar, &suite, loaded, parameters)?;
        suites.push(suite);
    }
    add(
        &mut tar,
        "order",
        format!("{}\n", suites.join("\n")).as_bytes(),
        0o644,
    )?;
    tar.into_inner()?.flush()?;
    Ok(Payload { suites })
}

fn add_definition(
    tar: &mut Builder<impl Write>,
    suite: &str,
    loaded: &Loaded,
    parameters: &[(String, String)],
) -> Result<()> {
    let definition = &loaded.definition;
    let mut variables = String::from("# Parameters: the definition's own, then the job's.\n");
    for (name, value) in definition.parameters.iter().chain(parameters) {
        variables.push_str(&format!("{name}={}\nexport {name}\n", quoted(value)));
    }
    let script = |steps: &[String]| format!("{variables}set -ex\n{}\n", steps.join("\n"));
    let at = |name: &str| format!("tests/{suite}/{name}");
    add(
        tar,
        &at("definition.yaml"),
        definition.text.as_bytes(),
        0o644,
    )?;
    // LAVA runs the steps with `-e`: a failing command ends the definition.
    add(
        tar,
        &at("run.sh"),
        script(&definition.steps).as_bytes(),
        0o755,
    )?;
    if !definition.install.steps.is_empty() {
        add(
            tar,
            &at("install.sh"),
            script(&definition.install.steps).as_bytes(),
            0o755,
        )?;
    }
    if !definition.install.packages.is_empty() {
        let names = definition.install.packages.join("\n");
        add(tar, &at("packages"), format!("{names}\n").as_bytes(), 0o644)?;
    }
    for (address, branch, directory) in &definition.install.repositories {
        let clone = definition::clone(address, branch.as_deref())?;
        let name = directory
            .clone()
            .unwrap_or_else(|| repository_name(address));
        add_tree(tar, clone.path(), &at(&name))?;
    }
    Ok(())
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

/// Adds a directory's regular files and symbolic links, without `.git`, in the order of their names.
fn add_tree(tar: &mut Builder<impl Write>, tree: &Path, prefix: &str) -> Result<()> {
    let mut files = Vec::new();
    let mut total = 0;
    collect(tree, Path::new(""), &mut files, &mut total)?;
    for file in files {
        let path = tree.join(&file);
        let meta = fs::symlink_metadata(&path)?;
        let name = format!("{prefix}/{}", file.display());
        if meta.is_symlink() {
            let mut header = header(EntryType::Symlink, 0, 0o777);
            tar.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else {
            let mut header = header(EntryType::Regular, meta.len(), mode_of(&meta));
            let content =
                File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            tar.append_data(&mut header, name, content.take(meta.len()))?;
        }
    }
    Ok(())
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

fn add(tar: &mut Builder<impl Write>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, content.len() as u64, mode);
    tar.append_data(&mut header, name, content)?;
    Ok(())
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
            tree: None,
            warnings,
            clone: None,
        }
    }

    /// Runs a payload as the agent does, under `shell`, and gives what it printed.
    fn run(shell: &str, definitions: &[Loaded]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Vec::new();
        payload(&mut tar, definitions, &[("B".into(), "2 $(x)".into())]).unwrap();
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
    fn the_programs_report_what_a_definition_does_under_dash_and_busybox() {
        for shell in ["dash", "busybox sh"] {
            let definitions = [
                loaded(
                    "    - lava-test-set start s
    - test \"$A$B\" = \"it's2 \\$(x)\"
    - lava-test-case good --shell 'test -n \"$A\"'
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
