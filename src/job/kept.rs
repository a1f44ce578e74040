//! Owns a job's tar as it is kept with its report, and how it becomes a job again, with the programs of this hearth.
//! Never reads a definition's files again: what they were is in the tar.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{Archive, Builder, EntryType};

use super::definition::Definition;
use super::pattern::Pattern;
use super::payload::{PROGRAMS, Payload, environment};
use super::work_tree::header;
use crate::error::{Fault, InputContext};
use crate::input;

/// No job's tar comes near this, in bytes; it is held in memory.
const LARGEST: u64 = 2 << 30;

/// A job as a board gets it.
pub struct Job {
    pub tar: Vec<u8>,
    pub payload: Payload,
    /// The definitions' patterns, by suite.
    pub patterns: BTreeMap<String, Pattern>,
}

/// Compresses a job's tar, for keeping it.
///
/// # Errors
/// If the compressor fails.
pub fn compress(tar: &[u8]) -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(tar)?;
    Ok(out.finish()?)
}

/// Reads a kept tar.
///
/// # Errors
/// If it cannot be read, or expands beyond reason.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("cannot read the kept job {}", path.display());
    let file = input::open(path).with_context(failed)?;
    let mut tar = Vec::new();
    let mut plain = GzDecoder::new(file).take(LARGEST + 1);
    plain.read_to_end(&mut tar).input_context(failed)?;
    if tar.len() as u64 > LARGEST {
        bail!(Fault::input(format!(
            "{} expands to more than {LARGEST} bytes, which no job has",
            path.display()
        )));
    }
    Ok(tar)
}

/// Makes a job of a kept tar: the same definitions with the same files and parameters; the programs that report results
/// are this hearth's, and what the steps are told of the board is about the one that runs them now.
///
/// # Errors
/// If the tar is none that [`super::payload`] made.
pub fn again(kept: &[u8], board_type: &str) -> Result<Job> {
    let damaged = || "the kept job is damaged".to_string();
    let mut tar = Builder::new(Vec::new());
    for (name, text) in PROGRAMS {
        add(&mut tar, &format!("bin/{name}"), text.as_bytes(), 0o755)?;
    }
    let environment = environment(board_type);
    add(&mut tar, "environment", environment.as_bytes(), 0o644)?;
    let mut texts = BTreeMap::new();
    let mut trees = BTreeMap::new();
    let mut suites = Vec::new();
    for entry in Archive::new(kept).entries().input_context(damaged)? {
        let mut entry = entry.input_context(damaged)?;
        let name = entry.path().input_context(damaged)?;
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("bin/") || name == "environment" {
            continue;
        }
        let mode = entry.header().mode().input_context(damaged)?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).input_context(damaged)?;
        add(&mut tar, &name, &content, mode)?;
        let text = || String::from_utf8_lossy(&content).into_owned();
        let of_suite = name
            .strip_prefix("0/tests/")
            .and_then(|below| below.split_once('/'));
        match (name.as_str(), of_suite) {
            ("order", _) => suites = text().lines().map(String::from).collect(),
            (_, Some((suite, "testdef.yaml"))) => {
                texts.insert(suite.to_string(), text());
            }
            (_, Some((suite, "trees"))) => {
                trees.insert(suite.to_string(), size_of_trees(&text()));
            }
            _ => {}
        }
    }
    if suites.is_empty() || suites.iter().any(|suite| !texts.contains_key(suite)) {
        bail!(Fault::input(damaged()));
    }
    let mut patterns = BTreeMap::new();
    for (suite, text) in texts {
        let (definition, _) = Definition::parse(Path::new("testdef.yaml"), &text)?;
        if let Some(pattern) = definition.pattern {
            patterns.insert(suite, pattern);
        }
    }
    let tar = tar.into_inner()?;
    let size = tar.len() as u64;
    let largest = trees.into_values().max().unwrap_or_default();
    Ok(Job {
        payload: Payload {
            suites,
            size,
            unpacked: size + largest,
        },
        tar,
        patterns,
    })
}

/// In bytes; each line of the list is `FILE KIB DIRECTORY`.
fn size_of_trees(list: &str) -> u64 {
    let kib = |line: &str| line.split(' ').nth(1)?.parse::<u64>().ok();
    let sizes = list.lines().filter_map(kib);
    sizes.fold(0, |sum, kib| sum.saturating_add(kib.saturating_mul(1024)))
}

fn add(tar: &mut Builder<Vec<u8>>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, content.len() as u64, mode);
    tar.append_data(&mut header, name, content)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{JobSettings, Loader, Parameter, Trust, payload};
    use super::*;

    #[test]
    fn a_kept_job_is_the_same_again_for_another_board_whatever_became_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.yaml");
        let text = "metadata: {format: Lava-Test Test Definition 1.0, name: t}\n\
                    parse: {pattern: '(?P<test_case_id>.*): (?P<result>.*)'}\nrun: {steps: [true]}\n";
        fs::write(&file, text).unwrap();
        fs::write(dir.path().join("data"), vec![7; 5000]).unwrap();
        let mut loader = Loader::default();
        let loaded = loader
            .load(&format!("{}#t.yaml", dir.path().display()))
            .unwrap();
        let job = |board_type: &str| {
            let settings = JobSettings {
                parameters: vec![Parameter {
                    suite: None,
                    key: "A".into(),
                    value: "b".into(),
                }],
                trust: Trust::Remote,
                board_type: board_type.into(),
            };
            let mut tar = Vec::new();
            let payload = payload(&mut tar, &loaded, &mut Loader::default(), &settings).unwrap();
            (tar, payload)
        };
        let (first, payload) = job("nanopi-neo");
        let (other, _) = job("cubieboard");
        let kept = dir.path().join("job.tar.gz");
        fs::write(&kept, compress(&first).unwrap()).unwrap();
        fs::remove_file(&file).unwrap();
        let kept = read(&kept).unwrap();
        assert_eq!(kept, first);
        let same = again(&kept, "nanopi-neo").unwrap();
        assert_eq!(content(&same.tar), content(&first));
        assert_eq!(same.payload.suites, payload.suites);
        assert_eq!(same.payload.size, payload.size);
        assert_eq!(same.payload.unpacked, payload.unpacked);
        assert!(same.patterns.contains_key("0_t"));
        assert_eq!(
            content(&again(&kept, "cubieboard").unwrap().tar),
            content(&other)
        );
    }

    /// Name, mode and content of each member.
    fn content(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            (name, (entry.header().mode().unwrap(), data))
        });
        entries.collect()
    }

    #[test]
    fn what_is_no_job_is_refused() {
        let error = again(b"not a tar at all", "x").err().unwrap();
        assert!(error.to_string().contains("damaged"), "{error:#}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("job.tar.gz");
        fs::write(&file, "no gzip").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains("cannot read the kept job"), "{error}");
    }
}
