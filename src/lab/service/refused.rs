//! Owns why a submission is not taken. Never decides it.

use std::io;

use crate::lab::store::StoreError;

/// Why a submission is not taken.
#[derive(Debug)]
pub struct Refused {
    pub kind: RefusedKind,
    /// One sentence, or a definition's mistake with its line.
    pub sentence: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedKind {
    /// It cannot be read.
    Malformed,
    /// It asks for what cannot be.
    Invalid,
    /// No board of the lab fits it.
    NoBoard,
    /// The lab's disk is nearly full.
    Full,
    /// The lab failed.
    Failed,
}

impl Refused {
    pub(super) fn new(kind: RefusedKind, sentence: impl Into<String>) -> Self {
        Refused {
            kind,
            sentence: sentence.into(),
        }
    }

    pub(super) fn malformed(sentence: impl Into<String>) -> Self {
        Refused::new(RefusedKind::Malformed, sentence)
    }

    pub(super) fn invalid(sentence: impl Into<String>) -> Self {
        Refused::new(RefusedKind::Invalid, sentence)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RefusedKind::Full,
            io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidInput => RefusedKind::Malformed,
            _ => RefusedKind::Failed,
        };
        Refused::new(kind, format!("the files cannot be kept: {error}"))
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Refused::new(
            RefusedKind::Failed,
            format!("{:#}", anyhow::Error::new(error)),
        )
    }
}
