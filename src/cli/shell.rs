//! `hearth shell`: a shell in an image, over a throw-away copy.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::sandbox::Program;

use super::run::ImageArguments;
use super::terminal::Terminal;

/// Start a shell in an image, over a throw-away copy of it
///
/// What is done there is gone when the shell ends.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    image: ImageArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    // bash where the image has it: it is not in every small one.
    let program = Program::new([
        "/bin/sh",
        "-c",
        "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi",
    ]);
    arguments.image.run(program, terminal)
}
