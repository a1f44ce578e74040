//! Owns what a user asks for that takes several rooms: one file a use case.
//! Never parses arguments, and never prints.

pub mod boot_board;
pub mod bootloader;
mod build_output;
pub mod card;
mod device_lock;
pub mod lab_runs;
pub mod lock;
pub mod plan;
pub mod run_job;
pub mod serve_lab;
mod servers;
pub mod target;
pub mod test_board;

pub use build_output::BuildOutput;
pub use servers::Serving;
