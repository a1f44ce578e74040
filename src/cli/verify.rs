//! `hearth verify`: builds twice from scratch, and compares.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth::build::verify::{self, Verified};
use hearth::image::diff::What;
use hearth::sanitise;

use super::build::{self, NetworkArguments};
use super::terminal::Terminal;

/// How many differing files are named.
const SHOWN: usize = 20;

/// Build a recipe twice from scratch and compare the results
///
/// The builds differ in user (where root calls), umask, time zone, language,
/// directory and number of threads, and in whether maintainer scripts may use
/// native tools. The exit code is 1 if the results differ.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A recipe's name or path
    recipe: String,
    #[command(flatten)]
    network: NetworkArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let plan = build::plan(&arguments.recipe, &arguments.network, terminal)?;
    let executable = std::env::current_exe()?;
    let verified = verify::verify(&executable, &arguments.recipe, &plan, terminal)?;
    if verified.artifacts.is_empty() {
        println!("{}: both builds gave the same bytes", verified.image);
        return Ok(ExitCode::SUCCESS);
    }
    tell(&verified);
    Ok(ExitCode::from(1))
}

fn tell(verified: &Verified) {
    println!("the two builds differ");
    for condition in &verified.conditions {
        println!("  built {}", condition.description);
    }
    for artifact in verified.artifacts.iter().take(SHOWN) {
        println!("! {artifact}");
    }
    for file in verified.files.iter().take(SHOWN) {
        match &file.what {
            What::Added => println!("+ {}", sanitise::line(&file.path)),
            What::Removed => println!("- {}", sanitise::line(&file.path)),
            What::Changed(what) => {
                println!("! {} ({})", sanitise::line(&file.path), what.join(", "))
            }
        }
    }
    match &verified.report {
        Some(report) => println!("diffoscope's report is in {}", report.display()),
        None => println!("install diffoscope for a report of what is different in them"),
    }
}
