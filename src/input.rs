//! Owns how files that a user, a recipe or an image names are opened for reading: regular files only, and nothing is waited for.
//! Never interprets what is in them.
//!
//! A named pipe without a writer would be waited for, a device may never end, or do something when it is opened. Only where a
//! reader says that it takes streams, or the name is that of a descriptor that the caller has opened itself (`/dev/stdin`,
//! `/dev/fd/63`, as a shell's `<(…)` gives it), a pipe is read as well.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What is read whole is no longer than this, in bytes.
pub const LARGEST: u64 = 64 << 20;

/// Opens a regular file.
///
/// # Errors
/// If it is none, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: that of some devices is not without effect.
    regular(&fs::metadata(path)?)?;
    let file = without_waiting(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Names in a directory, sorted; none if it cannot be read.
pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Reads a regular file, or a pipe that the caller has opened, whole.
///
/// # Errors
/// If it is neither, cannot be read, or has more than [`LARGEST`] bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = if is_descriptor(path) && fs::metadata(path)?.file_type().is_fifo() {
        stream(path)?
    } else {
        open(path)?
    };
    let mut data = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut data)?;
    if data.len() as u64 > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is larger than {} MiB", LARGEST >> 20),
        ));
    }
    Ok(data)
}

/// [`read`], as text.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Opens a file or a pipe, for readers that take streams. A named pipe that nobody writes to is not waited for: it is empty.
///
/// # Errors
/// If it cannot be opened.
pub fn stream(path: &Path) -> io::Result<File> {
    let file = without_waiting(path)?;
    // Only the opening must not wait: who writes to a pipe may take their time.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

fn without_waiting(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
}

/// # Errors
/// If it is something else: what it is, for a sentence that names it.
pub fn regular(meta: &Metadata) -> io::Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    let kind = match meta.is_dir() {
        true => io::ErrorKind::IsADirectory,
        false => io::ErrorKind::InvalidData,
    };
    let what = what_it_is(meta.file_type());
    Err(io::Error::new(
        kind,
        format!("it is {what}, not a regular file"),
    ))
}

/// Such as `a directory`.
pub fn what_it_is(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() {
        "a disk"
    } else if kind.is_char_device() {
        "a device"
    } else if kind.is_symlink() {
        "a link"
    } else {
        "a file"
    }
}

/// Whether a name stands for a descriptor that this process has been given.
pub fn is_descriptor(path: &Path) -> bool {
    ["/dev/stdin", "/dev/stdout", "/dev/stderr"]
        .iter()
        .any(|name| path == Path::new(name))
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|directory| path.parent() == Some(Path::new(directory)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    use nix::sys::stat::Mode;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, socket) = (dir.path().join("pipe"), dir.path().join("socket"));
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("pipe", &link).unwrap();
        let begun = Instant::now();
        for (path, says) in [
            (pipe.as_path(), "a named pipe"),
            (&link, "a named pipe"),
            (&socket, "a socket"),
            (dir.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/tty"), "a device"),
        ] {
            for error in [open(path).unwrap_err(), read(path).unwrap_err()] {
                assert!(error.to_string().contains(says), "{path:?}: {error}");
                assert_eq!(
                    crate::error::class_of(&error.into()),
                    crate::error::Class::Input
                );
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file).unwrap(), "text");
        fs::write(&file, b"\xff").unwrap();
        assert!(read_text(&file).is_err());
        File::create(&file).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("64 MiB"));
    }

    #[test]
    fn a_pipe_that_the_caller_has_opened_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(b"late").unwrap();
            std::thread::sleep(Duration::from_millis(50));
            writer.write_all(b"r").unwrap();
        });
        let name = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read(Path::new(&name)).unwrap(), b"later");
        writing.join().unwrap();
        assert!(open(Path::new(&name)).is_err());
    }
}
