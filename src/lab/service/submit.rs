//! Owns the submission of a job: what is checked before it is in the queue, and where its files are kept.
//! Never decides when it runs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::manager::{Lab, now};
use super::refused::{Refused, RefusedKind};
use super::unpack::unpack;
use crate::image::Manifest;
use crate::job::{Loader, Parameter};
use crate::lab::queue::{Input, Job, Kind, Submission, WaitingJob, explain, fits};
use crate::lab::store::NewJob;

/// The path of a definition's argument below the submission's files; `None` for one in a git repository.
///
/// # Errors
/// A sentence, if it is neither.
pub fn local_path(argument: &str) -> Result<Option<&str>, String> {
    let rest = without_name(argument);
    if rest.starts_with("https://") || rest.starts_with("ssh://") {
        return match rest.contains('#') {
            true => Ok(None),
            false => Err(format!(
                "`{argument}` names no definition: REPOSITORY#PATH[@REVISION]"
            )),
        };
    }
    let path = Path::new(rest.split('#').next().unwrap_or_default());
    let plain = |part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    };
    if rest.contains("://") || !path.components().all(plain) || rest.is_empty() {
        return Err(format!(
            "`{argument}` is neither below the submission's files nor a repository by https or ssh"
        ));
    }
    Ok(Some(rest))
}

/// The argument without a suite's name before it.
fn without_name(argument: &str) -> &str {
    match argument.split_once('=') {
        Some((name, rest)) if !name.contains(['/', '#', ':']) => rest,
        _ => argument,
    }
}

/// A definition's argument with its path made one below `files`.
pub fn resolved(argument: &str, files: &Path) -> String {
    match local_path(argument) {
        Ok(Some(path)) => {
            let name = &argument[..argument.len() - path.len()];
            format!("{name}{}", files.join(path).display())
        }
        _ => argument.into(),
    }
}

impl Lab {
    /// Takes a submission: `upload` is its tar.
    ///
    /// # Errors
    /// If it is malformed, has a mistake, no board fits it, or the lab cannot keep it.
    pub fn submit(&self, upload: &Path, submitter: &str) -> Result<i64, Refused> {
        if let Some(full) = self.parts.directories.full() {
            return Err(Refused::new(RefusedKind::Full, full));
        }
        let place = self.parts.directories.submissions();
        let beside = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&place)?;
        let spec = unpack(File::open(upload)?, beside.path())?;
        let name = self.check(&spec, beside.path())?;
        let files = digest_of(upload)?;
        keep(beside, &place.join(&files))?;
        self.enqueue(&spec, &name, submitter, &files)
    }

    /// Submits a finished job again, as it was.
    pub fn retry(&self, job: &Job, submitter: &str) -> Result<i64, Refused> {
        self.check_boards(&job.spec)?;
        self.enqueue(&job.spec, &job.name, submitter, &job.files)
    }

    fn enqueue(
        &self,
        spec: &Submission,
        name: &str,
        submitter: &str,
        files: &str,
    ) -> Result<i64, Refused> {
        let id = self.parts.store.enqueue(&NewJob {
            kind: Kind::Test,
            name,
            submitter,
            spec,
            files,
            now: now(),
        })?;
        self.look();
        Ok(id)
    }

    /// Keeps one file as a submission's files; gives the directory's name.
    pub(super) fn keep_text(&self, name: &str, text: &str) -> Result<String> {
        let place = self.parts.directories.submissions();
        let hash = hex::encode(&Sha256::digest(format!("{name}\n{text}"))[..16]);
        if place.join(&hash).exists() {
            return Ok(hash);
        }
        let beside = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&place)?;
        fs::create_dir(beside.path().join("files"))?;
        fs::write(beside.path().join("files").join(name), text)?;
        keep(beside, &place.join(&hash)).context("cannot keep the job's files")?;
        Ok(hash)
    }

    /// Checks all that can be known before the job runs; gives the job's name.
    fn check(&self, spec: &Submission, directory: &Path) -> Result<String, Refused> {
        if spec.definitions.is_empty() {
            return Err(Refused::invalid("a job needs a test definition"));
        }
        for parameter in &spec.parameters {
            parameter.parse::<Parameter>().map_err(Refused::invalid)?;
        }
        if spec
            .timeout
            .is_some_and(|time| !(time.is_finite() && time > 0.0))
        {
            return Err(Refused::invalid(
                "a time-out is a number of seconds above 0",
            ));
        }
        if spec.image.is_some() && spec.recipe.is_some() {
            return Err(Refused::invalid("a job has an image or a recipe, not both"));
        }
        if let Some(image) = &spec.image {
            image_directory(&self.parts.images, image).map_err(Refused::invalid)?;
        }
        self.check_boards(spec)?;
        let name = check_definitions(spec, &directory.join("files"))?;
        let name = spec.name.clone().or(name);
        Ok(name.unwrap_or_else(|| without_name(&spec.definitions[0]).into()))
    }

    fn check_boards(&self, spec: &Submission) -> Result<(), Refused> {
        if spec.board.is_none() && spec.board_type.is_none() {
            return Err(Refused::invalid("a job names a board or a board type"));
        }
        let job = WaitingJob {
            id: i64::MAX,
            kind: Kind::Test,
            board: spec.board.clone(),
            board_type: spec.board_type.clone(),
            tags: spec.tags.clone(),
            priority: spec.priority,
            submitter: String::new(),
            overtaken: 0,
            avoid: Vec::new(),
        };
        let boards = self.snapshot()?.facts();
        if spec.wait || boards.iter().any(|board| fits(&job, board)) {
            return Ok(());
        }
        let input = Input {
            waiting: vec![job],
            boards,
            ..Input::default()
        };
        let why = explain(&input, i64::MAX).unwrap_or_default();
        Err(Refused::new(RefusedKind::NoBoard, why))
    }
}

/// Loads the definitions that came with the job; those in repositories are read when it runs.
fn check_definitions(spec: &Submission, files: &Path) -> Result<Option<String>, Refused> {
    let mut loader = Loader::default();
    let mut first = None;
    for argument in &spec.definitions {
        let Some(path) = local_path(argument).map_err(Refused::invalid)? else {
            continue;
        };
        check_is_within(files, path)?;
        let loaded = loader.load(&resolved(argument, files)).map_err(|error| {
            // The submitter knows the file by the name that it has in the submission.
            let place = format!("{}/", files.display());
            Refused::invalid(format!("{error:#}").replace(&place, ""))
        })?;
        first = first.or_else(|| loaded.first().map(|it| it.definition.name.clone()));
    }
    Ok(first)
}

/// No link may make a definition of a file of the lab's host.
fn check_is_within(files: &Path, path: &str) -> Result<(), Refused> {
    let place = files.join(path.split('#').next().unwrap_or_default());
    let real = place.canonicalize();
    let real = real.map_err(|_| Refused::invalid(format!("the submission has no `{path}`")))?;
    match real.starts_with(files.canonicalize()?) {
        true => Ok(()),
        false => Err(Refused::invalid(format!(
            "`{path}` leads out of the submission"
        ))),
    }
}

/// The directory of a build that a job may boot: by its name below the lab's images, by its image's id, or by an
/// absolute path there.
///
/// # Errors
/// A sentence, if there is none.
pub fn image_directory(images: &Path, name: &str) -> Result<PathBuf, String> {
    let missing = || format!("the lab has no image `{name}` in {}", images.display());
    let root = images.canonicalize().map_err(|_| missing())?;
    if let Ok(directory) = root.join(name).canonicalize()
        && directory.starts_with(&root)
        && directory.join(Manifest::FILE).is_file()
    {
        return Ok(directory);
    }
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        if Manifest::load(&entry.path()).is_ok_and(|manifest| manifest.image == name) {
            return Ok(entry.path());
        }
    }
    Err(missing())
}

/// The name of a submission's directory: the hash of its tar.
fn digest_of(upload: &Path) -> io::Result<String> {
    let mut file = File::open(upload)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(&digest.finalize()[..16])),
            count => digest.update(&buffer[..count]),
        }
    }
}

/// Puts a directory to its place, unless the same files are there already.
fn keep(directory: tempfile::TempDir, place: &Path) -> io::Result<()> {
    let moved = fs::rename(directory.path(), place);
    match moved {
        Ok(()) => {
            // Moved away: nothing is left to remove.
            let _ = directory.keep();
            Ok(())
        }
        Err(_) if place.join("files").is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_below_the_files_or_in_a_repository_elsewhere() {
        assert_eq!(local_path("0/t.yaml"), Ok(Some("0/t.yaml")));
        assert_eq!(local_path("net=1#a/b.yaml"), Ok(Some("1#a/b.yaml")));
        assert_eq!(local_path("https://x.org/r=1#a.yaml@v1"), Ok(None));
        assert_eq!(local_path("n=ssh://git@x/r#a.yaml"), Ok(None));
        for wrong in [
            "/etc/passwd",
            "../t.yaml",
            "a/../../t.yaml",
            "file:///srv/r#t.yaml",
            "n=/srv/r#t.yaml",
            "git://x/r#t.yaml",
            "https://x.org/r",
            "",
        ] {
            assert!(local_path(wrong).is_err(), "{wrong}");
        }
        let files = Path::new("/f");
        assert_eq!(resolved("net=1#a.yaml", files), "net=/f/1#a.yaml");
        assert_eq!(resolved("0/t.yaml", files), "/f/0/t.yaml");
        assert_eq!(resolved("https://x#a@1", files), "https://x#a@1");
    }

    #[test]
    fn no_name_of_an_image_leads_out_of_the_labs_images() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("out");
        for place in ["out/one", "elsewhere"] {
            let build = dir.path().join(place);
            fs::create_dir_all(&build).unwrap();
            fs::write(build.join(Manifest::FILE), common::manifest("test-0123")).unwrap();
        }
        let found = image_directory(&images, "one").unwrap();
        assert_eq!(
            image_directory(&images, found.to_str().unwrap()),
            Ok(found.clone())
        );
        assert_eq!(image_directory(&images, "test-0123"), Ok(found));
        let elsewhere = dir.path().join("elsewhere");
        for wrong in ["two", "../elsewhere", elsewhere.to_str().unwrap(), "", "."] {
            assert!(image_directory(&images, wrong).is_err(), "{wrong}");
        }
    }
}
