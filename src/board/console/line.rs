//! Owns what every console driver offers, and how all of them read.
//! Never opens one.

use std::io;
use std::time::Duration;

/// A board's console, open for reading and writing.
pub trait Console: Send {
    /// Reads what has come, at most `buffer.len()` bytes; 0 if nothing came within `patience`.
    ///
    /// # Errors
    /// If the console is lost for good. One that is opened again reads as silent while it is [`Console::gone`].
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Sends all of `data` to the board.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;

    /// Why nothing can be read at present, as a sentence that names the console: it was lost and is tried again.
    fn gone(&self) -> Option<&str> {
        None
    }

    /// What was missed while the console was gone, told once, before what [`Console::read`] gave last.
    fn missed(&mut self) -> Option<String> {
        None
    }
}

/// What `read` says when the other side is gone.
pub(super) fn lost() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the console was closed by its other side",
    )
}

/// Turns "nothing yet" into 0 and an orderly end into an error.
pub(super) fn settle(result: io::Result<usize>) -> io::Result<usize> {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    match result {
        Ok(0) => Err(lost()),
        Err(error) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => Ok(0),
        other => other,
    }
}
