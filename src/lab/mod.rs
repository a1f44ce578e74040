//! Owns the lab's HTTP API for boards, its store, and who a board is.
//! Never reads a console, and never switches power.

mod api;
mod identity;
mod store;

pub use api::{OPENAPI, router};
pub use identity::{Claim, Known, check};
pub use store::{Boot, Job, JobState, Store};
