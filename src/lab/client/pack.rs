//! Owns the tar of a submission: `job.json`, and the definitions with the trees that they were found in below `files/`.
//! Never submits it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

use crate::job::{Loaded, add_tree};
use crate::lab::queue::Submission;

/// Writes the tar. The same definitions and settings give the same bytes. `spec.definitions` is set to what they are in it.
///
/// # Errors
/// If a tree is too large or cannot be read, or `out` cannot be written.
pub fn pack(out: impl Write, definitions: &[Loaded], mut spec: Submission) -> Result<()> {
    let mut tar = Builder::new(out);
    let mut trees: Vec<PathBuf> = Vec::new();
    spec.definitions.clear();
    let mut files: Vec<(String, &[u8])> = Vec::new();
    for (number, loaded) in definitions.iter().enumerate() {
        let argument = match &loaded.tree {
            Some(tree) => {
                let known = trees.iter().position(|it| it == tree);
                let at = known.unwrap_or_else(|| {
                    trees.push(tree.clone());
                    trees.len() - 1
                });
                let file = loaded
                    .file
                    .to_str()
                    .context("the definition's name is not UTF-8")?;
                format!("tree{at}#{file}")
            }
            None => {
                let name = loaded.file.file_name().and_then(|name| name.to_str());
                let name = name.context("the definition's name is not UTF-8")?;
                let path = format!("{number}/{}", name.replace(['#', '='], "_"));
                files.push((path.clone(), loaded.definition.text.as_bytes()));
                path
            }
        };
        spec.definitions.push(match &loaded.name {
            Some(name) => format!("{name}={argument}"),
            None => argument,
        });
    }
    append(&mut tar, "job.json", &serde_json::to_vec(&spec)?)?;
    for (path, text) in files {
        append(&mut tar, &format!("files/{path}"), text)?;
    }
    for (at, tree) in trees.iter().enumerate() {
        add_tree(
            &mut tar,
            tree,
            &Path::new("files").join(format!("tree{at}")),
        )?;
    }
    tar.finish()?;
    Ok(())
}

fn append(tar: &mut Builder<impl Write>, path: &str, data: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, data)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Loader;
    use std::fs;

    #[test]
    fn a_file_and_a_directory_with_two_definitions_are_packed_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        fs::create_dir_all(path("suite/.git")).unwrap();
        let text =
            "metadata: {format: Lava-Test Test Definition 1.0, name: t}\nrun: {steps: [true]}\n";
        for name in [
            "one.yaml",
            "suite/a.yaml",
            "suite/b.yaml",
            "suite/data",
            "suite/.git/x",
        ] {
            fs::write(path(name), text).unwrap();
        }
        let mut loader = Loader::default();
        let mut definitions = loader.load(&format!("net={}", path("one.yaml"))).unwrap();
        definitions.extend(loader.load(&path("suite")).unwrap());
        let mut tar = Vec::new();
        pack(&mut tar, &definitions, Submission::default()).unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(
            names,
            [
                "job.json",
                "files/0/one.yaml",
                "files/tree0/a.yaml",
                "files/tree0/b.yaml",
                "files/tree0/data"
            ]
        );
        let mut archive = tar::Archive::new(&tar[..]);
        let first = archive.entries().unwrap().next().unwrap().unwrap();
        let spec: Submission = serde_json::from_reader(first).unwrap();
        assert_eq!(
            spec.definitions,
            ["net=0/one.yaml", "tree0#a.yaml", "tree0#b.yaml"]
        );
    }
}
