//! Owns the running lab: its queue, its boards' states, and the thread that gives jobs to boards.
//! Never runs a job itself: a [`Runner`] does, in processes of their own.

mod boards;
mod directories;
mod end;
mod manager;
mod refused;
mod reservations;
mod runner;
mod signals;
mod snapshot;
mod submit;
mod unpack;

pub use boards::{BoardStatus, PowerWord};
pub use directories::Directories;
pub use end::{END, End};
pub use manager::{Lab, Manager, Parts};
pub use refused::{Refused, RefusedKind};
pub use reservations::{Held, ReserveRequest};
pub use runner::{EVENTS, Notifier, ORDER, Order, Runner};
pub use signals::Signals;
pub use submit::{image_directory, local_path, resolved};
