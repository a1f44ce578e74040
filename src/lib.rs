//! hearth: reproducible master images, boot artifacts, network boot and tests for ARM boards.
//!
//! Data flows one way through the modules below; none of them prints, and none of them uses the
//! command line's code (which lives in the binary, under `cli/`).
#![deny(unsafe_code)]

pub mod agent;
pub mod arch;
pub mod archive;
pub mod board;
pub mod build;
pub mod clock;
pub mod data;
pub mod diagnostic;
pub mod dirs;
pub mod doctor;
pub mod error;
pub mod image;
pub mod import;
pub mod initrd;
pub mod input;
pub mod job;
pub mod kernel;
pub mod lab;
pub mod mac;
pub mod media;
pub mod netboot;
pub mod ops;
pub mod output;
pub mod progress;
pub mod recipe;
pub mod rootfs;
pub mod sandbox;
pub mod sanitise;
pub mod seal;
pub mod uboot;

/// Does what hearth has started this process for, if it has, and returns its exit code: the steps that run in its
/// sandbox. A program that builds images calls it before anything else.
pub fn inside() -> Option<anyhow::Result<std::process::ExitCode>> {
    sandbox::inside(&[
        build::SEAL_STEPS,
        build::STEPS,
        doctor::STEPS,
        initrd::STEPS,
        ops::image_tree::STEPS,
        rootfs::STEPS,
        rootfs::configure::STEPS,
        sandbox::STEPS,
    ])
}
