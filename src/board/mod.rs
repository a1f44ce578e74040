//! Owns one board: power, console, emulation, and the boot state machine.
//! Never knows how an image was built, and never serves anything.

pub mod console;
mod log;
mod machine;
pub mod network;
pub mod numbered;
mod outcome;
pub mod power;
pub mod qemu;
mod watch;

pub use log::ConsoleLog;
pub use machine::{Machine, Retries, State, Timeouts};
pub use outcome::{Failure, FailureClass, Stage};
pub use watch::{Event, Watch};
