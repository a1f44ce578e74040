//! Owns one board: power, console, emulation, and the tracking of its boot.
//! Never knows how an image was built, and never serves anything.

mod boot_state;
mod boot_tracker;
pub mod console;
mod console_parser;
mod console_patterns;
mod failure;
mod limits;
mod log;
pub mod network;
pub mod numbered;
pub mod power;
pub mod qemu;
pub mod shell;

pub use boot_state::BootState;
pub use boot_tracker::BootTracker;
pub use console_parser::{ConsoleEvent, ConsoleParser};
pub use failure::{BootStage, FailureClass, RunFailure};
pub use limits::{Retries, Timeouts};
pub use log::ConsoleLog;
