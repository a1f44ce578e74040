//! Owns the check of the host: what hearth needs, whether it is there, and the remedy if not.
//! Never changes the host, and reads it only through a [`Probe`].

mod check;
mod checks;
mod probe;

pub use check::{Check, State};
pub use checks::{examine, is_able};
pub(crate) use probe::STEPS;
pub use probe::{Account, Endpoint, Host, Probe};
