//! Owns the classes of failure, and thereby hearth's exit codes. Never prints.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::diagnostic::Diagnostic;

/// Why a command failed; each class is one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Tests ran, and at least one of them failed.
    Tests,
    /// Bad usage, or bad input: a file, a recipe, an argument.
    Input,
    /// The host lacks something: a program, a kernel feature, disk space.
    Host,
    /// A board, a network, a mirror or a power switch failed.
    Infrastructure,
    /// hearth itself is at fault: nothing that foresaw this failure classed it.
    Internal,
}

impl Class {
    /// The process exit code of this class (success is 0). `Internal` is `EX_SOFTWARE` of sysexits.h.
    pub const fn exit_code(self) -> u8 {
        match self {
            Class::Tests => 1,
            Class::Input => 2,
            Class::Host => 3,
            Class::Infrastructure => 4,
            Class::Internal => 70,
        }
    }

    /// The class of an exit code that another process of hearth's ended with; `Internal` for what is none.
    pub fn of_exit_code(code: u8) -> Class {
        [
            Class::Tests,
            Class::Input,
            Class::Host,
            Class::Infrastructure,
        ]
        .into_iter()
        .find(|class| class.exit_code() == code)
        .unwrap_or(Class::Internal)
    }
}

/// A failure with a class: one sentence that names the thing, and what to do about it.
#[derive(Debug)]
pub struct Fault {
    class: Class,
    sentence: String,
    remedy: Option<String>,
    cause: Option<Box<dyn Any + Send + Sync>>,
}

impl Fault {
    pub fn new(class: Class, sentence: impl Into<String>) -> Self {
        Fault {
            class,
            sentence: sentence.into(),
            remedy: None,
            cause: None,
        }
    }

    pub fn input(sentence: impl Into<String>) -> Self {
        Fault::new(Class::Input, sentence)
    }

    pub fn host(sentence: impl Into<String>) -> Self {
        Fault::new(Class::Host, sentence)
    }

    pub fn infrastructure(sentence: impl Into<String>) -> Self {
        Fault::new(Class::Infrastructure, sentence)
    }

    /// Says what the user can do about it; printed as a line of its own, after `help:`.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds a value by whose type a caller decides what to do next: see [`cause_of`].
    #[must_use]
    pub fn because<T: Any + Send + Sync>(mut self, cause: T) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }

    pub fn class(&self) -> Class {
        self.class
    }

    pub fn help(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl StdError for Fault {}

/// The class of an error chain: that of the outermost [`Fault`] in it. Without one, an I/O error is the host's (a full
/// disk, exhausted memory or descriptors) or the input's (a path that is not there or may not be used, data that is
/// cut short or malformed); everything else is hearth's own.
pub fn class_of(error: &anyhow::Error) -> Class {
    // Given as context, it is not found in the chain.
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.class;
    }
    for cause in error.chain() {
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            return fault.class;
        }
        if cause.is::<Diagnostic>() || cause.is::<Box<Diagnostic>>() {
            return Class::Input;
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            if is_hosts_fault(io) {
                return Class::Host;
            }
            if is_inputs_fault(io) {
                return Class::Input;
            }
        }
    }
    Class::Internal
}

/// The first value of this type that a [`Fault`] of an error chain was given with [`Fault::because`].
pub fn cause_of<T: Any>(error: &anyhow::Error) -> Option<&T> {
    let outermost = error.downcast_ref::<Fault>();
    let inner = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Fault>());
    outermost
        .into_iter()
        .chain(inner)
        .find_map(|fault| fault.cause.as_deref()?.downcast_ref())
}

/// Says where a mistake in the input is, for readers of files whose parts only know what is wrong.
pub trait InputContext<T> {
    /// The error with this sentence before it; one that nobody classed is the input's then.
    ///
    /// # Errors
    /// The one that it is called on.
    fn input_context(self, sentence: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> InputContext<T> for Result<T, E> {
    fn input_context(self, sentence: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            match class_of(&error) {
                Class::Internal => error.context(Fault::input(sentence())),
                _ => error.context(sentence()),
            }
        })
    }
}

fn is_inputs_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, InvalidData, InvalidFilename, IsADirectory,
        NotADirectory, NotFound, PermissionDenied, UnexpectedEof,
    };
    matches!(
        error.kind(),
        NotFound
            | PermissionDenied
            | AlreadyExists
            | NotADirectory
            | IsADirectory
            | DirectoryNotEmpty
            | InvalidFilename
            | InvalidData
            | UnexpectedEof
    ) || error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32)
}

fn is_hosts_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem | OutOfMemory
    ) || matches!(
        error.raw_os_error().map(nix::errno::Errno::from_raw),
        Some(nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE)
    )
}

/// The first remedy in an error chain, if any error of the chain has one.
pub fn help_of(error: &anyhow::Error) -> Option<&str> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Fault>()?.help())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_class_survives_context() {
        let error = Err::<(), _>(Fault::host("no qemu-arm").remedy("install qemu-user-static"))
            .context("building trixie-armhf")
            .unwrap_err();
        assert_eq!(class_of(&error), Class::Host);
        assert_eq!(help_of(&error), Some("install qemu-user-static"));
    }

    #[test]
    fn the_cause_survives_context_and_is_found_by_its_type_only() {
        #[derive(Debug, PartialEq)]
        struct Stuck(u8);
        let error = Err::<(), _>(Fault::input("no").because(Stuck(7)))
            .context("building")
            .context(Fault::host("outermost"))
            .unwrap_err();
        assert_eq!(cause_of(&error), Some(&Stuck(7)));
        assert_eq!(cause_of::<u8>(&error), None);
        assert_eq!(cause_of::<Stuck>(&Fault::input("no").into()), None);
    }

    #[test]
    fn a_full_disk_is_the_hosts_fault_and_a_missing_file_is_input() {
        let full = io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32);
        assert_eq!(class_of(&anyhow::Error::new(full)), Class::Host);
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(class_of(&anyhow::Error::new(missing)), Class::Input);
    }

    #[test]
    fn what_nobody_classed_is_hearths_own_fault() {
        assert_eq!(class_of(&anyhow::anyhow!("impossible")), Class::Internal);
        assert_eq!(Class::Internal.exit_code(), 70);
    }
}
