//! Owns a build: its plan, its pipeline of stages, their cache, what is published, and the proof that it reproduces.
//! Never fetches, and never knows of a lab.

mod boot;
pub mod compose;
mod image;
mod initrd;
mod inventory;
mod keys;
mod pipeline;
mod plan;
mod publish;
mod sbom;
mod sealing;
mod side_stages;
mod stages;
pub mod verify;

pub use boot::extract_bootloaders;
pub(crate) use image::STEPS;
pub use initrd::{WantedInitrd, build_initrd, wrap_initrd};
pub use pipeline::{Built, StageReport, Until, build, layers};
pub use plan::Plan;
pub(crate) use sealing::STEPS as SEAL_STEPS;
pub use side_stages::SideStages;
pub use stages::{Key, Stored};
