//! Owns the lab: the HTTP API for boards, its store, who a board is, and the run of a job on one.
//! Never builds an image, and never serves one.

mod api;
pub mod emulated;
mod identity;
pub mod network;
mod run;
mod store;

pub use api::{OPENAPI, router};
pub use identity::{Claim, Known, check};
pub use run::{Access, Booted, Observer, Order, Ran, run};
pub use store::{Boot, Job, JobState, Store};
