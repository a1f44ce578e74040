//! Owns the client of the lab's API for people, which the command line uses. Never prints.

mod calls;
mod follow;
mod pack;
mod reservation;

pub use calls::{Client, JobShown, LabShown};
pub use follow::{Event, Events};
pub use pack::pack;
pub use reservation::Reservation;
