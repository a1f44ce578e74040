//! Owns what a user asks for that takes several rooms: one file a use case.
//! Never parses arguments, and never prints.

pub mod agent_layer;
pub mod bisect;
pub mod boot_board;
pub mod bootloader;
mod build_output;
pub mod card;
mod device_lock;
pub mod image_tree;
pub mod import;
pub mod import_boot;
mod import_bootloaders;
mod import_kept;
mod kept_texts;
pub mod lab_runs;
pub mod lock;
pub mod own;
pub mod plan;
pub mod prepared;
pub mod ramdisk;
pub mod reports;
pub mod rerun;
mod run_inputs;
pub mod run_job;
pub mod serve_lab;
mod servers;
pub mod target;
pub mod test_board;

pub use build_output::BuildOutput;
pub use servers::Serving;
