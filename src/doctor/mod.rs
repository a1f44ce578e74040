//! Owns the examination of the host: what hearth needs, whether it is there, and what to do if not.
//! Never changes the host; all it knows of it comes through a [`Probe`].

mod check;
mod checks;
mod probe;

pub use check::{Check, State};
pub use checks::{examine, is_able};
pub use probe::{Account, Endpoint, Host, Probe, STEPS};
