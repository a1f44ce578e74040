//! Owns finding the change that turned a test bad: between two locks, and between two commits.
//! Never decides what bad is: see `job`.

pub mod git;
pub mod journal;
pub mod mixed_lock;
pub mod packages;
pub mod search;
