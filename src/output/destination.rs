//! Owns what a file that a user names as an output may take the place of. Never writes it.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::Fault;
use crate::input;

/// What a file's name leads to.
pub enum Destination {
    /// Nothing, or a regular file, which may be replaced there.
    File(PathBuf),
    /// What the caller has opened.
    Stream,
}

impl Destination {
    /// # Errors
    /// If nothing must be written there.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.display();
        let Ok(meta) = fs::metadata(path) else {
            return match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_symlink() => Err(Fault::input(format!(
                    "{name} is a link that leads nowhere: it is not replaced"
                ))
                .remedy("remove it, or name another file")
                .into()),
                _ => Ok(Destination::File(path.to_path_buf())),
            };
        };
        if meta.is_file() {
            return Ok(Destination::File(
                fs::canonicalize(path).with_context(|| format!("cannot write {name}"))?,
            ));
        }
        if !meta.is_dir() && (input::is_descriptor(path) || path == Path::new("/dev/null")) {
            return Ok(Destination::Stream);
        }
        let what = input::what_it_is(meta.file_type());
        let fault = Fault::input(format!("{name} is {what}, not a file to write"));
        Err(match meta.file_type().is_block_device() {
            true => fault.remedy("`hearth flash` writes to disks, and looks before it does"),
            false => fault.remedy("name a new file, or /dev/stdout for a pipe"),
        }
        .into())
    }
}

/// Refuses an output of a command that is one of its inputs, under whatever name: nothing of it would be left.
///
/// # Errors
/// If one is the same file.
pub fn refuse_inputs<P: AsRef<Path>>(
    output: &Path,
    inputs: impl IntoIterator<Item = P>,
) -> Result<()> {
    let Ok(meta) = fs::metadata(output) else {
        return Ok(());
    };
    for input in inputs {
        let is_same = fs::metadata(input.as_ref()).is_ok_and(|other| {
            meta.is_file() && (other.dev(), other.ino()) == (meta.dev(), meta.ino())
        });
        if is_same {
            return Err(Fault::input(format!(
                "{} is read and cannot be written as well",
                output.display()
            ))
            .remedy("name another file to write")
            .into());
        }
    }
    Ok(())
}

/// Refuses an output that is already there and is no card image: nothing in it says that it may go. An empty file may.
///
/// # Errors
/// If it has content without the boot signature of a partition table (55 AA at byte 510), or cannot be read.
pub fn refuse_other_than_card(output: &Path) -> Result<()> {
    let size = match fs::metadata(output) {
        Ok(meta) if meta.is_file() => meta.len(),
        // [`Destination::of`] judges what is no file.
        _ => return Ok(()),
    };
    let mut signature = [0; 2];
    let read = fs::File::open(output).and_then(|file| file.read_exact_at(&mut signature, 510));
    if size == 0 || (read.is_ok() && signature == [0x55, 0xaa]) {
        return Ok(());
    }
    Err(Fault::input(format!(
        "{} is no card image: it is not replaced",
        output.display()
    ))
    .remedy("name a new file, or move away what is there")
    .into())
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, write_atomically};
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_neither_replaced_nor_written_nor_waited_for() {
        write_atomically(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&name("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(name("socket")).unwrap();
        fs::create_dir(name("directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", name("dangling")).unwrap();
        std::os::unix::fs::symlink("pipe", name("to-pipe")).unwrap();
        let before = fs::read_dir(dir.path()).unwrap().count();
        for place in [
            name("pipe"),
            name("to-pipe"),
            name("socket"),
            name("directory"),
            name("dangling"),
            "/dev/full".into(),
            "/dev/tty".into(),
        ] {
            let error = write_atomically(&place, b"x").unwrap_err().to_string();
            assert!(error.contains(" is a "), "{error}");
            assert!(Batch::default().add(&place, b"x").is_err());
        }
        assert!(Batch::default().add(Path::new("/dev/null"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
        assert!(!name("nowhere").exists());
    }

    #[test]
    fn a_link_keeps_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_atomically(&link, b"new").unwrap();
        let mut batch = Batch::default();
        batch.add(&link, b"newer").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        batch.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"newer");
    }

    #[test]
    fn an_input_is_no_output_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name);
        fs::write(name("in"), "x").unwrap();
        fs::hard_link(name("in"), name("hard")).unwrap();
        std::os::unix::fs::symlink("in", name("soft")).unwrap();
        for output in ["in", "hard", "soft"] {
            assert!(refuse_inputs(&name(output), [name("in")]).is_err());
        }
        refuse_inputs(&name("out"), [name("in")]).unwrap();
        refuse_inputs(Path::new("/dev/null"), ["/dev/null"]).unwrap();
    }
}
