//! Owns the lab: the HTTP API for boards, its store, who a board is, and the run of a job on one.
//! Never builds an image, and never serves one.

mod access;
mod adopt;
mod api;
mod attended;
mod booted;
pub mod emulated;
mod identity;
pub mod network;
mod run;
mod secret;
mod session;
mod store;
mod store_file;

pub use access::Access;
pub use adopt::{adopt, choose, strangers};
pub use api::{OPENAPI, router};
pub use booted::Booted;
pub use identity::{Claim, Known, check};
pub use run::{Observer, Order, Ran, run};
pub use store::{Boot, Job, JobState, Store};
