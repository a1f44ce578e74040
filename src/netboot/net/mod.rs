//! Owns who may connect, and how many connections there are at once.
//! Never knows a protocol.

pub mod access;
pub mod connections;
pub(super) mod credit;
pub(super) mod limits;
pub(super) mod patience;
