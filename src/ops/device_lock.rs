//! Owns the lock on a real board's console line, one for the whole host: two labs that describe one board do not both drive
//! it. Never waits: within one lab runs wait for each other elsewhere.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::error::Fault;
use crate::recipe::{Board, Console};

/// Where lock files of devices are (FHS 3.0, 5.9), which every user may write to.
const PLACE: &str = "/run/lock";

/// Takes the lock of the board's console, if that is a line that only one can use. It holds until the file is dropped.
///
/// # Errors
/// If a run of another lab has it, with the name of both.
pub(super) fn take(lab: &str, state: &Path, board: &Board) -> Result<Option<File>> {
    let lab = format!("{lab} with its state in {}", state.display());
    let Some(line) = line(board) else {
        return Ok(None);
    };
    let path = place().join(format!(
        "hearth-{}",
        &hex::encode(Sha256::digest(&line))[..16]
    ));
    let mut lock = open(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if lock.try_lock().is_err() {
        let mut who = String::new();
        Read::take(&mut lock, 1000).read_to_string(&mut who)?;
        let own = format!("{lab}\n");
        if who.starts_with(&own) {
            // A run of this lab: its own lock says who waits.
            return Ok(None);
        }
        return Err(Fault::infrastructure(format!(
            "the console of board `{}` ({line}) is in use by the lab {}",
            board.name,
            who.trim().replace('\n', ", ")
        ))
        .remedy("two labs describe one board: take it out of one lab file")
        .into());
    }
    // Another user's file cannot be written: it then says who had it before.
    let text = format!(
        "{lab}\nboard {}\nprocess {}\n",
        board.name,
        std::process::id()
    );
    if lock.set_len(0).is_ok() {
        lock.rewind()?;
        lock.write_all(text.as_bytes())?;
    }
    Ok(Some(lock))
}

/// What the console is, whatever the lab calls the board. Programs and emulators are each run's own.
fn line(board: &Board) -> Option<String> {
    match board.console.as_ref()? {
        Console::Serial { device, .. } => {
            let device = device.canonicalize().unwrap_or_else(|_| device.clone());
            Some(device.display().to_string())
        }
        Console::Tcp { address } | Console::Telnet { address } => Some(address.clone()),
        Console::Command { .. } | Console::Qemu {} => None,
    }
}

fn place() -> PathBuf {
    let usual = Path::new(PLACE);
    match usual.is_dir() {
        true => usual.to_path_buf(),
        false => env::temp_dir(),
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o644);
    // Another user's file is locked without being written (fs.protected_regular forbids more).
    options.open(path).or_else(|_| File::open(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::LoadedLab;

    #[test]
    fn a_console_is_one_labs_at_a_time_and_the_other_is_told_whose() {
        let mut board = LoadedLab::emulated("qemu-virt-arm")
            .unwrap()
            .boards
            .remove(0);
        let state = Path::new("/var/lib/hearth");
        assert!(take("desk", state, &board).unwrap().is_none());
        board.console = Some(Console::Tcp {
            address: format!("test-{}:1", std::process::id()),
        });
        let first = take("desk", state, &board).unwrap();
        assert!(first.is_some());
        let error = take("rack", state, &board).unwrap_err().to_string();
        assert!(
            error.contains(
                "is in use by the lab desk with its state in /var/lib/hearth, board qemu-virt-arm"
            ),
            "{error}"
        );
        // Runs of one lab wait for each other at their own lock.
        assert!(take("desk", state, &board).unwrap().is_none());
        drop(first);
        assert!(take("rack", state, &board).unwrap().is_some());
    }
}
