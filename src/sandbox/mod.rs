//! Owns the namespaces in which foreign maintainer scripts run: mounts, private binfmt_misc, syscall filter.
//! Never decides what runs in them.
//!
//! # Two layers
//!
//! 1. **The namespaces** ([`Namespaces`]): user, mount, pid, ipc, uts and (unless asked otherwise) net.
//!    hearth runs itself again in them, as user 0 with all capabilities over files of the mapped ids, so
//!    that its own code can unpack packages and write tars with the right owners, whoever the caller is.
//!    The host's files are seen under their usual paths. qemu-user is registered in a `binfmt_misc`
//!    instance of the user namespace.
//!    Ids 0 to 65535 are subordinate ids of the caller's, root's too; the caller itself is 65536 there.
//! 2. **The root** ([`Root`]): what runs a program of the image. It is entered from layer 1 only: a mount
//!    namespace more, pivoted into the image's directory, with its own `/proc`, `/sys`, `/dev`, `/run` and
//!    `/tmp`, a fixed environment, and a filter that makes `fsync` cheap. When all is mounted, it enters a second user
//!    namespace with the image's ids only and a second mount namespace, in which all mounts are locked, and gives up
//!    capabilities, system calls and the terminal (`confine`).
//!
//! ```text
//! hearth build ── A: unshares, is given its ids ── B: pid 1, runs the step ── qemu-arm /bin/sh …
//! ```
//!
//! A program that is used by hand has a terminal of the root's own, whose other end hearth outside connects with the
//! operator's (`pty`, `relay`); that a process guards, so that its modes are put back whatever ends hearth (`terminal`).
//!
//! A dies with hearth, B with A (`PR_SET_PDEATHSIG`), and with B, as pid 1, the kernel ends everything
//! in its pid namespace. Mounts exist in the private mount namespaces only and go with their last process.
//!
//! # Running hearth's own code inside
//!
//! Declare a [`Step`], and see that the module's list is in [`crate::inside`]:
//!
//! ```ignore
//! // in rootfs: runs inside; input and output are whatever serde can carry
//! fn unpack(input: PackagesInput, progress: &dyn Progress) -> Result<()>
//! steps! { pub UNPACK = "unpack": unpack, PackagesInput => (); }
//!
//! // outside, in the pipeline
//! Namespaces::new().step(&UNPACK, &PackagesInput { .. }, progress)?;
//!
//! // inside a step: a program of the image, with its output line by line
//! let root = Root::new(directory);
//! let status = root.run(&Program::new(["dpkg", "--audit"]), &mut |line| lines.push(line.to_owned()))?;
//! ```
//!
//! Steps may use threads. Progress, log messages, the result and errors (with their class and
//! remedy) reach the caller as if the function had been called directly. The step runs with umask 022 and
//! the working directory of the caller; its standard input is empty and its standard output taken, and
//! it must not print.

mod binfmt;
mod cause;
mod confine;
mod environment;
mod events;
mod filter;
mod ids;
mod inside;
pub(crate) mod loopback;
mod mounts;
mod namespaces;
mod pty;
mod relay;
mod remove;
mod request;
mod root;
mod step;
mod sys;
mod terminal;
mod watch;

pub use binfmt::architecture_of;
pub use cause::{Cause, FailedScript};
pub use environment::PATH;
pub use ids::{hand_over, owners};
pub use inside::inside;
pub use mounts::overlay;
pub use namespaces::Namespaces;
pub(crate) use remove::STEPS;
pub use remove::remove;
pub use root::{Program, Root, View};
pub(crate) use step::steps;
pub use step::{AnyStep, Step};
pub use watch::Limits;
