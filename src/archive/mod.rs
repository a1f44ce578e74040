//! Owns the Debian archive client: releases and their signatures, indices, version order, resolver,
//! downloads, `.deb` files.
//! Never knows what a root file system is.

mod cache;
pub mod deb;
mod fetch;
mod hash;
mod index;
pub mod limit;
mod local;
mod lock;
mod mirror;
pub mod mixture;
pub mod relation;
mod release;
mod resolve;
mod signature;
mod transport;
mod verified;
pub mod version;

pub use cache::Cache;
pub use fetch::{FetchError, Fetcher, Wanted};
pub use index::{Index, Package, Priority};
pub use lock::{Options, Update, base_set, load_index, make_lock};
pub use mirror::Mirrors;
pub use release::{Policy, Release};
pub use resolve::{Request, Unsatisfiable, resolve};
pub use signature::{Keyring, SignatureError, SignedText};
pub use transport::{Client, Limits, TransferError};
