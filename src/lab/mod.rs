//! Owns the lab: the HTTP API for boards, its store, who a board is, and the run of a job on one.
//! Never builds an image, and never serves one.

mod adopt;
mod api;
mod attempt;
mod board_access;
mod booted;
pub mod client;
mod console_monitor;
pub mod emulated;
mod identity;
mod job_output;
mod listing;
pub mod network;
mod people;
pub mod queue;
mod request;
mod run;
mod secret;
pub mod service;
mod store;
mod waiters;
mod warnings;

pub use adopt::{adopt, choose, unknown_boards};
pub use api::{OPENAPI, router};
pub use board_access::BoardAccess;
pub use booted::{BootRequest, BootedBoard};
pub use identity::{Claim, Known, check};
pub use listing::{List, listing};
pub use people::{ROUTES, people};
pub use request::{JobRequest, Observer};
pub use run::{RunResult, run};
pub use store::{
    Asked, BoardEvent, Boot, Cancelled, Filter, Granted, JobState, JobStatus, LabStore, NewJob,
    OpenAttempt, PowerState, Settled, StoreError,
};
