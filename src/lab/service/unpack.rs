//! Owns the unpacking of a submission's tar: regular files, directories and links, within bounds.
//! Never trusts a name in it.

use std::fs;
use std::io::Read;
use std::path::{Component, Path};

use tar::{Archive, EntryType};

use super::refused::Refused;
use crate::lab::queue::Submission;

/// The name of the submission in the tar; all else is below `files/`.
const SUBMISSION: &str = "job.json";
/// How large that may be.
const LARGEST_SUBMISSION: u64 = 1 << 20;
/// How many files a submission may have, and their bytes together.
const ENTRIES: usize = 50_000;
const BYTES: u64 = 512 << 20;

/// Unpacks the files into `directory`; gives what is asked for.
pub(super) fn unpack(tar: impl Read, directory: &Path) -> Result<Submission, Refused> {
    let malformed = |error: std::io::Error| Refused::malformed(format!("not a tar: {error}"));
    fs::create_dir_all(directory.join("files"))?;
    let mut submission = None;
    let mut bytes = 0;
    let mut archive = Archive::new(tar);
    for (count, entry) in archive.entries().map_err(malformed)?.enumerate() {
        let mut entry = entry.map_err(malformed)?;
        bytes += entry.size();
        if count >= ENTRIES || bytes > BYTES {
            return Err(Refused::malformed(format!(
                "a submission may have {ENTRIES} files with {} MiB together",
                BYTES >> 20
            )));
        }
        let path = entry.path().map_err(malformed)?.into_owned();
        if path == Path::new(SUBMISSION) {
            let mut text = String::new();
            entry
                .by_ref()
                .take(LARGEST_SUBMISSION)
                .read_to_string(&mut text)
                .map_err(malformed)?;
            let parsed = serde_json::from_str(&text)
                .map_err(|error| Refused::malformed(format!("{SUBMISSION}: {error}")))?;
            submission = Some(parsed);
            continue;
        }
        check(&path, &entry)?;
        // Again: links on the way are not followed.
        if !entry.unpack_in(directory)? {
            return Err(outside(&path));
        }
    }
    submission.ok_or_else(|| Refused::malformed(format!("the tar has no {SUBMISSION}")))
}

fn check<R: Read>(path: &Path, entry: &tar::Entry<'_, R>) -> Result<(), Refused> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !path.starts_with("files") || !path.components().all(plain) {
        return Err(outside(path));
    }
    match entry.header().entry_type() {
        // A link may lead anywhere: nothing is written through one, and a definition must really be in the submission.
        EntryType::Regular | EntryType::Directory | EntryType::Symlink => Ok(()),
        _ => Err(Refused::malformed(format!(
            "{} is neither a file, a directory nor a link",
            path.display()
        ))),
    }
}

fn outside(path: &Path) -> Refused {
    Refused::malformed(format!("{} is outside of files/", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        file(&mut tar, "job.json", b"{\"definitions\": [\"0/t.yaml\"]}");
        add(&mut tar);
        tar.into_inner().unwrap()
    }

    fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        // As an attacker would: `set_path` refuses `..`.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }

    fn link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, name, target).unwrap();
    }

    #[test]
    fn a_submission_is_unpacked_with_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let tar = tar(|tar| {
            file(tar, "files/0/sub/t.yaml", b"a");
            link(tar, "files/0/sub/u.yaml", "../sub/t.yaml");
        });
        let submission = unpack(&tar[..], dir.path()).unwrap();
        assert_eq!(submission.definitions, ["0/t.yaml"]);
        let read = fs::read(dir.path().join("files/0/sub/u.yaml")).unwrap();
        assert_eq!(read, b"a");
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused() {
        type Add = fn(&mut tar::Builder<Vec<u8>>);
        let attacks: [(&str, Add); 5] = [
            ("outside", |tar| file(tar, "files/../../evil", b"")),
            ("outside", |tar| file(tar, "/etc/evil", b"")),
            ("outside", |tar| file(tar, "evil", b"")),
            // Through a link that leads out: tar's own check.
            ("", |tar| {
                link(tar, "files/l", "../..");
                file(tar, "files/l/evil", b"");
            }),
            ("neither a file", |tar| {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(EntryType::Fifo);
                header.set_path("files/pipe").unwrap();
                header.set_size(0);
                header.set_cksum();
                tar.append(&header, &b""[..]).unwrap();
            }),
        ];
        for (says, add) in attacks {
            let outer = tempfile::tempdir().unwrap();
            let error = unpack(&tar(add)[..], &outer.path().join("in")).unwrap_err();
            assert!(error.sentence.contains(says), "{}", error.sentence);
            assert!(!outer.path().join("evil").exists());
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(unpack(&b"no tar at all"[..], dir.path()).is_err());
        assert!(
            unpack(&b""[..], dir.path())
                .unwrap_err()
                .sentence
                .contains("job.json")
        );
    }
}
